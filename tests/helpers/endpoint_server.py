"""A real HTTP server that plays an OpenAI-compatible endpoint, with scripted behaviour."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from terraprompt.vlm import probe

__all__ = ["Asked", "EndpointServer", "Raw", "Say", "Status", "endpoint_server", "forget_probes"]


@dataclass(frozen=True)
class Say:
    """A chat completion.

    ``usage`` None = the server does not count; ``message`` replaces the whole message; ``after`` seconds first.
    """

    text: str = ""
    finish: str = "stop"
    usage: tuple[int, int] | None = (100, 20)
    message: dict[str, Any] | None = None
    after: float = 0.0


@dataclass(frozen=True)
class Status:
    """A refusal or a fault."""

    code: int
    said: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Bytes as they are; ``drip`` seconds between them, one by one; ``length`` = a lie about how many there are."""

    body: bytes
    kind: str = "application/json"
    drip: float = 0.0
    length: int | None = None


Behaviour = Say | Status | Raw


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def words(self) -> str:
        """The text of the first message."""
        return "".join(part.get("text", "") for part in self.body["messages"][0]["content"])

    @property
    def image(self) -> np.ndarray:
        """The picture that came along, uint8 (H, W, 3)."""
        (url,) = [p["image_url"]["url"] for p in self.body["messages"][0]["content"] if p["type"] == "image_url"]
        kind, _, data = url.partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert kind == f"data:image/{picture.format.lower()}"
            return np.asarray(picture.convert("RGB"))


class EndpointServer:
    """Answers chat requests by its script: behaviours one after the other (the last again and again), or a function.

    Attributes:
        script: may be replaced at any time.
        asked: chat requests, in order.
        models: what GET /v1/models lists.
    """

    def __init__(self, script: Sequence[Behaviour] | Callable[[Asked], Behaviour] = (Say(),)) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.models = [{"id": "qwen2.5-vl-test", "object": "model", "owned_by": "vllm"}]
        self._lock = threading.Lock()
        self._done = 0

    @property
    def url(self) -> str:
        """With /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def next(self, asked: Asked) -> Behaviour:
        """What to do with a request."""
        with self._lock:
            self.asked.append(asked)
            script = self.script
            if not callable(script):
                self._done += 1
                return script[min(self._done, len(script)) - 1]
        return script(asked)

    def play(self, *script: Behaviour) -> None:
        """Start a new script."""
        with self._lock:
            self.script, self._done = script, 0
            self.asked.clear()

    @property
    def about_scene(self) -> list[Asked]:
        """Requests that are no probe, in order."""
        return [asked for asked in self.asked if probe.PROBE_TEXT not in asked.words]

    @property
    def accepted(self) -> list[Asked]:
        """Requests that got a completion, in order."""
        return [asked for asked in self.asked if isinstance(self.script(asked) if callable(self.script) else None, Say)]

    port: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    play: EndpointServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, json.dumps({"object": "list", "data": self.play.models}).encode())
        else:
            self._send(404, b'{"error": {"message": "no such page"}}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.partition("?")[0] != "/v1/chat/completions":
            self._send(404, b'{"detail": "Not Found"}')
            return
        behaviour = self.play.next(Asked(self.path, dict(self.headers), body))
        if isinstance(behaviour, Status):
            self._send(behaviour.code, json.dumps({"error": {"message": behaviour.said}}).encode(), behaviour.headers)
        elif isinstance(behaviour, Raw):
            self._raw(behaviour)
        else:
            time.sleep(behaviour.after)
            self._send(200, json.dumps(_completion(behaviour)).encode())

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(code)
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def _raw(self, raw: Raw) -> None:
        self.close_connection = True
        try:
            self.send_response(200)
            self.send_header("Content-Type", raw.kind)
            self.send_header("Content-Length", str(len(raw.body) if raw.length is None else raw.length))
            self.end_headers()
            if not raw.drip:
                self.wfile.write(raw.body)
            for byte in raw.body if raw.drip else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(raw.drip)
        except OSError:  # the client has gone
            pass


def _completion(say: Say) -> dict[str, Any]:
    message = say.message if say.message is not None else {"role": "assistant", "content": say.text}
    out: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": "test"}
    out["choices"] = [{"index": 0, "message": message, "finish_reason": say.finish}]
    if say.usage is not None:
        out["usage"] = {"prompt_tokens": say.usage[0], "completion_tokens": say.usage[1]}
    return out


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the play."""


def forget_probes() -> None:
    """Let each reasoner be probed again."""
    probe._settled.clear()


@contextmanager
def endpoint_server(script: Sequence[Behaviour] | Callable[[Asked], Behaviour] = (Say(),)) -> Iterator[EndpointServer]:
    """A running server on a free port of this machine."""
    play = EndpointServer(script)
    forget_probes()  # a port may serve again
    httpd = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"play": play}))
    play.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield play
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
