"""Rendered scenes as training data; their truth is exact. The renderer is an optional package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError
from terraprompt.language.absence import AbsentCategory
from terraprompt.training.labeled_image import LabeledImage

__all__ = ["RENDERED", "RenderedScene", "from_rendered", "render_images", "render_scenes"]

#: Categories that the renderer knows exactly.
RENDERED = (
    "building", "road", "field", "forest", "lake", "car", "truck", "storage_tank", "sports_court", "solar_panel",
    "swimming_pool", "tree", "bare_ground",
)  # fmt: skip


class RenderedScene(Protocol):
    """What training reads of a scene of ``terraprompt_synthetic``."""

    rgb: NDArray[np.uint8]
    seed: int
    style: Any

    def mask(self, category: str) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 = category."""
        ...

    def labels(self, category: str) -> NDArray[np.int32]:
        """Object ids int32 (H, W), 0 = not the category."""
        ...


def render_scenes(count: int, seed: int, **options: Any) -> Iterator[RenderedScene]:
    """Render ``count`` training scenes of ``seed``; ``options`` as of ``terraprompt_synthetic.render``.

    Raises:
        ConfigError: the renderer is not installed.
    """
    render = _renderer() if count else None
    return (render(scene_seed, **options) for scene_seed in _seeds(count, seed))  # type: ignore[misc]


def render_images(count: int, seed: int, *, workers: int = 1) -> list[LabeledImage]:
    """Render ``count`` labelled images of 512 x 512 pixels at various GSDs, in ``workers`` processes.

    Raises:
        ConfigError: the renderer is not installed.
    """
    if not count:
        return []
    _renderer()
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            return list(pool.map(_render, _seeds(count, seed), chunksize=8))
    return [_render(scene_seed) for scene_seed in _seeds(count, seed)]


def from_rendered(scene: RenderedScene, categories: Sequence[str]) -> LabeledImage:
    """A rendered scene with the objects of ``categories``; those that are not in it are known to be absent."""
    labels = {c: scene.labels(c) for c in categories}
    present = {c: ids for c, ids in labels.items() if ids.any()}
    absent = tuple(AbsentCategory(c, "verified") for c in categories if c not in present)
    return LabeledImage(f"rendered/{scene.seed}", "rendered", scene.rgb, present, {}, centreline=False, absent=absent)


def _seeds(count: int, seed: int) -> range:
    first = seed * 100_000 + 1000
    return range(first, first + count)


def _render(seed: int) -> LabeledImage:
    gsd = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)[seed % 7]
    return from_rendered(_renderer()(seed, width=512, height=512, gsd_m=gsd), RENDERED)


def _renderer() -> Any:
    try:
        from terraprompt_synthetic import render
    except ImportError:
        raise ConfigError(
            "Rendered scenes need the package terraprompt-synthetic.",
            hint="Run: pip install 'terraprompt[synthetic]', or train without them: --rendered 0.",
        ) from None
    return render
