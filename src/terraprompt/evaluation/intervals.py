"""Seeded 95 % bootstrap intervals: of means, and of ratios of sums such as cIoU.

Every metric here is a ratio of two sums over samples: a mean is ``sum(value) / sum(1)``, cIoU is ``sum(intersection) /
sum(union)``, T-acc is ``sum(answered) / sum(has a target)``. One resampling of the samples so serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError

__all__ = ["bootstrap", "paired_intervals", "ratio_intervals", "resampled_sums"]

Floats = NDArray[np.float64]
#: Drawn sample numbers that are held at once.
_AT_ONCE = 4_000_000


def _weights(count: int, seed: int, rounds: int) -> Iterator[Floats]:
    """How often each sample was drawn: float64 (some rounds, count), until all rounds are through."""
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // count)
    for first in range(0, rounds, step):
        here = min(step, rounds - first)
        picks = rng.integers(count, size=(here, count)) + np.arange(here)[:, None] * count
        yield np.bincount(picks.ravel(), minlength=here * count).reshape(here, count).astype(np.float64)


def resampled_sums(columns: Floats, *, seed: int = 0, rounds: int = 2000) -> Floats:
    """Column sums of ``rounds`` resamplings with replacement of the rows.

    Args:
        columns: float64 (samples, columns), at least one sample, all finite.
        seed: of NumPy's default generator; the same for the same number of samples.
        rounds: resamplings.

    Returns:
        float64 (rounds, columns).
    """
    if not len(columns):
        raise ConfigError("An interval needs at least one value.", received="0 values")
    return np.concatenate([weights @ columns for weights in _weights(len(columns), seed, rounds)])


def ratio_intervals(above: Floats, below: Floats, *, seed: int = 0, rounds: int = 2000) -> Floats:
    """95 % percentile intervals of ``sum(above) / sum(below)``, column by column.

    Args:
        above: float64 (samples, metrics).
        below: as ``above``.
        seed: see :func:`resampled_sums`.
        rounds: see :func:`resampled_sums`.

    Returns:
        float64 (2, metrics): lower and upper ends; NaN where every resampling had nothing below the line. Resamplings
        without anything below the line (a rare kind of sample that was not drawn) are left out of that metric.
    """
    count = above.shape[1]
    sums = resampled_sums(np.concatenate([above, below], axis=1), seed=seed, rounds=rounds)
    return _percentiles(_divide(sums[:, :count], sums[:, count:]))


def paired_intervals(
    a_above: Floats, a_below: Floats, b_above: Floats, b_below: Floats, *, seed: int = 0, rounds: int = 2000
) -> Floats:
    """95 % percentile intervals of ``sum(b_above) / sum(b_below) - sum(a_above) / sum(a_below)``, samples in pairs.

    Args:
        a_above: float64 (samples, metrics), the same samples row by row.
        a_below: as ``a_above``.
        b_above: as ``a_above``.
        b_below: as ``a_above``.
        seed: see :func:`resampled_sums`.
        rounds: see :func:`resampled_sums`.

    Returns:
        float64 (2, metrics), see :func:`ratio_intervals`.
    """
    columns = np.concatenate([a_above, a_below, b_above, b_below], axis=1)
    sums = np.split(resampled_sums(columns, seed=seed, rounds=rounds), 4, axis=1)
    return _percentiles(_divide(sums[2], sums[3]) - _divide(sums[0], sums[1]))


def _percentiles(values: Floats) -> Floats:
    """(2, metrics) 2.5 and 97.5 % percentiles of (rounds, metrics), NaN left out; NaN where nothing else is."""
    ends = np.full((2, values.shape[1]), np.nan)
    some = np.isfinite(values).any(0)
    if some.any():
        ends[:, some] = np.nanpercentile(values[:, some], (2.5, 97.5), axis=0)
    return ends


def _divide(above: Floats, below: Floats) -> Floats:
    """Quotient; NaN where there is nothing below the line."""
    out = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def bootstrap(values: Sequence[float], *, seed: int = 0, rounds: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of at least one of ``values``, seeded."""
    array = np.asarray(values, np.float64)[:, None]
    low, high = ratio_intervals(array, np.ones_like(array), seed=seed, rounds=rounds)[:, 0]
    return float(low), float(high)
