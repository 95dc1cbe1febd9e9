"""Grids of tiles: the published rule that gives a picture its grid, and the tiles of a grid laid over a picture. On integers.

The rule is `find_closest_aspect_ratio` and `dynamic_preprocess` of InternVL 1.5 and of everything built on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

LevelName = Literal["detail", "adaptive", "thumbnail"]
LEVEL_NAMES: tuple[LevelName, ...] = ("detail", "adaptive", "thumbnail")
MOST_TILES = 4096
"""Largest budget of a level: far beyond any model's context, small enough to enumerate all grids at once."""


class Scale(NamedTuple):
    """Two factors."""

    across: float
    down: float


class Size(NamedTuple):
    """Height and width in pixels, in this order (as tensors have them; PIL has the other)."""

    height: int
    width: int


class Grid(NamedTuple):
    """Tiles across and tiles down, in this order (as the papers print them)."""

    columns: int
    rows: int

    @property
    def tiles(self) -> int:
        return self.columns * self.rows


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are excluded."""

    left: int
    top: int
    right: int
    bottom: int


class Tile(NamedTuple):
    """One square that the vision encoder sees.

    `canvas_box` lies in the canvas of its level; `source_box` is the same part of the picture, in the picture's own pixels.
    Source boxes of a level partition the picture. They are empty where a picture is smaller than its grid, or a tile all padding.
    """

    canvas_box: Box
    source_box: Box


@dataclass(frozen=True)
class Level:
    """One copy of the picture: resized onto a canvas of whole tiles, cut row by row."""

    name: LevelName
    grid: Grid
    tile_px: int
    source: Size
    content: Box
    """Where in the canvas the picture lies: all of it unless `PyramidSpec.fit` is "pad"."""

    @property
    def scale(self) -> Scale:
        """What one pixel of the picture becomes, in pixels of the canvas."""
        left, top, right, bottom = self.content
        return Scale((right - left) / self.source.width, (bottom - top) / self.source.height)

    @property
    def canvas(self) -> Size:
        return Size(self.grid.rows * self.tile_px, self.grid.columns * self.tile_px)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles of this level, row by row."""
        left, top, right, bottom = self.content
        across = _cuts(self.grid.columns, self.tile_px, self.source.width, left, right)
        down = _cuts(self.grid.rows, self.tile_px, self.source.height, top, bottom)
        px = self.tile_px
        return tuple(
            Tile(Box(i * px, j * px, i * px + px, j * px + px), Box(across[i], down[j], across[i + 1], down[j + 1]))
            for j in range(self.grid.rows)
            for i in range(self.grid.columns)
        )


@lru_cache
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """All grids of `min_tiles` to `max_tiles` tiles, by area, then by columns: the order in which `nearest_grid` breaks ties.

    The published code sorts a Python set by area alone, so that grids of one area come in hash order. The order here is fixed;
    with every published pair of budgets it gives the published choice for each picture size (tests/test_pyramid.py shows it).
    """
    sides = range(1, max_tiles + 1)
    grids = (Grid(columns, rows) for columns in sides for rows in range(1, max_tiles // columns + 1))
    return tuple(sorted((grid for grid in grids if grid.tiles >= min_tiles), key=lambda grid: (grid.tiles, grid.columns)))


def nearest_grid(candidates: tuple[Grid, ...] | list[Grid], source: Size, tile_px: int) -> Grid:
    """The grid whose columns / rows is nearest the picture's width / height.

    At an exact tie a later grid replaces an earlier one if the picture has more than half of its pixels. Ratios are compared as
    Python floats, as in the published `find_closest_aspect_ratio`: exact fractions break ties differently (500x1000, say).

    Args:
        candidates: in their order.
        source: the picture's size in pixels.
        tile_px: the side of a tile in pixels.

    Returns:
        One of the candidates; Grid(1, 1) if there are none.
    """
    best, best_distance = Grid(1, 1), math.inf
    ratio = source.width / source.height
    for grid in candidates:
        distance = abs(ratio - grid.columns / grid.rows)
        tie_to_later = distance == best_distance and source.width * source.height > 0.5 * tile_px * tile_px * grid.tiles
        if distance < best_distance or tie_to_later:
            best, best_distance = grid, distance
    return best


def _cuts(count: int, tile_px: int, source_px: int, start: int, stop: int) -> list[int]:
    """Cut lines of an axis in source pixels, rounded down, edges included; start to stop of the canvas show the source."""
    shown_px = (min(max(index * tile_px, start), stop) - start for index in range(1, count))
    return [0, *(px * source_px // (stop - start) for px in shown_px), source_px]
