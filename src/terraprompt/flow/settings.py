"""What a query may set: one frozen object, checked once, recorded in the provenance."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from terraprompt.errors import ConfigError
from terraprompt.language.parse_selector import ParsedSelector
from terraprompt.outputs.mask_writer import DEFAULT_MIN_PIXELS, check_refinement, threshold_logit

__all__ = ["Flow", "SegmentSettings"]

#: How an engine is fed: "product", by tiles and windows at the scene's own resolution; "published", as evaluators of
#: papers do, the whole picture at once.
Flow = Literal["product", "published"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """Settings of one query; stretch and batch belong to the session.

    Attributes:
        flow: "product", or "published": the engine gets the whole picture once, on its own square, with the text as it
            stands; there is no selector, no closer window, and the mask is the model's own, nothing sieved. Options
            of area and size that are given still hold.
        threshold: probability above which a pixel is target, between 0 and 1.
        refine: predict a second time, closer, on a small target under points.
        selector: which of the found objects are meant: its ``phrase`` replaces the text, its choice is made over the
            whole scene. "auto" parses a text without points and boxes, unless the engine proposes; None sends every
            text to the engine as it is.
        understand: with an engine that knows certain words only, take a text apart first
            (:func:`terraprompt.language.understand.understand`), leave out what is smaller than an object of the
            category unless ``min_area_m2`` or ``min_pixels`` is given, and keep one object a click. Only with
            ``selector`` "auto".
        min_area_m2, min_pixels, fill_holes_m2, simplify: as in :meth:`terraprompt.outputs.MaskWriter.finish`.

    Raises:
        ConfigError: a value out of range.
    """

    flow: Flow = "product"
    threshold: float = 0.5
    refine: bool = True
    selector: ParsedSelector | Literal["auto"] | None = "auto"
    understand: bool = True
    min_area_m2: float | None = None
    min_pixels: int | None = None
    fill_holes_m2: float | None = None
    simplify: float | None = None

    def __post_init__(self) -> None:
        if self.flow not in ("product", "published"):
            raise ConfigError("The flow is product or published.", received=self.flow)
        if self.flow == "published" and isinstance(self.selector, ParsedSelector):
            raise ConfigError("The published flow takes no selector.", received=self.selector.phrase)
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold < 1:
            raise ConfigError("The threshold is a probability between 0 and 1.", received=self.threshold)
        if not isinstance(self.refine, bool):
            raise ConfigError("refine must be True or False.", received=self.refine)
        if not (self.selector is None or self.selector == "auto" or isinstance(self.selector, ParsedSelector)):
            raise ConfigError('The selector must be a ParsedSelector, "auto" or None.', received=self.selector)
        check_refinement(True, **self.refinement)

    @property
    def threshold_logit(self) -> np.float32:
        """The logit above which a pixel is target."""
        return threshold_logit(self.threshold)

    @property
    def refinement(self) -> dict[str, Any]:
        """The options of :meth:`terraprompt.outputs.MaskWriter.finish`."""
        names = ("min_area_m2", "min_pixels", "fill_holes_m2", "simplify")
        options = {name: getattr(self, name) for name in names}
        if self.flow == "published" and self.min_area_m2 is None and self.min_pixels is None:
            options["min_pixels"] = 1
        return options

    @property
    def effective(self) -> dict[str, Any]:
        """Every value that shapes the mask, defaults filled in, as JSON values; ``simplify`` None = 0.75 pixels."""
        refine = self.refine and self.flow == "product"
        values = {"flow": self.flow, "threshold": self.threshold, "refine": refine, **self.refinement}
        if values["min_pixels"] is None:
            values["min_pixels"] = DEFAULT_MIN_PIXELS if self.min_area_m2 is None else 1
        return values

    def updated(self, options: dict[str, Any]) -> SegmentSettings:
        """These settings with some replaced.

        Raises:
            ConfigError: an unknown option; the message names it and the ones that are spelled alike.
        """
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
                meant = f"Did you mean {' or '.join(near)}? " if near else ""
                raise ConfigError(f'Unknown option "{name}".', received=name, hint=f"{meant}Known: {', '.join(known)}.")
        return replace(self, **options)
