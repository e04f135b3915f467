"""How a scene is cut: pure functions from sizes to tiles."""

from __future__ import annotations

from dataclasses import dataclass

from terraprompt.errors import ConfigError
from terraprompt.geometry.frame import Frame

__all__ = ["Tile", "TilePlan", "plan"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the scene, and the pixel grid on which an engine sees it.

    Attributes:
        left, top, width, height: in scene pixels.
        grid: (height, width) that the engine sees; None = the scene's own pixels.
    """

    left: int
    top: int
    width: int
    height: int
    grid: tuple[int, int] | None = None

    @property
    def right(self) -> int:
        """First column after the tile."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row after the tile."""
        return self.top + self.height

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) that the engine sees."""
        return self.grid or (self.height, self.width)

    @property
    def frame(self) -> Frame:
        """The map between scene pixels and the pixels that the engine sees."""
        window = (float(self.left), float(self.top), float(self.width), float(self.height))
        return Frame.crop((self.bottom, self.right), window, self.shape)

    def __str__(self) -> str:
        return f"x {self.left}..{self.right}, y {self.top}..{self.bottom}"


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Tiles of one size on a grid that covers a scene.

    Attributes:
        width, height: of the scene, pixels.
        tile_width, tile_height: of every tile; less than the size asked for only where the scene is smaller.
        overlap: pixels shared by neighbours; more at the last row and column, which are shifted inwards.
        xs, ys: left edges of the columns, top edges of the rows, ascending.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    overlap: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.xs) * len(self.ys)

    @property
    def rows(self) -> int:
        """Number of tile rows."""
        return len(self.ys)

    def row(self, index: int) -> tuple[Tile, ...]:
        """The tiles of one row, left to right."""
        return tuple(Tile(x, self.ys[index], self.tile_width, self.tile_height) for x in self.xs)

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row."""
        return tuple(tile for index in range(self.rows) for tile in self.row(index))


def _starts(length: int, size: int, overlap: int) -> tuple[int, ...]:
    if length <= size:
        return (0,)
    return (*range(0, length - size, size - overlap), length - size)


def plan(width: int, height: int, size: int, overlap: int) -> TilePlan:
    """Cut a scene into tiles in row-major order.

    Args:
        width: of the scene, pixels, at least 1.
        height: of the scene, pixels, at least 1.
        size: tile side, pixels. A scene smaller than a tile gives one tile of the scene's own size in that direction.
        overlap: pixels shared by neighbours, less than ``size``. The last tile of a row or column is shifted inwards,
            so that no tile reaches outside.

    Raises:
        ConfigError: a size below 1, or an overlap that leaves no step.
    """
    if min(width, height) < 1:
        raise ConfigError("A scene must be at least 1 x 1 pixels.", received=(width, height))
    if size < 1:
        raise ConfigError("A tile must be at least 1 pixel wide.", received=size)
    if not 0 <= overlap < size:
        raise ConfigError(f"The overlap must be from 0 to {size - 1}, less than the tile.", received=overlap)
    return TilePlan(
        width,
        height,
        min(size, width),
        min(size, height),
        overlap,
        _starts(width, size, overlap),
        _starts(height, size, overlap),
    )
