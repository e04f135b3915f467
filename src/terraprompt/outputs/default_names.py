"""Names of outputs from scene and instruction."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from terraprompt.io.redact import redact_source
from terraprompt.outputs.formats.geopackage import layer_name

__all__ = ["instruction_slug", "unused_stem"]

_ASKING = re.compile(
    r"^\W*(?:(?:please|find|show|segment|mark|map|extract|get|me|all|every|each|of|the|a|an)\b\W*)+(?=\w)",
    re.IGNORECASE,
)
_LONGEST = 60


def instruction_slug(instruction: str) -> str:
    """Letters and digits of what an instruction asks for, without articles: "all the Buildings" is "buildings"."""
    return layer_name(_ASKING.sub("", instruction))


def unused_stem(source: str | os.PathLike[str], slug: str, suffixes: Sequence[str], folder: Path = Path()) -> Path:
    """Name outputs <scene>_<slug>, or with _2, _3 … the first under which no file of these extensions is there.

    Args:
        source: of the scene; secrets, hosts and folders are left out.
        slug: of the instruction.
        suffixes: of the files.
        folder: where they go.
    """
    name = redact_source(os.fspath(source)).partition("?")[0].rstrip("/").rpartition("/")[2]
    scene = re.sub(r"[^\w.-]+", "_", Path(name).stem.encode("utf-8", "ignore").decode()).strip("_.")[:_LONGEST]
    stem = f"{scene or 'scene'}_{slug[:_LONGEST].strip('_') or 'objects'}"
    number = 1
    while any(os.path.lexists(folder / f"{stem}{'' if number == 1 else f'_{number}'}{suffix}") for suffix in suffixes):
        number += 1
    return folder / (stem if number == 1 else f"{stem}_{number}")
