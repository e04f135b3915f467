"""A kept embedding is used again only where nothing that it depends on has changed."""

from __future__ import annotations

import os
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from flow_engines import BoxFilterEngine
from terraprompt.flow.session import Session
from terraprompt.raster import open_scene
from terraprompt.raster.source import source_version


def write(path: Path, seed: int = 0) -> Path:
    grey = np.random.default_rng(seed).integers(1, 255, (3, 90, 180), dtype=np.uint8)
    profile = {"crs": "EPSG:32633", "transform": from_origin(5e5, 54e5, 0.5, 0.5)}
    with rasterio.open(path, "w", width=180, height=90, count=3, dtype="uint8", **profile) as out:
        out.write(grey)
    return path


def vrt(path: Path, source: Path) -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename>{source}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="180" rasterYSize="90">{bands}</VRTDataset>')
    return path


def encoded(path: Path, folder: Path, *, stretch: str = "none", bbox=None, radius: int = 7) -> int:
    """Tiles that a new session has to encode."""
    engine = BoxFilterEngine(radius=radius)
    with open_scene(path, bbox=bbox, bbox_crs="pixel" if bbox else None) as scene:
        Session(engine, scene, stretch=stretch, cache_dir=folder).predict_mask("bright")
    return len(engine.encoded)


@pytest.mark.parametrize(
    "change", [{"stretch": "percentile"}, {"bbox": (3, 0, 93, 90)}, {"radius": 3}], ids=["stretch", "offset", "model"]
)
def test_another_stretch_offset_or_model_setting_encodes_anew(tmp_path, change):
    path, folder = write(tmp_path / "a.tif"), tmp_path / "cache"
    usual = {"bbox": (0, 0, 90, 90)}
    assert encoded(path, folder, **usual) == 1
    assert encoded(path, folder, **usual) == 0
    assert encoded(path, folder, **usual | change) == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_a_vrt_whose_member_changed_is_encoded_anew(tmp_path, depth):
    source = write(tmp_path / "a.tif")
    path = source
    for level in range(depth):
        path = vrt(tmp_path / f"{level}.vrt", path)
    count = encoded(path, tmp_path / "cache")
    assert count > 0
    assert encoded(path, tmp_path / "cache") == 0
    before = source.stat()
    write(source, seed=1)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert encoded(path, tmp_path / "cache") == count


class _Head(BaseHTTPRequestHandler):
    def __init__(self, headers, *args):
        self.told = headers
        super().__init__(*args)

    def do_HEAD(self):
        self.send_response(200)
        for key, value in self.told.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_a_remote_source_goes_by_what_its_server_says():
    headers = {"ETag": '"one"'}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Head, headers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name = f"/vsicurl/http://127.0.0.1:{server.server_port}/a.tif"
    try:
        first = source_version([name])
        assert source_version([name]) == first
        headers["ETag"] = '"two"'
        assert source_version([name]) != first
        headers.clear()
        assert source_version([name]) != source_version([name])
    finally:
        server.shutdown()
        server.server_close()
