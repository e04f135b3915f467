"""Every block of README.md runs as it stands, in order; what needs more than the package says so in its first line."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import run
from terraprompt_synthetic import demo_scene

__all__ = ["run"]

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(), re.DOTALL)
NEEDS = re.compile(r"# needs a (?:clone|language model|copy of the data set)|# needs (?:labels|masks) of your own")


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block as lists of words."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_block_is_run_or_says_what_it_needs() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}
    for kind, block in BLOCKS:
        if kind == "bash" and not NEEDS.match(block):
            assert all(words[0] == "terraprompt" for words in commands(block)), block


def test_the_blocks_run_in_order(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = sys.modules[demo_scene.__module__]
    whole = renderer._render  # type: ignore[attr-defined]
    # the demo's town on the same ground, in pixels of twice the side
    monkeypatch.setattr(renderer, "_render", lambda seed, w, h, gsd, style: whole(seed, w // 2, h // 2, 2 * gsd, style))
    monkeypatch.chdir(tmp_path)
    done = 0
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {})
            done += 1
        elif not NEEDS.match(block):
            for words in commands(block):
                ended = run(*words[1:])
                assert ended.code == 0, (words, ended.err)
                done += 1
    assert done >= 10
    assert {"lake.png", "m.gpkg", "house.tif", "solar.parquet", "the lake.tif"} <= {p.name for p in tmp_path.iterdir()}
