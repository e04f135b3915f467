"""Fingerprints of code change with what a module depends on, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from terraprompt.io import identity

FILES = {
    "__init__.py": "",
    "first.py": "from terraprompt.rooms.second import double\n",
    "rooms/__init__.py": "from terraprompt.rooms.third import three\n",
    "rooms/second.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from terraprompt.typed import Typed\n"
        'TABLE = "words.toml"\n'
        "def double():\n    from terraprompt.late import late\n"
    ),
    "rooms/third.py": "three = 3\n",
    "rooms/words.toml": "a = 1\n",
    "rooms/other.toml": "a = 1\n",
    "late.py": "import terraprompt.first\nlate = 1\n",
    "typed.py": "class Typed: ...\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "terraprompt"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(identity, "_ROOT", root)
    return root


def test_sources_that_are_run_and_data_that_they_name_belong_to_a_module(package: Path) -> None:
    found = {path.relative_to(package).as_posix() for path in identity.code_files("terraprompt.first")}
    assert found == {"first.py", "rooms/second.py", "rooms/words.toml", "late.py"}


@pytest.mark.parametrize("name", ["first.py", "rooms/second.py", "rooms/words.toml", "late.py"])
def test_a_change_of_what_is_used_changes_the_fingerprint(package: Path, name: str) -> None:
    before = identity.code_fingerprint("terraprompt.first")
    assert identity.code_fingerprint("terraprompt.first") == before
    (package / name).write_text(FILES[name] + "# changed\n")
    assert identity.code_fingerprint("terraprompt.first") != before


@pytest.mark.parametrize("name", ["rooms/third.py", "rooms/other.toml", "rooms/__init__.py", "typed.py"])
def test_a_change_of_what_is_not_used_leaves_it(package: Path, name: str) -> None:
    before = identity.code_fingerprint("terraprompt.first")
    (package / name).write_text(FILES[name] + "# changed\n")
    assert identity.code_fingerprint("terraprompt.first") == before


def test_files_count_by_content_and_order_does_not(package: Path, tmp_path: Path) -> None:
    def fingerprint(text: str, ordered: Callable[[list[Path | str]], list[Path | str]] = list) -> str:
        (tmp_path / "table.toml").write_text(text)
        return identity.code_fingerprint(*ordered(["terraprompt.first", tmp_path / "table.toml"]))

    assert fingerprint("a") != fingerprint("b")
    assert fingerprint("a") == fingerprint("a", lambda sources: sources[::-1])
    assert fingerprint("a") != identity.code_fingerprint("terraprompt.first")


def test_where_files_lie_does_not_count(package: Path, tmp_path: Path) -> None:
    found = set()
    for folder in ("a", "z"):  # before and after the package in the order of paths
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "table.toml").write_text("a")
        found.add(identity.code_fingerprint("terraprompt.first", tmp_path / folder / "table.toml"))
    assert len(found) == 1
