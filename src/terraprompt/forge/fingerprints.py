"""What tells whether two patches are the same picture, made for a whole row of patches at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

__all__ = ["EIGHTH", "Fingerprint", "eighth", "fingerprint", "fingerprints"]

#: What is looked at is the picture at this part of its size.
EIGHTH = 8
#: sha256, perceptual hash, thumbnail.
Fingerprint = tuple[str, int, bytes]

_MEANS = 32  # a side of the picture whose frequencies are hashed
_SIDE = 8  # of the thumbnail; and so many of the lowest frequencies each way
_GREY = np.array([0.299, 0.587, 0.114])
_EVEN_BYTES, _LANES = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """What tells whether two patches are the same picture.

    Args:
        pixels: RGB uint8 (height, width, 3).

    Returns:
        sha256 of the picture at an eighth of its size; a perceptual hash of 64 bits (signs of the 8 x 8 lowest
        frequencies of the grey image at 32 x 32, against their median); an 8 x 8 RGB thumbnail, 192 bytes. The last
        two are made of the picture at an eighth of its size as well.
    """
    height, width = pixels.shape[:2]
    return fingerprints(eighth(np.moveaxis(pixels, -1, 0)), [0], height, width)[0]


def eighth(bands: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of squares of 8 x 8: uint8 (3, height, width) -> (3, height / 8, width / 8), rounded up.

    A square that reaches over the edge is filled with the pixels at the edge.
    """
    height, width = bands.shape[1:]
    down, across = -height % EIGHTH, -width % EIGHTH
    whole = np.pad(bands, ((0, 0), (0, down), (0, across)), mode="edge") if down or across else bands
    return np.stack([_eighth(np.ascontiguousarray(band)) for band in whole])


def _eighth(band: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Eight pixels are one word and are added four at a time, each sum in its own 16 bits (at most 64 x 255).
    words = band.view(np.uint64)
    sums = words & _EVEN_BYTES
    sums += (words >> np.uint64(8)) & _EVEN_BYTES
    sums = sums.reshape(-1, EIGHTH, sums.shape[-1]).sum(1)
    sums *= _LANES
    sums >>= np.uint64(48)
    found: NDArray[np.uint8] = ((sums + np.uint64(32)) >> np.uint64(6)).astype(np.uint8)
    return found


def fingerprints(small: NDArray[np.uint8], columns: Sequence[int], height: int, width: int) -> list[Fingerprint]:
    """Those of patches side by side.

    Args:
        small: uint8 (3, height / 8, any), :func:`eighth` of the row they lie in.
        columns: where each begins in it.
        height: of the patches before the reduction.
        width: of the patches before the reduction.
    """
    tall, wide = small.shape[1], -(-width // EIGHTH)
    # Frequencies and thumbnails are sums of pixels: a product from the left, for all at once, and one from the right.
    waves_down, squares_down = _summing(tall)
    waves_across, squares_across = _summing(wide)
    pixels = small.astype(np.float64)
    grey = (_GREY @ pixels.reshape(3, -1)).reshape(tall, -1)
    at = np.asarray(columns)[:, None] + np.arange(wide)
    low = (waves_down @ grey)[:, at].transpose(1, 0, 2) @ waves_across.T
    low = np.round(low.reshape(len(columns), -1), 6)  # an even picture has none, whatever the order of the sums
    middle = np.sort(low[:, 1:], axis=1)[:, 31:32]
    hashes = np.packbits(low > middle, axis=1)
    means = (squares_down @ pixels)[:, :, at].transpose(2, 1, 0, 3) @ squares_across.T
    thumbs = np.round(np.round(means, 6)).astype(np.uint8).transpose(0, 1, 3, 2)
    size = f"{height} {width}".encode()
    return [
        (
            hashlib.sha256(size + small[:, :, column : column + wide].tobytes()).hexdigest(),
            int.from_bytes(hashes[i].tobytes(), "big"),
            thumbs[i].tobytes(),
        )
        for i, column in enumerate(columns)
    ]


@lru_cache(maxsize=64)
def _summing(length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(8, length) each: the lowest frequencies after a reduction to 32 means, and 8 means."""
    waves = dct(np.eye(_MEANS), axis=0, norm="ortho")[:_SIDE] @ _means(length, _MEANS)
    return waves, _means(length, _SIDE)


def _means(length: int, count: int) -> NDArray[np.float64]:
    """(count, length): means of equal stretches, a pixel on a border counting for both by its parts."""
    cuts = np.linspace(0, length, count + 1)
    pixel = np.arange(length)
    shared = np.minimum(cuts[1:, None], pixel + 1) - np.maximum(cuts[:-1, None], pixel)
    found: NDArray[np.float64] = np.maximum(shared, 0) / (length / count)
    return found
