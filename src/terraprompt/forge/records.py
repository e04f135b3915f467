"""What travels between stages: rows of Parquet files, as plain dicts, and their schemas.

Boxes are ``(x0, y0, x1, y1)`` and points ``(x, y)`` in pixels of the patch: x right, y down, (0, 0) the outer corner of
the first pixel, x1 and y1 exclusive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["EXPORTED", "ITEM", "KEPT", "LIMIT", "PATCH", "REGION", "SAMPLE", "Row", "chance", "of_item", "rng_of"]

Row = dict[str, Any]

_F, _I, _S, _B = pa.float64(), pa.int64(), pa.string(), pa.bool_()

#: An image with its labels.
ITEM = pa.schema(
    [
        ("item", _S),  # "<source>/<path without suffix>", unique
        ("source", _S),
        ("number", _I),  # of the source in the recipe
        ("image", _S),  # relative to the root of the source
        ("label", _S),
        ("record", _S),  # of the image pack: the id
        ("width", _I),
        ("height", _I),
        ("gsd_m", _F),
        ("crs", _S),
        ("transform", pa.list_(_F)),
        ("place", _S),  # images of one place share ground
        ("split", _S),  # as the source says, or null
        ("licence", _S),
    ]
)

_OF_ITEM = [ITEM.field(name) for name in ITEM.names if name not in ("label", "width", "height")]

#: A window of an image with the categories of its pixels.
PATCH = pa.schema(
    [
        ("patch", _S),  # "<item>@<column>_<row>", unique
        *_OF_ITEM,
        ("column", _I),  # of the window's first pixel in the image
        ("row", _I),
        ("width", _I),
        ("height", _I),
        ("stretch", pa.list_(_F)),  # low and high value of each band; empty for 8 bits
        ("bands", pa.list_(_I)),
        ("sha", _S),  # of the pixels
        ("phash", pa.uint64()),
        ("thumb", pa.binary()),  # 8 x 8 RGB
        ("mask", pa.binary()),  # runs of numbers of categories, 0 = none
    ]
)

_RELATION = pa.struct(
    [
        ("other", _I),  # number of the other region
        ("gap", _F),  # pixels between the nearest pixel centres
        ("metres", _F),
        ("direction", _S),  # where the other one is, seen from this one
        ("adjacent", _B),
    ]
)

_REGION = pa.struct(
    [
        ("number", _I),
        ("category", _S),
        ("area", _I),
        ("box", pa.list_(_F)),
        ("centroid", pa.list_(_F)),
        ("border", _B),  # cut by the edge of the patch
        ("nearest", _F),  # gap to the nearest region of the category, null if there is none
        ("counts", _S),  # COCO run lengths of the patch's size
        ("relations", pa.list_(_RELATION)),
        ("keep", _B),
        ("why", _S),  # reason for being left out
    ]
)

_SPECK = pa.struct([("category", _S), ("count", _I)])
_DROPPED = ("mask",)

#: A patch with its regions.
REGION = pa.schema(
    [
        *(field for field in PATCH if field.name not in _DROPPED),
        ("specks", pa.list_(_SPECK)),
        ("regions", pa.list_(_REGION)),
    ]
)

#: Least number of categories of a patch for reasoning, by source.
LIMIT = pa.schema([("source", _S), ("patches", _I), ("least", _I)])

#: One instruction.
SAMPLE = pa.schema(
    [
        ("sample", _S),  # "<patch>#<region>/<kind>", unique
        ("patch", _S),
        ("source", _S),
        ("region", _I),
        ("category", _S),
        ("kind", _S),
        ("question", _S),
        ("reason", _S),
        ("points", pa.list_(pa.list_(_F))),  # in [0, 1] of the patch, as written in the question
        ("box", pa.list_(_F)),  # likewise
        ("cues", pa.list_(_S)),  # what makes it the only one, in the writer's words
        ("writer", _S),
        ("area", _I),
        ("cut", _B),  # the target reaches the edge of the patch: only a part of it may be seen
        ("width", _I),
        ("height", _I),
        ("counts", _S),
        ("keep", _B),
        ("why", _S),
        ("scores", _S),  # JSON of the judges; null where none was asked
        ("comments", _S),  # likewise, what they said to their scores
    ]
)

#: A sample that stays, with its split and what export needs.
KEPT = pa.schema(
    [
        *SAMPLE,
        ("split", _S),
        ("place", _S),
        *(
            PATCH.field(name)
            for name in (
                *("item", "number", "image", "record", "licence", "gsd_m", "crs", "transform"),
                *("column", "row", "stretch", "bands"),
            )
        ),
    ]
)

#: An exported sample.
EXPORTED = pa.schema(
    [
        *(
            KEPT.field(name)
            for name in ("sample", "patch", "source", "category", "kind", "split", "area", "cut", "licence")
        ),
        ("share", _F),  # of the target in the patch
        ("words", _I),
        ("characters", _I),
        ("img", _S),
        ("mask", _S),
        ("json", _S),
    ]
)


def chance(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return int.from_bytes(_digest(seed, parts)[:8], "big") / 2**64


def rng_of(seed: int, *parts: object) -> np.random.Generator:
    """A source of randomness that depends on nothing but its arguments."""
    return np.random.default_rng(int.from_bytes(_digest(seed, parts)[:16], "big"))


def _digest(seed: int, parts: tuple[object, ...]) -> bytes:
    return hashlib.sha256("\x1f".join([str(seed), *(str(part) for part in parts)]).encode()).digest()


def of_item(row: Mapping[str, Any]) -> Row:
    """The fields of an item that every later record keeps."""
    return {field.name: row[field.name] for field in _OF_ITEM}
