"""Every page of help fits a terminal of 80 columns, in cells that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from terraprompt.cli import main
from terraprompt.cli.help import HelpCommand, HelpGroup
from terraprompt.cli.root import VERBS, app, load_verb


def pages(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from pages((*path, name), verb)


PAGES = dict(page for name in VERBS for page in pages((name,), load_verb(name)))


def show(capsys: pytest.CaptureFixture[str], *path: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*path, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_a_page_fits_80_columns_and_breaks_no_word(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    page = show(capsys, *path)
    lines = page.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(line[-4:] for line in lines if line.startswith("│"))  # nothing is cut by its cell
    words = set(page.split())
    for param in PAGES[path].params:
        if getattr(param, "hidden", False):
            continue
        names = (*param.opts, *param.secondary_opts) if param.param_type_name == "option" else (param.metavar or "",)
        assert all(not name or name in words or f"{name}," in words for name in names), names
        assert set((param.help or "").replace("``", "`").split()) <= words, param.name


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_the_texts_of_options_have_room(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A text that goes on in the next line has filled the column of this one, save before a long word."""
    lines = show(capsys, *path).splitlines()
    for line, below in pairwise(lines):
        goes_on = below.startswith("│ " + " " * 28) and below.strip("│ ")
        text = line[30:].strip("│ ") if line[28:30] == "  " else ""
        if goes_on and text:
            assert len(text) + 1 + len(below.strip("│ ").split()[0]) > 45, (line, below)


def test_every_command_prints_such_pages() -> None:
    assert all(isinstance(command, HelpCommand | HelpGroup) for command in PAGES.values())
    assert len(PAGES) > 20


def test_the_root_names_every_verb_with_its_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    page = show(capsys)
    assert max(map(len, page.splitlines())) <= 80
    words = set(page.split())
    assert all({name, *text.split()} <= words for name, text in VERBS.items())
    assert set((app.info.epilog or "").split()) <= words


@pytest.mark.parametrize("columns", ["40", "60", "100", "200"])
def test_other_widths(columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, show(capsys, "segment").splitlines())) <= min(int(columns), 100)


def test_options_of_segment_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    page = show(capsys, "segment")
    titles = [line.strip("╭─╮ ") for line in page.splitlines() if line.startswith("╭")]
    assert titles == [
        "Arguments", "Outputs", "What to find, beside INSTRUCTION", "Options", "Scene", "Objects",
        "Engines think2seg and geoseg", "Engine geoseg",
    ]  # fmt: skip
