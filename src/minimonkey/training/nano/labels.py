"""What the renderer knows about each patch of each tile: which characters have their centre in it, and what stands at points of it.

Shape legend: T tiles, N patches of a tile, K character slots of a patch, 2 points of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minimonkey.pyramid import Level, PyramidSpec, Size
from minimonkey.synthetic.material.words import ALPHABET
from minimonkey.synthetic.rendering.lines import Line, Sample

SLOTS = 3
"""Characters that one patch can name: a patch rarely holds the centres of more."""
POINTS = 2
"""Points of a patch, side by side: at a quarter and three quarters of its width, half way down."""
SMALLEST_PX = 8.0
"""Print whose em is smaller than this on a level's canvas is neither asked for nor held against the encoder."""
IGNORE = -100
CLASS_OF = {character: index + 1 for index, character in enumerate(ALPHABET)}
"""Class of each character, the space between two words included; 0 is an empty slot or point."""
REACH = 0.45
"""How far above and below a character's centre it is taken to reach, in ems: a little more than a capital does."""


class Placed(NamedTuple):
    """A line on a level's canvas, in patches."""

    classes: np.ndarray
    """int16 [characters]: 0 for one that the alphabet lacks"""
    x: np.ndarray
    y: np.ndarray
    """float [characters]: the centres"""
    ends: np.ndarray
    """float [characters + 1]: where each character's advance begins, and the last one's end"""
    reach: float
    too_small: bool


def _placed(level: Level, lines: list[Line], patch_px: int) -> Iterator[Placed]:
    scale_x, scale_y = (scale / patch_px for scale in level.scale)
    left, top = level.content.left / patch_px, level.content.top / patch_px
    for line in lines:
        yield Placed(
            np.array([CLASS_OF.get(character, 0) for character in line.text], np.int16),
            left + line.centers[:, 0] * scale_x,
            top + line.centers[:, 1] * scale_y,
            left + np.append(line.edges[:, 0], line.edges[-1, 1]) * scale_x,
            line.em_px * REACH * scale_y,
            line.em_px * scale_y * patch_px < SMALLEST_PX,
        )


def _tiles(canvas: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows * side, columns * side, K] -> [rows * columns, side * side, K]"""
    side, last = len(canvas) // rows, canvas.shape[-1]
    return canvas.reshape(rows, side, columns, side, last).swapaxes(1, 2).reshape(rows * columns, side * side, last)


def character_labels(sample: Sample, spec: PyramidSpec, patch_px: int) -> np.ndarray:
    """For every patch of every tile, the classes of the characters whose centres fall in it: int16 [T, N, K], by line, then x.

    Patches with print of less than SMALLEST_PX on a level's canvas are IGNORE. Of more than K in a patch the first count.
    """
    size = Size(sample.picture.height, sample.picture.width)
    side = spec.tile_px // patch_px
    levels = []
    for level in spec.plan(size).levels:
        columns, rows = level.grid
        labels = np.zeros((rows * side, columns * side, SLOTS), np.int16)
        filled = np.zeros((rows * side, columns * side), np.int16)
        for line in _placed(level, sample.lines, patch_px):
            for character, column, row in zip(line.classes, line.x.astype(int), line.y.astype(int), strict=True):
                if character == 0 or not (0 <= row < rows * side and 0 <= column < columns * side):
                    continue
                if line.too_small:
                    labels[row, column] = IGNORE
                elif filled[row, column] < SLOTS:
                    labels[row, column, filled[row, column]] = character
                    filled[row, column] += 1
        levels.append(_tiles(labels, rows, columns))
    return np.concatenate(levels)


def point_labels(sample: Sample, spec: PyramidSpec, patch_px: int) -> np.ndarray:
    """For every patch of every tile, the class of the character that each of its points lies on: int16 [T, N, POINTS].

    Every part of a large character is named, and nothing depends on which patch holds a centre: many more answers a tile than
    `character_labels` has, and none that a pixel's shift turns over. Too small print is IGNORE.
    """
    size = Size(sample.picture.height, sample.picture.width)
    side = spec.tile_px // patch_px
    levels = []
    for level in spec.plan(size).levels:
        columns, rows = level.grid
        labels = np.zeros((rows * side, columns * side * POINTS), np.int16)
        x = (np.arange(labels.shape[1]) + 0.5) / POINTS
        y = np.arange(len(labels))[:, None] + 0.5
        for line in _placed(level, sample.lines, patch_px):
            first, last = np.searchsorted(x, (line.ends[0], line.ends[-1]))
            if first == last:
                continue
            index = np.clip(np.searchsorted(line.ends, x[first:last], side="right") - 1, 0, len(line.classes) - 1)
            reached = (np.abs(y - line.y[index]) <= line.reach) & (line.classes[index] > 0)
            there = labels[:, first:last]
            there[reached] = IGNORE if line.too_small else np.broadcast_to(line.classes[index], there.shape)[reached]
        levels.append(_tiles(labels.reshape(rows * side, columns * side, POINTS), rows, columns))
    return np.concatenate(levels)


def line_starts(text: str, places: np.ndarray, tokens: int) -> np.ndarray:
    """For each of so many image tokens the one, in the same level, that the printed line it shows begins in: int32 [tokens].

    `places` int [characters, 3] are those of `character_tokens`. -1 for a token without print, and where the line begins in a token
    further on: a line that climbs.
    """
    starts, first = np.full(tokens, -1, np.int32), 0
    for line in text.split("\n"):
        for level in places[first : first + len(line)].T:
            shown = level[level >= 0]
            starts[shown] = shown[:1]
        first += len(line) + 1
    return np.where(starts <= np.arange(tokens), starts, -1)


def character_tokens(sample: Sample, spec: PyramidSpec, patch_px: int) -> np.ndarray:
    """The image tokens that each character of `sample.text` has its centre in: int32 [characters, 3], one a level.

    Counted from the picture's first image token; a token is two by two patches. -1 where there is none: a newline, a level left
    out, print that is too small there, a character outside of the picture.
    """
    size = Size(sample.picture.height, sample.picture.width)
    side = spec.tile_px // patch_px // 2
    levels = []
    first = 0
    for level in spec.plan(size).levels:
        columns, rows = level.grid
        places: list[np.ndarray] = []
        for line in _placed(level, sample.lines, 2 * patch_px):
            x, y = np.floor(line.x).astype(int), np.floor(line.y).astype(int)
            tile, token = (y // side) * columns + x // side, (y % side) * side + x % side
            inside = (x >= 0) & (x < columns * side) & (y >= 0) & (y < rows * side) & (not line.too_small)
            places += [np.where(inside, first + tile * side**2 + token, -1), np.array([-1])]
        levels.append(np.concatenate([np.empty(0, int), *places[:-1]]))
        first += level.grid.tiles * side**2
    levels += [np.full_like(levels[0], -1)] * (3 - len(levels))
    return np.stack(levels, axis=1).astype(np.int32)
