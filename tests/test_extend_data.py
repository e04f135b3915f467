"""The pages on layouts and metrics: their code is installed as a stranger would, and used by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extend_pages import environment, install, install_page

#: Marks what is bright in the left half of an image.
ENGINE = """
import numpy as np
from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.prompt import Task


class Left:
    name = "left"
    tile = TileSpec(size=64, overlap=0, multiple=1, batch=1)
    tasks = frozenset({Task.REFERRING})
    info = ModelInfo("left", "1")

    def encode(self, images):
        return [Embedding(i.shape[:2], i[..., 0].astype(np.float32), i.nbytes) for i in images]

    def predict(self, embeddings, prompts):
        left = np.arange(64) < 32
        return [Answer(np.where(left, e.data - 128, -9).astype("f4")) for e in embeddings]
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run("dataset", "list")``: the command line with what is installed in the folder ``site``."""
    site = tmp_path / "site"
    install_page(site, "layout.md")
    install(site, "left", ENGINE, "terraprompt.engines", "left:Left")

    def call(*arguments: object, module: str = "terraprompt") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(command, env=environment(site), cwd=tmp_path, capture_output=True, text=True)

    return call


@pytest.fixture
def ponds(tmp_path: Path) -> Path:
    """A copy with one sample of two bright squares, the smaller one on the right."""
    value = np.zeros((64, 64), np.uint8)
    value[8:24, 8:24] = value[50:60, 50:60] = 200
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (folder := tmp_path / "copy/test" / kind).mkdir(parents=True)
        Image.fromarray(value).convert(mode).save(folder / "mill-1.png")
    return tmp_path / "copy"


def test_a_layout_is_listed_and_checked(run: Callable[..., Any], ponds: Path) -> None:
    listed = json.loads(run("dataset", "list", "--json").stdout)
    assert [entry["title"] for entry in listed if entry["name"] == "ponds"] == ["Ponds"]
    assert len(listed) > 10
    whole = run("dataset", "check", ponds, "--dataset", "ponds")
    assert (whole.returncode, whole.stdout) == (0, "")
    (ponds / "test/masks/mill-1.png").unlink()
    broken = run("dataset", "check", ponds, "--dataset", "ponds")
    assert (broken.returncode, broken.stdout) == (1, f"{ponds}/test/masks/mill-1.png: the mask is missing\n")


def test_a_layout_is_evaluated_by_an_installed_metric(run: Callable[..., Any], ponds: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", "--dataset", "ponds", "--root", ponds, "-e", "left")
    done = run(*evaluate, "-o", "plain")
    assert done.returncode == 0, done.stderr
    assert "found_objects" not in done.stdout
    unknown = run(*evaluate, "-o", "other", "--metric", "found_objects")
    assert unknown.returncode == 1
    assert "There is no such metric. Received: found_objects." in " ".join(unknown.stderr.split())
    install_page(tmp_path / "site", "metric.md")
    done = run(*evaluate, "--rescore", "plain", "-o", "again", "--metric", "found_objects")
    assert done.returncode == 0, done.stderr
    assert "| found_objects | 50.00 |" in done.stdout
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert summary["scores"]["overall"]["metrics"]["found_objects"]["value"] == 0.5
    assert "found_objects" in (tmp_path / "again/report.html").read_text()
    (row,) = map(json.loads, (tmp_path / "again/scores.jsonl").read_text().splitlines())
    assert (row["source"], row["truth"], row["intersection"]) == ("ponds", 16 * 16 + 10 * 10, 16 * 16)


def test_an_option_of_a_layout(run: Callable[..., Any], ponds: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(
        "from terraprompt.datasets import open_dataset\n"
        "print(open_dataset('ponds', 'copy', phrase='all of {name}').samples[0].instructions)\n"
    )
    assert run(module="ask").stdout == "('all of mill',)\n"


@pytest.mark.parametrize(
    ("group", "target", "arguments", "message"),
    [
        ("terraprompt.layouts", "broken:gone", ("dataset", "list"), '"broken" of terraprompt.layouts cannot be'),
        ("terraprompt.layouts", "broken:NAME", ("dataset", "list"), '"broken" of terraprompt.layouts is no Layout'),
        ("terraprompt.metrics", "broken:NAME", ("--metric", "broken"), 'The metric "broken" is no function'),
        ("terraprompt.metrics", "broken:nan", ("--metric", "broken"), "a metric is not a finite number"),
    ],
)  # fmt: skip
def test_a_broken_extension_is_named(
    run: Callable[..., Any], ponds: Path, tmp_path: Path, group: str, target: str, arguments: Any, message: str
) -> None:
    code = "NAME = 'broken'\ndef nan(*_):\n    return float('nan')\n"
    install(tmp_path / "site", "broken", code, group, target)
    if arguments[0] == "--metric":
        arguments = ("evaluate", "--dataset", "ponds", "--root", ponds, "-e", "left", "-o", "run", *arguments)
    done = run(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.split())
