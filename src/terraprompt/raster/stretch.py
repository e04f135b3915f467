"""One percentile stretch for a whole scene, so that neighbouring tiles are seen alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.errors import ConfigError, SceneError
from terraprompt.raster.scene import Scene

__all__ = ["Stretch", "StretchMode", "estimate_stretch"]

StretchMode = Literal["auto", "none", "percentile"]
_Values = NDArray[Any]

#: Valid pixels that percentiles are taken from.
_SAMPLE = 1_000_000
#: Files up to this many pixels, and files with overviews, are reduced as a whole; others are read in patches.
_READ_WHOLE = 16_000_000
#: Patches per side, and their side in pixels: 256 places spread over the scene.
_PATCHES, _PATCH = 16, 64
#: An 8-bit colour picture is stretched only when 96 % of all its values, the three bands together, lie within so few
#: of the 256 levels. Real dark imagery keeps more (of 761 overhead images that we looked at none had under 38, with
#: tundra lakes and forest the lowest) and is best left alone: a stretch would change the colours that a model learnt.
#: Fewer means 11- or 12-bit data squeezed into bytes.
_FLAT_LEVELS = 32
#: Pixels a side of the blocks that an undeclared fill value fills.
_BLOCK = 8
#: Share of a scene that such a fill has at most, and distinct values that the rest of a picture has at least.
_MOST_FILL, _LEAST_LEVELS = 0.5, 16


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear map of each band to 0..255.

    Attributes:
        mode: what was done: "none" or "percentile".
        low: value that becomes 0, one per channel.
        high: value that becomes 255, one per channel.
    """

    mode: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values (1 or 3, height, width) of any real type to RGB uint8 (height, width, 3); NaN becomes 0.

        One channel is repeated three times.
        """
        height, width = values.shape[1:]
        out = np.empty((height, width, 3), np.uint8)
        for channel, plane in enumerate(values):
            out[..., channel] = self._plane(plane, self.low[channel], self.high[channel])
        if len(values) == 1:
            out[..., 1:] = out[..., :1]
        return out

    def _plane(self, plane: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
        if plane.dtype == np.uint8 and (low, high) == (0.0, 255.0):
            return plane
        if plane.dtype.kind in "iu" and plane.dtype.itemsize <= 2:
            info = np.iinfo(plane.dtype)
            table = _scale(np.arange(info.min, info.max + 1, dtype=np.float32), low, high)
            index = plane if info.min == 0 else plane.astype(np.int32) - info.min
            return np.take(table, index)
        return _scale(plane.astype(np.float32), low, high)


def _scale(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values - np.float32(low)) * np.float32(255.0 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    stretched: NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
    return stretched


def estimate_stretch(
    scene: Scene, mode: StretchMode = "auto", *, percentiles: tuple[float, float] = (2.0, 98.0)
) -> Stretch:
    """The stretch of the whole file, never of the part that a bbox shows: the extent must not change the answer.

    Args:
        scene: where the values come from; up to about a million valid pixels are looked at (the whole file reduced,
            through its overviews if it has them, or 256 patches spread over it).
        mode: "none": values are taken as they are and cut to 0..255. "percentile": each band from its low to its high
            percentile. "auto": 8-bit colour stays as it is, unless nearly all values share under 32 levels, when the
            three bands are stretched together; everything else by percentiles.
        percentiles: low and high, in percent.

    Raises:
        ConfigError: unknown mode or percentiles out of order.
        SceneError: no pixel of the file is valid, or it is damaged.
    """
    if mode not in ("auto", "none", "percentile"):
        raise ConfigError("Unknown stretch.", received=mode, hint='Choose "auto", "none" or "percentile".')
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ConfigError("Percentiles must be low, high within 0..100.", received=percentiles)
    as_is = Stretch("none", (0.0,) * scene.channels, (255.0,) * scene.channels)
    if mode == "none" and scene.always_valid:
        return as_is
    keeps_colours = mode == "auto" and scene.dtype == np.uint8 and scene.channels == 3
    if mode == "none":
        next(_samples(scene.whole()))  # raises where nothing is valid
        return as_is
    for sample in _samples(scene.whole()):
        if keeps_colours and sample.span(percentiles) >= _FLAT_LEVELS:
            return as_is  # whatever the rest of the file holds
    limits = [_limits(channel, percentiles) for channel in sample.channels]
    if keeps_colours:
        low, high = min(lo for lo, _ in limits), max(hi for _, hi in limits)
        if high - low >= _FLAT_LEVELS:
            return as_is
        limits = [(low, high)] * 3  # one stretch for all bands keeps the hues
    limits = [(lo, hi) if hi > lo else (lo, lo + 1.0) for lo, hi in limits]
    return Stretch("percentile", tuple(lo for lo, _ in limits), tuple(hi for _, hi in limits))


@dataclass(frozen=True, slots=True)
class _Sample:
    """Finite values of valid pixels met so far.

    Attributes:
        channels: for each either int64 (256,) or (65536,) counts of unsigned integers, or float64 (n,) values.
        total: no channel will hold more values than this once the sample is complete.
    """

    channels: list[_Values]
    total: int

    def span(self, percentiles: tuple[float, float]) -> int:
        """Least distance of the low and the high percentile of all counts together that later values cannot undo."""
        lows, highs = [], []
        for counts in self.channels:
            below, above = np.cumsum(counts), np.cumsum(counts[::-1])
            # this many values at or below a level keep the percentile at or below it, in a sample of any final size
            low = int(np.searchsorted(below, percentiles[0] / 100 * (self.total - 1) + 2))
            high = int(np.searchsorted(above, (1 - percentiles[1] / 100) * (self.total - 1) + 2))
            lows.append(low)
            highs.append(len(counts) - 1 - high)
        return max(highs) - min(lows)


def _limits(channel: _Values, percentiles: tuple[float, float]) -> tuple[float, float]:
    if not len(channel) or (channel.dtype == np.int64 and not channel.any()):  # a band of NaN beside valid bands
        return 0.0, 1.0
    if channel.dtype != np.int64:
        low, high = np.percentile(channel, percentiles)
        return float(low), float(high)
    ranks = np.cumsum(channel)
    low, high = (_percentile(ranks, percent) for percent in percentiles)
    return low, high


def _percentile(ranks: _Values, percent: float) -> float:
    """What ``np.percentile`` gives for float64 values, bit for bit, from their cumulated counts (K,)."""
    place = (int(ranks[-1]) - 1) * (np.float64(percent) / 100)
    first = int(place)
    here, after = (float(v) for v in np.searchsorted(ranks, [first, min(first + 1, int(ranks[-1]) - 1)], side="right"))
    share = float(place) - first
    return here + (after - here) * share if share < 0.5 else after - (after - here) * (1 - share)


def _samples(scene: Scene) -> Iterator[_Sample]:
    """The growing sample of valid pixels, at least one; the last one is complete.

    Raises:
        SceneError: no pixel is valid.
    """
    bins = {np.dtype(np.uint8): 256, np.dtype(np.uint16): 65536}.get(scene.dtype)
    for total, reads in (_first_look(scene), _every_block(scene)):
        channels: list[_Values] = [np.zeros(bins or 0, np.int64 if bins else np.float64)] * scene.channels
        pieces: list[list[_Values]] = [[] for _ in channels]
        count = 0
        for values, valid in reads:
            # The edge of a block is not the scene's: a collar shows only where the whole is seen at once.
            fill = _undeclared_fill(scene, values, valid) if valid.size == total else None
            if fill is not None:
                valid = valid & ~fill
            every = bool(valid.all())
            count += valid.size if every else int(np.count_nonzero(valid))
            for i, plane in enumerate(values):
                inside = plane.reshape(-1) if every else plane[valid]
                if bins:
                    channels[i] = channels[i] + np.bincount(inside, minlength=bins)
                else:
                    inside = inside.astype(np.float64)
                    pieces[i].append(inside[np.isfinite(inside)])
            if bins and count:
                yield _Sample(channels.copy(), total)
            if count >= 2 * _SAMPLE:
                break
        if count:
            if not bins:
                yield _Sample([np.concatenate(parts) for parts in pieces], total)
            return
    raise SceneError(
        "No pixel of the scene is valid: all are nodata, masked or NaN.",
        received=scene.source,
        hint="Check its nodata value and mask, e.g. with gdalinfo -stats.",
    )


def _undeclared_fill(scene: Scene, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Where one value fills whole blocks that touch the edge: a collar that nobody declared. Said in the remarks."""
    if scene._nodata_option is not None or min(valid.shape) < 4 * _BLOCK or (scene.channels > len(scene.bands)):
        return None
    edge = np.zeros(valid.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    colours, counts = np.unique(values[:, edge & valid].T, axis=0, return_counts=True)
    if not len(colours):
        return None
    colour = colours[counts.argmax()]
    if len(set(colour.tolist())) > 1 or not np.isfinite(colour).all():
        return None
    same = valid & (values == colour[:, None, None]).all(axis=0)
    solid = ndimage.binary_opening(same, np.ones((_BLOCK, _BLOCK), bool))
    label, _ = ndimage.label(same)
    touching = np.setdiff1d(np.unique(label[edge & solid]), 0)
    fill = np.isin(label, touching)
    rest = values[0][valid & ~fill]
    # Half of a scene in one value, one within the range of the others, or few values in all: that is the picture.
    if not rest.size or not 0.01 < fill.sum() / valid.size <= _MOST_FILL or rest.min() < colour[0] < rest.max():
        return None
    if len(np.unique(rest)) < _LEAST_LEVELS:
        return None
    remark = (
        f"The value {colour[0]:g} fills {fill.mean():.0%} of the scene from its edge on, like a collar that nobody "
        "declared. It is left out of the brightness stretch, but not of the mask: "
        f"--nodata {colour[0]:g} leaves it out of both."
    )
    if remark not in scene.remarks:
        scene.remarks.append(remark)
    return np.asarray(fill)


_Reads = Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]


