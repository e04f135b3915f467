"""What killed processes left is found and offered; what may be in use is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from terraprompt.io.atomic import atomic_path
from terraprompt.io.files import WorkFolder
from terraprompt.io.leftovers import leftovers, owner

KILLED = """
import os, signal, sys
from pathlib import Path
from terraprompt.io.atomic import atomic_path
from terraprompt.io.files import WorkFolder
work = WorkFolder(Path(sys.argv[1]))
(work.path / "raw.tif").write_bytes(bytes(5000))
with atomic_path(Path(sys.argv[1]) / "mask.tif", sidecars=True) as temporary:
    temporary.write_bytes(bytes(700))
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def dead() -> int:
    """Id of a process that is no more."""
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_what_a_killed_run_left(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert leftovers(tmp_path) == [], "it lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = leftovers(tmp_path)
    assert [(left.path.is_dir(), left.size) for left in found] == [(False, 700), (True, 5000)]
    for left in found:
        left.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_this_process_uses_stays(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert leftovers(tmp_path) == []
    assert folder.path.is_dir()
    folder.remove()


@pytest.mark.parametrize(
    "name",
    [
        "terraprompt-abcdefgh",  # of a release that did not say whose it is
        "terraprompt-00000000-{dead}-x",  # another machine's
        "terraprompt-{host}-1-x",  # lives
        "terraprompt-{host}-{own}-x",
        "terraprompt-{host}-99999999999999999999999-x",
        ".tmp-0123456789ab-a.tif",
        "my-terraprompt-{host}-{dead}-x",
        "terraprompt-{host}-{dead}",
        "mask.tif",
    ],
)
def test_what_is_not_surely_left_is_not_listed(tmp_path: Path, dead: int, name: str) -> None:
    host = owner().partition("-")[0]
    (tmp_path / name.format(host=host, dead=dead, own=os.getpid())).mkdir()
    assert leftovers(tmp_path) == []


def test_a_link_is_not_followed(tmp_path: Path, dead: int) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / f"terraprompt-{owner().partition('-')[0]}-{dead}-x").symlink_to(tmp_path / "dear")
    assert leftovers(tmp_path) == []
    assert leftovers(tmp_path / "nowhere") == []
