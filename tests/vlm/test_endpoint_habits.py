"""What servers do with replies and requests: streams, tool calls, refused fields, addresses, models without eyes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from endpoint_server import Asked, Behaviour, EndpointServer, Raw, Say, Status, endpoint_server
from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.ask import ask
from terraprompt.vlm.conventions import family_convention
from terraprompt.vlm.endpoint import EndpointReasoner, connect
from terraprompt.vlm.transport import ServerConfig

IMAGE = np.full((256, 448, 3), 90, np.uint8)
ANSWER = '```json\n[{"bbox_2d": [246, 254, 672, 805], "label": "building"}]\n```'
BOX = (110.2, 65.0, 301.1, 206.1)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


def reasoner(server: EndpointServer, model: str = "qwen3-vl-8b", **settings: Any) -> EndpointReasoner:
    settings.setdefault("convention", replace(family_convention(model), assumed=False))
    return connect(server.url, model, server={"retries": 1, "backoff": 0.01}, **settings)


def found(server: EndpointServer, *script: Behaviour, model: str = "qwen3-vl-8b") -> tuple[str, ...]:
    """Notes of a reading that found the building with one question."""
    server.play(*script)
    got = ask(reasoner(server, model), IMAGE, "the building")
    assert got.status == "found", got.reason
    assert got.targets[0].box == pytest.approx(BOX, abs=0.2)
    assert len(got.replies) == 1
    return got.notes


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": f"There is one roof. {ANSWER}"},
        {"content": None, "reasoning": f"There is one roof.</think>{ANSWER}"},
        {"reasoning": f"<think>There is one roof. Draft: [].</think>\n{ANSWER}"},
        {"content": "\n", "reasoning_content": f"There is one roof. <answer>{ANSWER}</answer>"},
        {"content": [], "reasoning_content": ANSWER},
    ],
)
def test_the_whole_answer_in_the_reasoning_field(server: EndpointServer, message: dict[str, Any]) -> None:
    assert any("check the server's reasoning parser" in note for note in found(server, Say(message=message)))


def test_reasoning_without_an_answer_says_where_to_look(server: EndpointServer) -> None:
    server.play(Say(message={"content": None, "reasoning_content": "I am still thinking"}))
    got = ask(reasoner(server), IMAGE, "the building")
    assert got.status == "failed"
    assert "check the server's reasoning parser" in got.reason


@pytest.mark.parametrize("arguments", [f"[{ANSWER[9:-5]}]", json.loads(ANSWER[8:-4])])
def test_the_arguments_of_a_tool_call_are_the_answer(server: EndpointServer, arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "answer", "arguments": arguments}}
    notes = found(server, Say(message={"content": None, "tool_calls": [call]}, finish="tool_calls"))
    assert any("tool call" in note for note in notes)


def stream(*deltas: dict[str, Any], end: str = "data: [DONE]\n\n") -> Raw:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return Raw(("".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + end).encode(), "text/event-stream")


def test_a_streamed_reply_is_put_together(server: EndpointServer) -> None:
    parts = [{"content": ANSWER[i : i + 7]} for i in range(0, len(ANSWER), 7)]
    found(server, stream({"role": "assistant"}, {"reasoning_content": "one"}, *parts))


def test_a_stream_that_is_cut_is_asked_again(server: EndpointServer) -> None:
    server.play(stream({"content": ANSWER[:40]}, end=""), stream({"content": ANSWER}))
    assert ask(reasoner(server), IMAGE, "the building").status == "found"
    assert len(server.asked) == 2


def refusing(*rules: tuple[str, Behaviour]) -> Callable[[Asked], Behaviour]:
    def answer(asked: Asked) -> Behaviour:
        return next((said for field, said in rules if field in asked.body), Say(ANSWER))

    return answer


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ([("max_tokens", "Unsupported parameter: max_tokens; use max_completion_tokens.")], "max_completion_tokens"),
        ([("max_tokens", "Unrecognized request argument supplied: max_tokens")], "max_completion_tokens"),
        ([("temperature", "temperature: only the default value is supported.")], "max_tokens"),
        ([("temperature", "'temperature' does not support 0.0 with this model.")], "max_tokens"),
        ([("max_tokens", "unknown field max_tokens"), ("max_completion_tokens", "extra: max_completion_tokens")], None),
        ([("max_tokens", "use 'max_completion_tokens' instead"), ("temperature", "temperature is deprecated")], None),
    ],
)
def test_a_refused_field_is_left_out_and_that_is_remembered(
    server: EndpointServer, rules: list[tuple[str, str]], kept: str | None
) -> None:
    server.script = refusing(*[(field, Status(400, said)) for field, said in rules])
    asking = reasoner(server)
    assert ask(asking, IMAGE, "the building").status == "found"
    first = len(server.asked)
    assert first == len(rules) + 1
    assert not {field for field, _ in rules} & server.asked[-1].body.keys()
    assert kept is None or kept in server.asked[-1].body
    assert ask(asking, IMAGE, "the house").status == "found"
    assert len(server.asked) == first + 1
    assert bool(asking.remarks) is (rules[-1][0] == "temperature" or len(rules) == 2)


def test_a_value_that_is_refused_is_not_left_out(server: EndpointServer) -> None:
    server.script = refusing(("max_tokens", Status(400, "max_tokens is too large: 2048 > 1024")))
    got = ask(reasoner(server, structured="off"), IMAGE, "the building")
    assert (got.status, len(server.asked)) == ("failed", 1)
    assert "too large" in got.reason


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (400, "At most 0 image(s) may be provided in one prompt."),
        (400, "qwen2.5-7b is not a multimodal model"),
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
        (500, "this model is missing data required for image input"),
        (404, "No endpoints found that support image input"),
        (400, "Invalid content type. image_url is only supported by certain models."),
        (422, "unknown variant `image_url`, expected `text`"),
        (400, "Model does not support images. Please use a vision model."),
        (503, "Vision is not enabled for this model"),
    ],
)
def test_a_text_only_server_is_named_at_once(server: EndpointServer, code: int, said: str) -> None:
    server.play(Status(code, said))
    got = ask(reasoner(server), IMAGE, "the building")
    assert (got.status, len(server.asked)) == ("failed", 1)
    assert "takes no pictures" in got.reason
    assert "reasoner check" not in got.reason


def test_another_trouble_with_a_picture_is_not_blindness(server: EndpointServer) -> None:
    server.play(Status(400, "The image format is not supported"))
    assert "takes no pictures" not in ask(reasoner(server), IMAGE, "the building").reason


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://x.example/openai/deployments/g?api-version=2024-06-01", None),
        (
            "https://x.example/openai/deployments/g/chat/completions?api-version=2024-06-01",
            "https://x.example/openai/deployments/g?api-version=2024-06-01",
        ),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
    ],
)
def test_addresses(given: str, kept: str | None) -> None:
    assert ServerConfig(given).base_url == (kept or given)


def test_a_version_in_the_address_is_sent_and_a_key_is_not_accepted(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAPROMPT_REASONER_KEY", "secret-key-1")
    asking = connect(f"{server.url}?api-version=2024-06-01", "qwen3-vl", server={"retries": 0})
    server.play(Say(ANSWER))
    assert ask(asking, IMAGE, "the building").status == "found"
    assert server.asked[0].path == "/v1/chat/completions?api-version=2024-06-01"
    assert {k.lower(): v for k, v in server.asked[0].headers.items()}["api-key"] == "secret-key-1"
    with pytest.raises(ConfigError, match="plain address") as raised:
        ServerConfig("https://x.example/v1?api-version=1&key=hush")
    assert "hush" not in str(raised.value)


def test_an_unreachable_server(server: EndpointServer) -> None:
    server.play(Status(503, "busy"))
    with pytest.raises(ReasonerError) as raised:
        reasoner(server).chat("hello")
    assert "reasoner check" not in str(raised.value)
