"""A scene at a reduced size, for pictures; read again after it was closed."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import SceneError
from terraprompt.raster.bands import read_tile
from terraprompt.raster.scene import Scene
from terraprompt.raster.stretch import Stretch
from terraprompt.raster.tiles import Tile

__all__ = ["ScenePreview"]


class ScenePreview:
    """``preview(height, width)``: the stretched scene, uint8 (height, width, 3).

    A scene that was closed is opened again, if its files are those that were looked at.

    Args:
        scene: what to show; may be closed later.
        stretch: of its values.
    """

    def __init__(self, scene: Scene, stretch: Stretch) -> None:
        self._scene, self._stretch = scene, stretch
        self._files = _stamps(scene)

    def __call__(self, height: int, width: int) -> NDArray[np.uint8]:
        """Read the scene at a size in pixels.

        Raises:
            SceneError: the scene was closed and cannot be opened again, or its files changed meanwhile.
        """
        whole = Tile(0, 0, self._scene.width, self._scene.height, (height, width))
        with self._opened() as scene:
            return read_tile(scene, self._stretch, whole)[0]

    def _opened(self) -> AbstractContextManager[Scene]:
        if self._scene.is_open:
            return nullcontext(self._scene)
        if _stamps(self._scene) != self._files:
            raise SceneError(
                "The scene changed on disk since it was looked at, so no picture of it can be drawn.",
                received=self._scene.source,
                hint="Give the pixels with scene_rgb, or segment again.",
            )
        return self._scene.reopened()


def _stamps(scene: Scene) -> dict[str, tuple[int, int] | None]:
    """Local file to size and time of change, None where it is gone; what is no local file is left out."""
    found: dict[str, tuple[int, int] | None] = {}
    for path in scene.files:
        name = os.fspath(path)
        if not name.startswith("/vsi"):
            found[name] = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
    return found
