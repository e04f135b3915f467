"""Help is printed without what only the work needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from terraprompt.cli.root import VERBS, load_verb

HEAVY = "numpy scipy torch transformers rasterio pyproj pyogrio pandas pyarrow shapely pydantic PIL httpx2"
HELP = """
import sys
from terraprompt.cli import main

for verb in ([], *([name] for name in sys.argv[2:])):
    try:
        main([*verb, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
    print("loaded by", *verb, sorted(set(sys.argv[1].split()) & set(sys.modules)))
"""


def loaded_by_help(*verbs: str, of: str) -> list[str]:
    """Print the root's page of help and those of verbs in a new process; say after each which modules are there."""
    command = [sys.executable, "-c", HELP, of, *verbs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage:") == 1 + len(verbs)
    return [line for line in done.stdout.splitlines() if line.startswith("loaded by")]


def test_the_root_s_help_loads_none_of_the_libraries() -> None:
    assert loaded_by_help(of=HEAVY) == ["loaded by []"]


def test_a_verb_s_help_loads_none_of_the_libraries() -> None:
    """Pydantic is typer's own; evaluate names protocols and metrics, which are code."""
    verbs = [verb for verb in VERBS if verb != "evaluate"]
    found = loaded_by_help(*verbs, of=HEAVY.replace("pydantic ", ""))
    assert found == ["loaded by []", *(f"loaded by {verb} []" for verb in verbs)]


def test_a_verb_s_help_loads_no_models_and_no_renderer() -> None:
    found = loaded_by_help(*VERBS, of="torch transformers terraprompt_synthetic")
    assert found == ["loaded by []", *(f"loaded by {verb} []" for verb in VERBS)]


@pytest.mark.parametrize("verb", VERBS)
def test_the_line_of_a_verb_is_the_first_paragraph_of_its_help(verb: str) -> None:
    assert VERBS[verb] == " ".join(load_verb(verb).help.split("\n\n")[0].split())


def test_an_unknown_verb(run: Callable[..., Any]) -> None:
    done = run("segmnt", "x.tif")
    assert done.code == 2
    assert "Did you mean 'segment'?" in done.said
