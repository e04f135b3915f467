"""The layouts of data sets on disk: one small reader a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from terraprompt.datasets.layouts import (
    dior_rsvg,
    earthreason,
    geoseg_bench,
    geoseg_bench_810,
    image_pack,
    lasers,
    phrases,
    rrsis_d,
    sior,
)
from terraprompt.datasets.layouts.reading import AbsentSplitError, BrokenItemError, Faults, Layout, Problem, by_stem

__all__ = ["LAYOUTS", "AbsentSplitError", "BrokenItemError", "Faults", "Layout", "Problem", "by_stem"]

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            geoseg_bench.BENCH,
            geoseg_bench.TRAINING,
            earthreason.LAYOUT,
            rrsis_d.LAYOUT,
            rrsis_d.REMOTESAM,
            phrases.REFSEGRS,
            phrases.RISBENCH,
            dior_rsvg.LAYOUT,
            sior.LAYOUT,
            geoseg_bench_810.LAYOUT,
            lasers.LAYOUT,
            image_pack.LAYOUT,
        )
    }
)
"""Every layout by the name of its data set."""
