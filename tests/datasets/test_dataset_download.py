"""Downloads from a hub that is a real HTTP server: checksums, breaks on the way, archives, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import layout_copies as copies
from terraprompt.datasets.download import download
from terraprompt.datasets.registry import layout_of, open_dataset
from terraprompt.errors import DatasetError

COMMIT = "c0ffee" * 6 + "beef"


@dataclass
class Hub:
    """What a hub would serve, and what it was asked for."""

    repo: str
    files: dict[str, bytes]
    spoiled: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    """After so many bytes the connection is closed, once."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
            if name.endswith((".zip", ".png", ".jpg")):
                entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append(entry)
        return {"id": self.repo, "sha": COMMIT, "siblings": siblings}


def serve(hub: Hub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            begins = f"/datasets/{hub.repo}/resolve/{COMMIT}/"
            if path in (f"/api/datasets/{hub.repo}", f"/api/datasets/{hub.repo}/revision/main"):
                self.reply(200, json.dumps(hub.info()).encode())
            elif path.startswith(begins) and (name := path.removeprefix(begins)) in hub.files:
                wanted = self.headers.get("Range")
                data = hub.files[name]
                if self.command == "GET":
                    hub.asked.append((name, wanted))
                if name in hub.spoiled:
                    data = bytes(len(data))
                first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
                last = hub.broken.pop(name, None) if self.command == "GET" else None
                self.reply(206 if wanted else 200, data[first:], f"bytes {first}-{len(data) - 1}/{len(data)}", last)
            else:
                self.reply(404, b"{}")

        def reply(self, code: int, body: bytes, span: str | None = None, last: int | None = None) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", hashlib.sha1(body).hexdigest())
            if code == 206 and span:
                self.send_header("Content-Range", span)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:last])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    return server


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """EarthReason as single files."""
    root = copies.earthreason(tmp_path / "upstream")
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hub = Hub(layout_of("earthreason").hub or "", {"README.md": b"card", **files})
    server = serve(hub)
    yield hub
    server.shutdown()
    server.server_close()


def test_a_data_set_comes_whole_and_only_once(tmp_path: Path, hub: Hub) -> None:
    told: list[tuple[int, int]] = []
    total = sum(map(len, hub.files.values()))
    here = tmp_path / "new/copy"
    got = download("earthreason", here, endpoint=hub.url, jobs=2, progress=lambda *now: told.append(now))
    assert (got.root, got.revision, got.files, got.fetched) == (here, COMMIT, len(hub.files), total)
    assert told[-1] == (total, total)
    copied = {p.relative_to(here).as_posix(): p.read_bytes() for p in here.rglob("*") if p.is_file()}
    assert {name: data for name, data in copied.items() if not name.startswith(".cache/")} == hub.files
    assert len(open_dataset("earthreason", got.root).samples) == 3
    hub.asked.clear()
    assert download("earthreason", here, endpoint=hub.url).fetched == 0
    assert hub.asked == []


def test_a_broken_connection_is_tried_again_and_a_changed_file_is_replaced(tmp_path: Path, hub: Hub) -> None:
    half, changed = "test/images/b_2.jpg", "test/QAs/b_2.json"
    (tmp_path / changed).parent.mkdir(parents=True)
    (tmp_path / changed).write_bytes(b"x")
    hub.broken[half] = 100
    got = download("earthreason", tmp_path, endpoint=hub.url)
    assert [name for name, _ in hub.asked].count(half) == 2
    assert got.fetched == sum(map(len, hub.files.values()))
    assert all((tmp_path / name).read_bytes() == data for name, data in hub.files.items())
    (tmp_path / changed).write_bytes(b"y")  # after the client has noted it as fetched
    assert download("earthreason", tmp_path, endpoint=hub.url).fetched == len(hub.files[changed])
    assert (tmp_path / changed).read_bytes() == hub.files[changed]


@pytest.mark.parametrize("name", ["test/images/b_2.jpg", "test/QAs/b_2.json"])
def test_a_wrong_checksum_is_an_error_and_leaves_nothing(tmp_path: Path, hub: Hub, name: str) -> None:
    hub.spoiled.add(name)
    with pytest.raises(DatasetError, match="checksum is not the hub's") as caught:
        download("earthreason", tmp_path / "copy", endpoint=hub.url)
    assert name in str(caught.value)
    assert not (tmp_path / "copy" / name).exists()
    assert not list((tmp_path / "copy").rglob("*.incomplete"))
    hub.spoiled.clear()
    assert (
        len(open_dataset("earthreason", download("earthreason", tmp_path / "copy", endpoint=hub.url).root).samples) == 3
    )


def test_an_archive_is_unpacked_and_its_folder_found(tmp_path: Path) -> None:
    root = copies.refsegrs(tmp_path / "upstream/RefSegRS")
    archive = tmp_path / "RefSegRS.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(root.rglob("*")):
            packed.write(path, path.relative_to(root.parent))
    hub = Hub("JessicaYuan/RefSegRS", {"RefSegRS.zip": archive.read_bytes()})
    server = serve(hub)
    try:
        got = download("refsegrs", tmp_path / "copy", endpoint=hub.url)
        assert got.root == tmp_path / "copy/RefSegRS"
        assert len(open_dataset("refsegrs", got.root).samples) == 4
        (got.root / "masks/0001.tif").unlink()
        download("refsegrs", tmp_path / "copy", endpoint=hub.url)
        assert (got.root / "masks/0001.tif").is_file()
        assert len(hub.asked) == 1
        damaged = bytearray(hub.files["RefSegRS.zip"])
        damaged[60:90] = bytes(30)
        hub.files["RefSegRS.zip"] = bytes(damaged)
        with pytest.raises(DatasetError, match="cannot be unpacked"):
            download("refsegrs", tmp_path / "other", endpoint=hub.url)
        hub.files["RefSegRS.zip"] = b"PK\x05\x06" + bytes(18)  # an empty archive
        with pytest.raises(DatasetError, match="its layout is not the one"):
            download("refsegrs", tmp_path / "third", endpoint=hub.url)
    finally:
        server.shutdown()
        server.server_close()


def test_a_hub_cannot_write_outside(tmp_path: Path, hub: Hub) -> None:
    hub.files["../../outside.txt"] = b"x"
    with pytest.raises(DatasetError, match="outside the data set"):
        download("earthreason", tmp_path / "a/copy", endpoint=hub.url)
    assert hub.asked == []


def test_what_is_not_on_the_hub_says_where_it_is(tmp_path: Path) -> None:
    for name in ("rrsis-d", "risbench", "dior-rsvg", "sior", "geoseg-1m", "pack"):
        with pytest.raises(DatasetError, match="is not on the hub") as caught:
            download(name, tmp_path / name)
        assert layout_of(name).where in str(caught.value)
        assert not (tmp_path / name).exists()


def test_no_connection_and_no_such_revision(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(DatasetError, match="download failed"):
        download("earthreason", tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(DatasetError, match="download failed"):
        download("earthreason", tmp_path, revision="nobody", endpoint=hub.url)
