"""How a result was made, as text for tags, attributes and items."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["PROVENANCE_KEYS", "as_text"]

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
