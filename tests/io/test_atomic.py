"""Files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from terraprompt.io.atomic import atomic_path, remove_temporaries, write_atomic


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_old_file_stays_and_nothing_is_left_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path, sidecars=True) as temporary:
            temporary.write_text("half")
            temporary.with_name(temporary.name + ".aux.xml").write_text("beside it")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / "new" / f"{'n' * 240}.JSON"
    write_atomic(path, "ü")
    assert path.read_bytes() == "ü".encode()
    write_atomic(path, b"\0", durable=False)
    assert path.read_bytes() == b"\0"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with atomic_path(tmp_path / "deep" / "a.txt") as temporary:
        (left := temporary.with_name(temporary.name.replace("a.txt", "b.txt"))).write_text("half")
        temporary.write_text("whole")
    assert left.exists()
    remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["a.txt"]
