"""A secret in the address of a scene is used to read it, and appears in no output and no message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow.parquet
import pytest
import rasterio
from PIL import Image

from flow_engines import BoxFilterEngine
from terraprompt import Result, SceneError, open_scene, segment
from terraprompt.errors import EngineError
from terraprompt.outputs import save_stac

SECRET = "S3CRET"
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

data = open(sys.argv[1], "rb").read()

class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        asked = urlsplit(self.path)
        known = asked.path == "/scene.tif" and parse_qs(asked.query).get("sig") == [sys.argv[2]]
        self.send_response(200 if known else 403)
        self.send_header("Content-Length", str(len(data) if known else 0))
        self.end_headers()
        return known

    def do_GET(self):
        if self.do_HEAD():
            self.wfile.write(data)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a scene that is served only to whoever knows the signature; ``x`` is a harmless part of the query."""
    path = tmp_path_factory.mktemp("served") / "scene.tif"
    grey = np.full((1, 60, 80), 20, np.uint8)
    grey[:, 10:40, 20:50] = 230
    profile = {"driver": "GTiff", "count": 1, "width": 80, "height": 60, "dtype": "uint8", "crs": "EPSG:32631"}
    with rasterio.open(path, "w", **profile, transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)) as file:
        file.write(grey)
    # In its own process: GDAL keeps the interpreter to itself while it waits.
    with subprocess.Popen([sys.executable, "-c", SERVER, path, SECRET], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/scene.tif?x=1&sig={SECRET}"
        server.kill()


@pytest.fixture(scope="module")
def result(address: str) -> Iterator[Result]:
    with segment(address, "the bright parts", engine=BoxFilterEngine(radius=0), stretch="none") as result:
        assert len(result.objects) == 1
        yield result


def text_of(path: Path) -> str:
    """All that a file says in words, compressed or not."""
    words = path.read_bytes().decode("latin-1")
    if path.suffix in (".tif", ".png", ".jpg"):
        with rasterio.open(path) as file:
            words += json.dumps([file.tags(), file.tags(1)])
    if path.suffix in (".png", ".jpg"):
        with Image.open(path) as picture:
            words += str(picture.info)
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        words += str(table.schema.metadata) + str(table.column("source").to_pylist())
    return words


SAVES: dict[str, Callable[[Result, Path], Path]] = {
    **{name: lambda result, path: result.save_mask(path) for name in ("m.tif", "m.png")},
    "p.tif": lambda result, path: result.save_mask(path, probability=True),
    **{f"v{s}": lambda result, path: result.save_vector(path) for s in (".gpkg", ".geojson", ".fgb", ".parquet")},
    **{name: lambda result, path: result.save_picture(path) for name in ("o.png", "o.jpg")},
    "s.json": lambda result, path: save_stac(result, path, {"mask": "m.tif"}),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", SAVES)
def test_no_output_holds_the_secret(name: str, result: Result, tmp_path: Path) -> None:
    words = text_of(SAVES[name](result, tmp_path / name))
    assert SECRET not in words
    if name != "o.jpg":  # holds no provenance
        assert "sig=***" in words


def test_neither_the_result_nor_the_scene_shows_it(result: Result, address: str) -> None:
    assert SECRET not in str(result.provenance)
    with open_scene(address) as scene:
        assert SECRET not in repr(scene)
        assert scene.source == address.replace(SECRET, "***")
    with pytest.raises(SceneError) as caught:
        scene.read(0, 0, 1, 1)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("where", ["missing", "forbidden", "vsicurl"])
def test_messages_about_a_scene_that_does_not_open(where: str, address: str) -> None:
    hidden = quote(address.replace("scene", "no"), safe="")
    source = {
        "missing": address.replace("scene.tif", "nothing.tif"),
        "forbidden": address.replace("sig=", "token="),
        "vsicurl": f"/vsicurl?header.Authorization=Bearer {SECRET}&url={hidden}",
    }[where]
    with pytest.raises(SceneError) as caught:
        open_scene(source)
    told = caught.value
    while told is not None:
        assert SECRET not in str(told)
        told = told.__cause__


def test_messages_of_an_engine_that_fails(address: str) -> None:
    def spoil(logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of order")

    with pytest.raises(EngineError) as caught:
        segment(address, "the bright parts", engine=BoxFilterEngine(spoil=spoil), stretch="none")
    assert "sig=***" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_local_file_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a?sig=x.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, width=2, height=2, dtype="uint8") as file:
        file.write(np.ones((1, 2, 2), np.uint8))
    with open_scene(path) as scene:
        assert scene.source == str(path)
