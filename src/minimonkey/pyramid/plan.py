"""The complementary image pyramid (CIP), on integers: which tiles does a picture of this size become?

Knows nothing of pixels, tensors or models. The published rules are those of Mini-Monkey (arXiv 2408.02034, section 3) as its code
has them: `project/mini_monkey/demo.py` and `eval/internvl_chat.py` for inference, `internvl/train/dataset.py` for training.

    picture --> detail grid: the grid of 4-12 tiles whose proportions are nearest the picture's
            --> adaptive grid: the same of 3-7 tiles, among grids whose cut lines are not all cuts of the detail grid
            --> thumbnail: the whole picture as one tile
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from minimonkey.errors import PyramidError, check_keys, shown
from minimonkey.pyramid.grid import LEVEL_NAMES, MOST_TILES, Box, Grid, Level, LevelName, Size, candidate_grids, nearest_grid


class Span(NamedTuple):
    """Positions start, ..., stop - 1 of a sequence."""

    start: int
    stop: int


@dataclass(frozen=True)
class PyramidSpec:
    """How pictures are cut. The defaults are those of Mini-Monkey's demo, with the tile order of its training code.

    `PyramidSpec.plain(...)` is the dynamic tiling of InternVL2: one level of tiles and the thumbnail.
    """

    tile_px: int = 448
    """Side of a tile in pixels: what the vision encoder was built for."""
    detail: tuple[int, int] = (4, 12)
    """Fewest and most tiles of the detail level."""
    adaptive: tuple[int, int] | None = (3, 7)
    """Fewest and most tiles of the adaptive level; None leaves the level out."""
    exclude: Literal["both", "either", "none"] = "both"
    """Which adaptive grids are out: those with both sides dividing the detail grid's (demo and evaluation code), with either side
    (training code), or none."""
    order: tuple[LevelName, ...] = LEVEL_NAMES
    """Order of the levels in the sequence. Mini-Monkey's demo has adaptive, detail, thumbnail."""
    max_upscale: float | None = None
    """Give a picture no more columns and rows than hold it enlarged by this factor; None enlarges without bound, as published."""
    thumbnail: bool = True
    """Whether a picture of several tiles is also shown whole."""
    fit: Literal["stretch", "pad"] = "stretch"
    """"stretch" fills the canvas, as published. "pad" keeps the picture's proportions and centres it in the canvas, which spares
    narrow strips from distortion; with it `max_upscale` also bounds the enlargement itself."""

    def __post_init__(self) -> None:
        for name in ("detail", "adaptive", "order"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(getattr(self, name)))
        budget = f"two whole numbers (fewest, most) with 1 <= fewest <= most <= {MOST_TILES}"
        checks = (
            ("tile_px", type(self.tile_px) is int and self.tile_px >= 1, "a positive number of pixels"),
            ("detail", _is_budget(self.detail), budget),
            ("adaptive", self.adaptive is None or _is_budget(self.adaptive), f"{budget}, or None for no adaptive level"),
            ("exclude", self.exclude in ("both", "either", "none"), '"both", "either" or "none"'),
            ("order", _is_order(self.order), f"{', '.join(LEVEL_NAMES)}, each once"),
            ("thumbnail", isinstance(self.thumbnail, bool), "True or False"),
            ("max_upscale", self.max_upscale is None or _is_factor(self.max_upscale), "a positive factor, or None for no bound"),
            ("fit", self.fit in ("stretch", "pad"), '"stretch" or "pad"'),
        )
        for name, is_right, expected in checks:
            if not is_right:
                raise PyramidError(f"pyramid: {name}={shown(getattr(self, name))}: expected {expected}")

    @classmethod
    def plain(cls, min_tiles: int = 1, max_tiles: int = 12, **settings: Any) -> PyramidSpec:
        """The dynamic tiling of InternVL 1.5 and later: one level and a thumbnail.

        Args:
            min_tiles: fewest tiles of the level.
            max_tiles: most tiles of the level.
            settings: other fields.
        """
        return cls(detail=(min_tiles, max_tiles), adaptive=None, **settings)

    @classmethod
    def parse(cls, text: str, **settings: Any) -> PyramidSpec:
        """Read the short form of the command line: "4-12/3-7" (detail / adaptive tiles), or "1-12" for plain tiling.

        Args:
            text: fewest and most tiles of the detail level, and of the adaptive level if there is one.
            settings: other fields.

        Raises:
            PyramidError: the text has another form, or a value is wrong.
        """
        match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})(?:/([0-9]{1,9})-([0-9]{1,9}))?", text.strip())
        if match is None:
            raise PyramidError(f'pyramid {text[:40]!r}: expected fewest-most tiles: "4-12/3-7" (detail/adaptive) or "1-12" (plain)')
        budgets = [(int(match[i]), int(match[i + 1])) if match[i] else None for i in (1, 3)]
        return cls(**{"detail": budgets[0], "adaptive": budgets[1], **settings})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PyramidSpec:
        """The spec of saved JSON (`dataclasses.asdict(spec)`).

        Args:
            settings: any of the fields; the others have their defaults.

        Raises:
            PyramidError: no mapping, an unknown key (the nearest setting is named), or a wrong value.
        """
        check_keys("pyramid", settings, [field.name for field in fields(cls)], PyramidError)
        return cls(**settings)

    def describe(self) -> str:
        """In a few words: `CIP: 4-12 detail tiles, 3-7 adaptive tiles and a thumbnail, 448 px each`."""
        levels = [f"{self.detail[0]}-{self.detail[1]} {'detail tiles' if self.adaptive else 'tiles'}"]
        levels += [f"{self.adaptive[0]}-{self.adaptive[1]} adaptive tiles"] if self.adaptive else []
        thumbnail = " and a thumbnail" if self.thumbnail else ""
        return f"{'CIP' if self.adaptive else 'plain tiling'}: {', '.join(levels)}{thumbnail}, {self.tile_px} px each"

    @property
    def max_tiles(self) -> int:
        """The most tiles that any picture can become."""
        return self.detail[1] + (self.adaptive[1] if self.adaptive else 0) + 1

    def plan(self, source: Size) -> Pyramid:
        """Plan the pyramid of a picture.

        Degenerate cases, each as the published code has it:
        * a detail grid of one tile is no level of its own: the thumbnail, which is the same picture, stands for it;
        * with no adaptive grid left, or only 1x1, there is no adaptive level; under `exclude="either"` (training code) it is
          the whole picture once more;
        * `max_upscale` cuts the chosen grids down; an adaptive grid that then shares all cuts with the detail grid is left out.

        Args:
            source: height and width of the picture, in pixels.

        Returns:
            The levels with their grids and tiles.

        Raises:
            PyramidError: a side below 1 px.
        """
        source = Size(*source)
        if source.height < 1 or source.width < 1:
            raise PyramidError(f"a picture of {source.width}x{source.height} px has no pixels to cut")
        chosen = nearest_grid(candidate_grids(*self.detail), source, self.tile_px)
        detail = self._clamp(chosen, source)
        grids: dict[LevelName, Grid | None] = {
            "detail": detail if detail.tiles > 1 else None,
            "adaptive": self._adaptive_grid(chosen, detail, source),
            "thumbnail": Grid(1, 1) if self.thumbnail or detail.tiles == 1 else None,
        }
        return Pyramid(source, self, **{name: grid and self._level(name, grid, source) for name, grid in grids.items()})

    def _adaptive_grid(self, chosen: Grid, detail: Grid, source: Size) -> Grid | None:
        if self.adaptive is None:
            return None
        candidates = [grid for grid in candidate_grids(*self.adaptive) if not self._excluded(grid, chosen)]
        grid = nearest_grid(candidates, source, self.tile_px)
        clamped = self._clamp(grid, source)
        if (clamped, detail) != (grid, chosen) and self._excluded(clamped, detail):
            return None  # `max_upscale` made their cuts the same
        return None if clamped.tiles == 1 and self.exclude != "either" else clamped

    def _excluded(self, grid: Grid, detail: Grid) -> bool:
        sides_divide = (detail.columns % grid.columns == 0, detail.rows % grid.rows == 0)
        return {"both": all(sides_divide), "either": any(sides_divide), "none": False}[self.exclude]

    def _clamp(self, grid: Grid, source: Size) -> Grid:
        if self.max_upscale is None:
            return grid
        across, down = (self.max_upscale * px / self.tile_px for px in (source.width, source.height))
        return Grid(math.ceil(min(grid.columns, across)) or 1, math.ceil(min(grid.rows, down)) or 1)

    def _level(self, name: LevelName, grid: Grid, source: Size) -> Level:
        width, height = grid.columns * self.tile_px, grid.rows * self.tile_px
        content = Box(0, 0, width, height)
        if self.fit == "pad":
            scale = min(width / source.width, height / source.height, self.max_upscale or math.inf)
            inner_width = min(width, max(1, round(source.width * scale)))
            inner_height = min(height, max(1, round(source.height * scale)))
            left, top = (width - inner_width) // 2, (height - inner_height) // 2
            content = Box(left, top, left + inner_width, top + inner_height)
        return Level(name, grid, self.tile_px, source, content)


