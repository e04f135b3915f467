"""The code of the pages in ``docs/extend``, laid into a folder as an installed package."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["environment", "install", "install_page"]

PAGES = Path(__file__).parents[2] / "docs" / "extend"


def install(folder: Path, name: str, code: str, group: str, target: str) -> None:
    """Write a module and the metadata with its entry point, as an installer would."""
    folder.mkdir(exist_ok=True)
    (folder / f"{target.partition(':')[0]}.py").write_text(code)
    (dist := folder / f"{name}-1.0.dist-info").mkdir()
    (dist / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")


def install_page(folder: Path, page: str) -> None:
    """Install what a page tells to save and to declare."""
    text = (PAGES / page).read_text()
    (code,), (toml,) = (re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S) for kind in ("python", "toml"))
    found = re.search(r'entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', toml)
    assert found is not None
    group, name, target = found.groups()
    install(folder, name, code, group, target)


def environment(folder: Path) -> dict[str, str]:
    """This environment, with the packages of a folder."""
    paths = [str(folder), *(p for p in (os.environ.get("PYTHONPATH"),) if p)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
