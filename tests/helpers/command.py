"""The command line in this process: ``run("segment", path, ...)`` and how it ended."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from terraprompt.cli import main

__all__ = ["Outcome", "run"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """stderr as running text, without the frame round usage errors."""
        return " ".join(re.sub("[─│╭╮╰╯]", " ", self.err).split())

    @property
    def json(self) -> Any:
        """stdout, all of it, as JSON."""
        return json.loads(self.out, parse_constant=pytest.fail)


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Outcome]:
    """``run("segment", path, ...)``: the command in this process; work files must be gone afterwards."""
    work = tmp_path_factory.mktemp("work")
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert list(work.glob("terraprompt-*")) == []
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else 0, out, err)

    return call
