"""How a result was made, as text for tags, attributes and items."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from terraprompt import __version__

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["PROVENANCE_KEYS", "as_text", "raster_tags"]

PROVENANCE_KEYS = (
    "instruction", "task", "engine", "model", "revision", "checksum", "settings", "source", "version",
    "bands", "stretch", "created",
)  # fmt: skip

# Characters that XML (and so a TIFF's tags) cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def as_text(provenance: Mapping[str, Any], key: str) -> str:
    """One provenance value as text: strings as they are, None and missing as "", the rest as JSON."""
    value = provenance.get(key)
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True, ensure_ascii=False)
    return _UNPRINTABLE.sub("", text)


def raster_tags(result: Result) -> dict[str, str]:
    """Tags of a raster file: ``TIFFTAG_SOFTWARE`` and ``TERRAPROMPT_*``."""
    keys = (*PROVENANCE_KEYS, *sorted(set(result.provenance) - set(PROVENANCE_KEYS)))
    tags = {f"TERRAPROMPT_{key.upper()}": as_text(result.provenance, key) for key in keys}
    tags["TERRAPROMPT_STATUS"] = result.status.value
    tags["TERRAPROMPT_OBJECTS"] = str(len(result.objects))
    tags["TIFFTAG_SOFTWARE"] = f"terraprompt {as_text(result.provenance, 'version') or __version__}"
    return tags