@dataclass(frozen=True)
class Pyramid:
    """What `PyramidSpec.plan` decided for one picture. A level that the rules leave out is None."""

    source: Size
    spec: PyramidSpec
    detail: Level | None
    adaptive: Level | None
    thumbnail: Level | None

    @property
    def levels(self) -> Iterator[Level]:
        """The levels that there are, in the order of the sequence."""
        by_name = {"detail": self.detail, "adaptive": self.adaptive, "thumbnail": self.thumbnail}
        return (level for name in self.spec.order if (level := by_name[name]))

    @property
    def tile_count(self) -> int:
        """All tiles, the thumbnail included."""
        return sum(self.level_tiles)

    @property
    def level_tiles(self) -> tuple[int, int, int]:
        """Tiles of the detail, adaptive and thumbnail level, whatever their order in the sequence; 0 for a level left out."""
        detail, adaptive, thumbnail = (level.grid.tiles if level else 0 for level in (self.detail, self.adaptive, self.thumbnail))
        return detail, adaptive, thumbnail

    def spans(self, tokens_per_tile: int) -> dict[LevelName, Span]:
        """Where each level's image tokens stand.

        Args:
            tokens_per_tile: image tokens of a tile, 256 for the published models.

        Returns:
            Spans in the order of the sequence, counted from the picture's first image token.
        """
        spans: dict[LevelName, Span] = {}
        start = 0
        for level in self.levels:
            spans[level.name] = Span(start, start + level.grid.tiles * tokens_per_tile)
            start = spans[level.name].stop
        return spans

    def describe(self) -> str:
        """One line a level, for people: `detail     3x4 tiles  1344x1792 px  x1.62 across, x1.53 down`."""
        lines = [f"{self.source.width}x{self.source.height} px -> {self.tile_count} tiles of {self.spec.tile_px} px"]
        for level in self.levels:
            across, down = level.scale
            grid = f"{level.grid.columns}x{level.grid.rows}"
            canvas = f"{level.canvas.width}x{level.canvas.height} px"
            lines.append(f"{level.name:<10} {grid:>6} tiles  {canvas:>13}  x{across:.2f} across, x{down:.2f} down")
        return "\n".join(lines)


def _is_order(order: Any) -> bool:
    return isinstance(order, tuple) and len(order) == 3 and all(name in order for name in LEVEL_NAMES)


def _is_factor(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number < math.inf


def _is_budget(budget: Any) -> bool:
    is_pair = isinstance(budget, tuple) and len(budget) == 2 and all(type(tiles) is int for tiles in budget)
    return is_pair and 1 <= budget[0] <= budget[1] <= MOST_TILES
