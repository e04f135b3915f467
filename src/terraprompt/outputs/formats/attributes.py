"""Attributes of the prompt's features as columns of the objects that answer them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from terraprompt.io.text import unique_names

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["attribute_columns"]

#: Names that formats keep for ids and geometries.
_RESERVED = ("fid", "ogc_fid", "geom", "geometry", "bbox", "shape")


def attribute_columns(result: Result, taken: Iterable[str]) -> dict[str, pa.Array]:
    """The attributes of the features that a result's objects answer, one entry an object.

    A column has the type of all values in the prompt, whatever was found: int64, float64, bool, text, date or time;
    text where values are of several kinds.

    Args:
        result: whose prompt came from features; of another there are no columns.
        taken: names of other columns.
    """
    features = () if result.prompt is None else result.prompt.features
    names = list(dict.fromkeys(name for feature in features for name, _ in feature.attributes))
    rows = [dict(feature.attributes) for feature in features]
    columns = {}
    for name, unique in zip(names, unique_names(names, (*taken, *_RESERVED)), strict=True):
        values = [item.attributes.get(name) for item in result.objects]
        columns[unique] = _column(values, [row.get(name) for row in rows])
    return columns


def _column(values: Sequence[Any], all_values: Sequence[Any]) -> pa.Array:
    try:
        kind = pa.array(all_values).type
        if not pa.types.is_null(kind):
            return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array([None if value is None else str(value) for value in values], pa.string())
