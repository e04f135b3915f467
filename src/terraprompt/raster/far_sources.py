"""What a raster file may read besides itself: its own folder and below, unless the user allows more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from terraprompt.errors import SceneError
from terraprompt.io.redact import redact_source

__all__ = ["INDIRECT_DRIVERS", "is_local", "refuse_far_sources"]

#: GDAL drivers that read what a small text names; not tried on archives and prefixed names, whose text is not checked.
INDIRECT_DRIVERS = frozenset(
    {"VRT", "WMS", "WMTS", "WCS", "GTI", "STACIT", "STACTA", "EEDAI", "PLMOSAIC", "KMLSUPEROVERLAY", "MRF"}
)
_HINT = "If you trust it, allow it with --allow-remote (Python: allow_remote=True)."
#: Elements and attributes of VRT and MRF that name a file; GDAL compares them without case.
_NAMES = ("sourcefilename", "sourcedataset", "sourcevrtfile", "datafile", "indexfile", "datafilename", "indexfilename")
_SERVICE = re.compile(r"<\s*(GDAL_WM\w*|W(MT?S|CS)_\w*|\w*:?\w*Capabilities|GDAL_\w*Service|GDALTileIndex\w*|kml)\b")
#: Bytes in which GDAL's drivers recognise a text; larger descriptions than _LARGEST are not checked.
_HEAD, _LARGEST = 1 << 16, 64 << 20


def is_local(name: str) -> bool:
    """Whether a name is a plain path: no address, no /vsi path, no prefix of a GDAL driver."""
    return "://" not in name and not name.startswith("/vsi") and ":" not in name.replace(":\\", "")


def refuse_far_sources(name: str) -> None:
    """Refuse a local VRT or service description that reads from anywhere but its own folder and below.

    Raises:
        SceneError: it does, or it cannot be told.
    """
    if name.lstrip().startswith(("<", "{")):
        raise SceneError("The scene is a description given as text, not a file.", received=name[:60], hint=_HINT)
    if name.startswith("/vsisparse/"):
        raise SceneError("The scene is a list of other files.", received=name, hint=_HINT)
    if not is_local(name) or not Path(name).is_file():
        return
    _check(Path(name), 0)
    for ending in (".ovr", ".msk", ".aux.xml"):  # GDAL opens these unasked
        if (side := Path(name + ending)).is_file():
            _check(side, 0)


def _check(path: Path, depth: int) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\0")[0]
    if not (head.startswith((b"<", b"{")) or b"<VRTDataset" in head):
        return
    if head.startswith(b"{"):
        raise SceneError("The scene is a JSON text that may name servers.", received=path, hint=_HINT)
    if path.stat().st_size > _LARGEST:
        raise SceneError("The description is too long to be checked.", received=path, hint=_HINT)
    text = path.read_text(encoding="utf-8", errors="replace")
    if _SERVICE.search(text) or "vrtrawrasterband" in text.casefold():
        raise SceneError("The scene names a server or raw files.", received=path, hint=_HINT)
    if not re.search("<VRTDataset|<MRF_META|OVERVIEW_FILE", text):
        return
    folder = path.resolve().parent
    for found in _named_files(text, path):
        member = (folder / found).resolve()
        if not is_local(found) or "<" in found or "\0" in found or not member.is_relative_to(folder):
            raise SceneError(
                "The VRT reads from a host or folder other than its own.",
                received=f"{path}, which names {redact_source(found)}", hint=_HINT,
            )  # fmt: skip
        if depth >= 8:
            raise SceneError("The VRT is nested too deeply to be checked.", received=path, hint=_HINT)
        if member.is_file() and member != path.resolve():
            _check(member, depth + 1)


def _named_files(text: str, path: Path) -> Iterator[str]:
    try:
        root = ElementTree.fromstring(text.lstrip("\ufeff"))
    except ElementTree.ParseError as error:
        raise SceneError(
            f"The description is no valid XML ({error}), so it cannot be checked.", received=path
        ) from None
    for element in root.iter():
        named = {key.casefold(): value for key, value in element.attrib.items()}
        if element.tag.casefold() in _NAMES or named.get("key") == "OVERVIEW_FILE":
            yield "".join(element.itertext()).strip().removeprefix(":::BASE:::")
        yield from (value.strip() for key, value in named.items() if key in _NAMES)
