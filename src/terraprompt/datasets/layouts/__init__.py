"""The layouts of data sets on disk: one small reader a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from terraprompt.datasets.layouts import image_pack
from terraprompt.datasets.layouts.reading import BrokenItemError, Faults, Layout, Problem

__all__ = ["LAYOUTS", "BrokenItemError", "Faults", "Layout", "Problem"]

LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in (image_pack.LAYOUT,)})
"""Every layout by the name of its data set."""