def _first_look(scene: Scene) -> tuple[int, _Reads]:
    """How many pixels are looked at, and their values and validity."""
    pixels = scene.width * scene.height
    if pixels <= _READ_WHOLE or scene.has_overviews:
        factor = max(1.0, (pixels / _SAMPLE) ** 0.5)
        shape = (max(1, round(scene.height / factor)), max(1, round(scene.width / factor)))
        whole = (scene.read(*box, shape=shape, average=False) for box in [(0, 0, scene.width, scene.height)])
        return shape[0] * shape[1], whole
    side_x, side_y = min(_PATCH, scene.width), min(_PATCH, scene.height)
    tops = np.linspace(0, scene.height - side_y, _PATCHES).astype(int).tolist()
    lefts = np.linspace(0, scene.width - side_x, _PATCHES).astype(int).tolist()
    return _PATCHES * side_y * _PATCHES * side_x, _patches(scene, tops, lefts, (side_y, side_x))


def _patches(scene: Scene, tops: list[int], lefts: list[int], side: tuple[int, int]) -> _Reads:
    """Patches spread over a scene from edge to edge, those on the edge first.

    Where one of these looks like a collar, all come at once, side by side: a picture of the scene in little.
    """
    places = [(y, x) for y in tops for x in lefts]
    border = [(y, x) for y, x in places if y in (tops[0], tops[-1]) or x in (lefts[0], lefts[-1])]
    seen = {place: scene.read(place[1], place[0], side[1], side[0]) for place in border}
    if any(_has_solid_side(*patch) for patch in seen.values()):
        rest = {place: scene.read(place[1], place[0], side[1], side[0]) for place in places if place not in seen}
        seen |= rest
        rows = [[seen[y, x] for x in lefts] for y in tops]
        yield (
            np.concatenate([np.concatenate([patch for patch, _ in row], axis=2) for row in rows], axis=1),
            np.concatenate([np.concatenate([good for _, good in row], axis=1) for row in rows], axis=0),
        )
        return
    yield from seen.values()
    inside = [place for place in places if place not in seen]
    seen.clear()
    for y, x in inside:
        yield scene.read(x, y, side[1], side[0])


def _has_solid_side(values: NDArray[Any], valid: NDArray[np.bool_]) -> bool:
    """Whether the outermost pixels along a side of a patch are valid and all of one grey value."""
    for side in (np.s_[:_BLOCK, :], np.s_[-_BLOCK:, :], np.s_[:, :_BLOCK], np.s_[:, -_BLOCK:]):
        strip = values[:, *side]
        if valid[side].all() and (strip == strip[0, 0, 0]).all():
            return True
    return False


def _every_block(scene: Scene) -> tuple[int, _Reads]:
    """The whole file at full resolution: the last resort where a first look met no valid pixel."""
    rows = max(1, 4_000_000 // scene.width)
    tops = range(0, scene.height, rows)
    return scene.width * scene.height, (scene.read(0, top, scene.width, min(rows, scene.height - top)) for top in tops)
