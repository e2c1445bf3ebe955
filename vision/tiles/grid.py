"""Where the tiles of an image are, and how what they give is put together again.

`vision.predict` and the server share this, so that both cut the same tiles and average them alike.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError, check_choice, check_count, check_range

SMALLEST = 8  # pixels of a tile's side
LARGEST = 65_536
MOST_OVERLAP = 0.9  # with more, tiles of 8 pixels would not advance
ROUNDING = 1e-6  # pixels: 0.29 x 100 is not 29 for a computer


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut, and how one decision is made of an image's tiles.

    Attributes:
        tiles: side of a tile, in pixels of the image.
        overlap: the part of its side that a tile shares with the next one, at least.
        normal: the class of images without defects; None if there is none.
        defect_threshold: what the probability of another class must exceed in a tile.
    """

    tiles: int
    overlap: float = 0.25
    normal: str | None = None
    defect_threshold: float = 0.5


KEYS = tuple(field.name for field in dataclasses.fields(Tiling))


def tiling_of(given: Mapping[str, Any], spell: Callable[[str], str] = str) -> Tiling | None:
    """Returns the `Tiling` that flags or parameters ask for; None if they are not about tiles.

    Args:
        given: values of the right types by their names in `Tiling`; others have the defaults.
        spell: returns how a message names one of them.

    Raises:
        UserError: a value is out of range, or means nothing without another.
    """
    if "tiles" not in given:
        for key in given:
            raise UserError(f"{spell(key)} needs {spell('tiles')}, the side of a tile in pixels")
        return None
    tiling = Tiling(**given)
    check_count(spell("tiles"), tiling.tiles, SMALLEST, LARGEST)
    is_inside = 0 <= tiling.overlap <= MOST_OVERLAP
    check_range(spell("overlap"), tiling.overlap, is_inside, f"in [0, {MOST_OVERLAP}]")
    is_inside = 0 <= tiling.defect_threshold < 1
    check_range(spell("defect_threshold"), tiling.defect_threshold, is_inside, "in [0, 1)")
    if "defect_threshold" in given and tiling.normal is None:
        raise UserError(
            f"{spell('defect_threshold')} needs {spell('normal')}, the class without defects"
        )
    return tiling


def check_normal(tiling: Tiling, classes: Sequence[str], spell: Callable[[str], str] = str) -> None:
    """Raises `UserError` unless a tiling's normal class is one of several classes."""
    if tiling.normal is None:
        return
    check_choice(spell("normal"), tiling.normal, classes)
    if len(classes) < 2:
        raise UserError(f"{spell('normal')}: the model has no other class that could be a defect")


class Tile(NamedTuple):
    """A rectangle of an image, in pixels.

    Attributes:
        x, y: of its upper left corner.
        width, height: its size.
    """

    x: int
    y: int
    width: int
    height: int


class DefectMap(NamedTuple):
    """The mean probabilities of the tiles that cover each place of an image.

    They are constant on the cells between the edges of tiles, and the map has one entry a cell.

    Attributes:
        probabilities: float32 (classes, rows, columns).
        x: int32 (columns + 1,), pixels at which the columns begin and the last one ends.
        y: int32 (rows + 1,), the same of the rows.
    """

    probabilities: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tiles of an image, numbered row by row.

    Attributes:
        width, height: of the image, pixels.
        x: left edges of the columns of tiles.
        y: upper edges of the rows of tiles.
        tile_width, tile_height: of each tile, pixels.
    """

    width: int
    height: int
    x: Sequence[int]
    y: Sequence[int]
    tile_width: int
    tile_height: int

    def __len__(self) -> int:
        return len(self.x) * len(self.y)

    def __getitem__(self, number: int) -> Tile:
        row, column = divmod(number, len(self.x))
        return Tile(self.x[column], self.y[row], self.tile_width, self.tile_height)

    def cut(self, image: np.ndarray, number: int) -> np.ndarray:
        """Returns a tile of the image (H, W, C), which is not copied."""
        x, y, width, height = self[number]
        return image[y : y + height, x : x + width]

    def average(self, probabilities: np.ndarray) -> DefectMap:
        """Returns the `DefectMap` of the probabilities (tiles, classes)."""
        rows = np.asarray(probabilities, np.float64).reshape(len(self.y), len(self.x), -1)
        rows, y = _average(rows, self.y, self.tile_height)
        columns, x = _average(rows.swapaxes(0, 1), self.x, self.tile_width)
        return DefectMap(columns.transpose(2, 1, 0).astype(np.float32, order="C"), x, y)


def grid_of(width: int, height: int, tiling: Tiling, most: int) -> Grid:
    """Returns the `Grid` of an image.

    The last row and the last column are shifted inward, so that they end with the image. An image
    that is no larger than a tile is one tile. If only one of its sides is shorter, tiles are
    squares of that side: a model that crops the center of what it gets would miss the ends of
    narrower ones.

    Args:
        width, height: of the image, pixels.
        tiling: how it is cut.
        most: the number of tiles that is allowed.

    Raises:
        UserError: there are more.
    """
    if max(width, height) <= tiling.tiles:
        return Grid(width, height, (0,), (0,), width, height)
    side = min(tiling.tiles, width, height)
    step = max(1, side - math.ceil(side * tiling.overlap - ROUNDING))
    columns, rows = (1 + -(-(length - side) // step) for length in (width, height))
    if columns * rows > most:
        raise UserError(
            f"{width} x {height} pixels make {columns * rows:,} tiles of {side}, but at most "
            f"{most:,} are allowed: use larger tiles or less overlap"
        )
    x, y = ((*range(0, length - side, step), length - side) for length in (width, height))
    return Grid(width, height, x, y, side, side)


def _average(values, starts, size):
    """Averages values along axis 0 on the cells between the edges of intervals.

    Args:
        values: float64 (intervals, ...).
        starts: of the intervals, rising.
        size: of each interval.

    Returns:
        (float64 (cells, ...), int32 (cells + 1,) edges).
    """
    first = np.asarray(starts)
    edges = np.union1d(first, first + size)
    # of each cell, the intervals that cover it: from `begin` to before `end`
    begin = np.searchsorted(first + size, edges[:-1], "right")
    end = np.searchsorted(first, edges[:-1], "right")
    padded = np.concatenate([values, np.zeros_like(values[:1])])  # `end` may be their number
    sums = np.add.reduceat(padded, np.stack([begin, end], 1).ravel(), axis=0)[::2]
    counts = (end - begin).reshape(-1, *[1] * (values.ndim - 1))
    return sums / counts, edges.astype(np.int32)
