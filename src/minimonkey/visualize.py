"""Pictures for people: the cut lines of a pyramid on its picture, its tiles as the model sees them, boxes, tokens that are kept.

Knows PIL and the pyramid's integers, no model. All functions return new RGB pictures and leave what they are given alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from minimonkey.errors import UsageError
from minimonkey.pyramid import Box, Level, LevelName, Pyramid

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER: Colour = (250, 250, 248)
INK: Colour = (31, 41, 55)
MUTED: Colour = (107, 114, 128)
HALO: Colour = (255, 255, 255)
DROPPED: Colour = (148, 163, 184)
"""Laid over what isn't kept: neither paper nor ink."""
LEVEL_COLOURS: dict[LevelName, Colour] = {"detail": (37, 99, 235), "adaptive": (234, 88, 12), "thumbnail": (5, 150, 105)}
BOX_COLOURS: tuple[Colour, ...] = ((220, 38, 38), (37, 99, 235), (5, 150, 105), (234, 88, 12), (147, 51, 234), (8, 145, 178))

LONG_SIDE_PX = (900, 1600)
"""Smaller pictures are enlarged and larger ones reduced to this range of the longer side: lines and legend stay readable."""
SHORT_SIDE_PX = 40
"""A strip is drawn at least this thick, whatever its proportions."""
TILE_PX = (56, 240)
"""Side of a tile on the contact sheet."""
MARGIN_PX, FONT_PX, DASH_PX = 28, 16, 12


def draw_pyramid(picture: Image.Image, pyramid: Pyramid) -> Image.Image:
    """Draw each level's cut lines on a picture, in the level's colour, and a legend below.

    Detail cuts are solid, adaptive cuts dashed (where both fall together the colours alternate), the thumbnail is the frame.

    Args:
        picture: the picture.
        pyramid: how it is cut.

    Returns:
        A drawing of at most about 1700 x 1800 px.
    """
    width, height = _drawn_size(picture.width, picture.height)
    legend = _legend(pyramid, max(width, 420))
    sheet = Image.new("RGB", (max(width, 420) + 2 * MARGIN_PX, height + legend.height + 2 * MARGIN_PX), PAPER)
    left, top = (sheet.width - width) // 2, MARGIN_PX
    sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(sheet)
    line_px = 2 if max(width, height) < 1200 else 3
    for level in filter(None, (pyramid.detail, pyramid.adaptive)):
        for cut in _cut_lines(level, Box(left, top, left + width, top + height)):
            for stroke in [cut] if level is pyramid.detail else _dashes(cut):
                draw.line(stroke, HALO, line_px + 2)
                draw.line(stroke, LEVEL_COLOURS[level.name], line_px)
    frame = LEVEL_COLOURS["thumbnail"] if pyramid.thumbnail else MUTED
    draw.rectangle((left - line_px, top - line_px, left + width + line_px - 1, top + height + line_px - 1), None, frame, line_px)
    sheet.paste(legend, ((sheet.width - legend.width) // 2, top + height + MARGIN_PX // 2))
    return sheet


def contact_sheet(picture: Image.Image, pyramid: Pyramid) -> Image.Image:
    """Draw the tiles as the model sees them, level by level, numbered in the order of the sequence.

    Args:
        picture: the picture.
        pyramid: how it is cut.

    Returns:
        A drawing of at most about 1700 px across.
    """
    panels, first = [], 0
    for level in pyramid.levels:
        panels.append(_panel(picture, level, first))
        first += level.grid.tiles
    widest = max(LONG_SIDE_PX[1], *(panel.width for panel in panels))
    places, x, y, row_height = [], 0, 0, 0
    for panel in panels:
        if x and x + panel.width > widest:
            x, y, row_height = 0, y + row_height + MARGIN_PX, 0
        places.append((MARGIN_PX + x, MARGIN_PX + y))
        x, row_height = x + panel.width + MARGIN_PX, max(row_height, panel.height)
    right = max(left + panel.width for (left, _), panel in zip(places, panels, strict=True))
    bottom = max(top + panel.height for (_, top), panel in zip(places, panels, strict=True))
    sheet = Image.new("RGB", (right + MARGIN_PX, bottom + MARGIN_PX), PAPER)
    for place, panel in zip(places, panels, strict=True):
        sheet.paste(panel, place)
    return sheet


def draw_boxes(picture: Image.Image, boxes: Iterable[Sequence[float]], labels: Sequence[str] = ()) -> Image.Image:
    """Draw boxes on a picture, each with its label.

    Models write what they like: corners in the wrong order are swapped, and a box that leaves the picture ends at its edge. Lines
    are drawn around the box as far as there is room.

    Args:
        picture: the picture.
        boxes: each (left, top, right, bottom) in the picture's pixels.
        labels: of the boxes, in their order; "" for none. Pillow's own font has Latin letters only.

    Returns:
        A drawing in the picture's size.
    """
    drawn = picture.convert("RGB").copy()
    draw = ImageDraw.Draw(drawn)
    line_px = max(1, round(max(drawn.size) / 500))
    font = ImageFont.load_default(max(12, 7 * line_px))
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        left, right = sorted(min(max(x, 0), drawn.width) for x in (x0, x1))
        top, bottom = sorted(min(max(y, 0), drawn.height) for y in (y0, y1))
        colour = BOX_COLOURS[index % len(BOX_COLOURS)]
        near = max(0, left - line_px), max(0, top - line_px)
        far = min(drawn.width, right + line_px) - 1, min(drawn.height, bottom + line_px) - 1
        draw.rectangle((near[0] - 1, near[1] - 1, far[0] + 1, far[1] + 1), None, HALO, line_px + 2)
        draw.rectangle((*near, *far), None, colour, line_px)
        if index < len(labels) and labels[index]:
            _tag(draw, labels[index], near, colour, font, drawn.width)
    return drawn


def draw_kept(picture: Image.Image, pyramid: Pyramid, selected: Iterable[int], tokens_per_tile: int) -> Image.Image:
    """Draw a picture with the detail tokens that compression dropped in grey, and below how many it kept.

    The other levels, which keep all their tokens, aren't drawn. Where tokens were averaged, those whose place the averages took
    stand for them.

    Args:
        picture: the picture.
        pyramid: how it is cut.
        selected: the detail tokens that stay, counted from the first one, tile by tile and row by row (`Selection.selected`).
        tokens_per_tile: image tokens of a tile, a square number.

    Returns:
        A drawing of at most about 1700 px across.

    Raises:
        UsageError: a picture without a detail level, or tiles of a number of tokens that is no square.
    """
    side = math.isqrt(tokens_per_tile)
    if pyramid.detail is None or side * side != tokens_per_tile:
        given = f"{pyramid.level_tiles[0]} detail tiles of {tokens_per_tile} tokens"
        raise UsageError(f"can't draw what is kept of {given}: expected 2 tiles or more, and a square number of tokens")
    level, chosen = pyramid.detail, sorted(selected)
    kept = Image.new("L", (level.grid.columns * side, level.grid.rows * side))
    for token in chosen:
        tile, place = divmod(token, tokens_per_tile)
        row, column = divmod(tile, level.grid.columns)
        kept.putpixel((column * side + place % side, row * side + place // side), 255)
    size = _drawn_size(picture.width, picture.height)
    left, top, right, bottom = (edge * side / level.tile_px for edge in level.content)
    clear = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    faded = Image.blend(clear.convert("L").convert("RGB"), Image.new("RGB", size, DROPPED), 0.8)
    drawn = Image.composite(clear, faded, kept.resize(size, Image.Resampling.NEAREST, box=(left, top, right, bottom)))
    sheet = Image.new("RGB", (max(size[0], 420) + 2 * MARGIN_PX, size[1] + 3 * MARGIN_PX), PAPER)
    sheet.paste(drawn, ((sheet.width - size[0]) // 2, MARGIN_PX))
    total = level.grid.tiles * tokens_per_tile
    caption = f"{len(chosen)} of {total} detail tokens kept, {len(chosen) / total:.0%}"
    middle = (sheet.width // 2, size[1] + 2 * MARGIN_PX)
    ImageDraw.Draw(sheet).text(middle, caption, INK, ImageFont.load_default(FONT_PX), "mm")
    return sheet


def _drawn_size(width: int, height: int) -> tuple[int, int]:
    smallest, largest = LONG_SIDE_PX
    scale = min(max(smallest, max(width, height)), largest) / max(width, height)
    return max(SHORT_SIDE_PX, round(width * scale)), max(SHORT_SIDE_PX, round(height * scale))


class _Line(NamedTuple):
    x0: float
    y0: float
    x1: float
    y1: float


def _cut_lines(level: Level, frame: Box) -> list[_Line]:
    """The inner cut lines of a level where the picture is drawn in `frame`."""
    boxes = [tile.source_box for tile in level.tiles]
    across = (frame.right - frame.left) / level.source.width
    down = (frame.bottom - frame.top) / level.source.height
    columns = sorted({box.left for box in boxes} - {0, level.source.width})
    rows = sorted({box.top for box in boxes} - {0, level.source.height})
    vertical = (round(frame.left + cut * across) for cut in columns)
    horizontal = (round(frame.top + cut * down) for cut in rows)
    return [_Line(x, frame.top, x, frame.bottom - 1) for x in vertical] + [
        _Line(frame.left, y, frame.right - 1, y) for y in horizontal
    ]


def _dashes(line: _Line) -> Iterator[_Line]:
    """The strokes of a dashed line, which is upright or level."""
    step_x, step_y = (1, 0) if line.y0 == line.y1 else (0, 1)
    length = max(line.x1 - line.x0, line.y1 - line.y0)
    for start in range(0, int(length), 2 * DASH_PX):
        stop = min(start + DASH_PX, length)
        yield _Line(line.x0 + step_x * start, line.y0 + step_y * start, line.x0 + step_x * stop, line.y0 + step_y * stop)


def _title(level: Level) -> str:
    columns, rows = level.grid
    return f"{columns} x {rows}" + (f" = {level.grid.tiles} tiles" if level.grid.tiles > 1 else " tile")


def _legend(pyramid: Pyramid, width_px: int) -> Image.Image:
    """One entry a level (sample line, name, grid) and the totals, on as many rows as the width asks for."""
    font = ImageFont.load_default(FONT_PX)
    row_px, sample_px, gap_px = round(1.7 * FONT_PX), 3 * DASH_PX, 20
    source, tiles = pyramid.source, "1 tile" if pyramid.tile_count == 1 else f"{pyramid.tile_count} tiles"
    total = f"{source.width} x {source.height} px, {tiles} of {pyramid.spec.tile_px} px"
    entries: list[tuple[Level | None, float]] = [
        (level, sample_px + 8 + font.getlength(f"{level.name}  {_title(level)}")) for level in pyramid.levels
    ]
    entries.append((None, font.getlength(total)))
    places, x, row = [], 0.0, 0
    for _, length in entries:
        if x and x + length > width_px:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += length + gap_px
    legend = Image.new("RGB", (width_px, (row + 1) * row_px + 4), PAPER)
    draw = ImageDraw.Draw(legend)
    for (level, length), (x, row) in zip(entries, places, strict=True):
        middle = row * row_px + row_px // 2
        if level is None:
            draw.text((width_px - length if x else 0, middle), total, MUTED, font, "lm")
            continue
        colour = LEVEL_COLOURS[level.name]
        if level.name == "thumbnail":
            draw.rectangle((x + 6, middle - 8, x + sample_px - 6, middle + 8), None, colour, 3)
        else:
            sample = _Line(x, middle, x + sample_px, middle)
            for stroke in [sample] if level.name == "detail" else _dashes(sample):
                draw.line(stroke, colour, 3)
        _write_title(draw, level, (x + sample_px + 8, middle), font)
    return legend


def _panel(picture: Image.Image, level: Level, first: int) -> Image.Image:
    """The tiles of a level in their grid, under a heading; `first` is the number of its first tile in the sequence."""
    from minimonkey.processing.image_processor import render_level  # needs transformers, which the other functions here do without

    canvas = render_level(picture, level)
    columns, rows = level.grid
    gap_px, head_px, caption_px = 8, round(1.8 * FONT_PX), 18
    side = min(max(TILE_PX[0], LONG_SIDE_PX[1] // max(columns, rows) - gap_px), TILE_PX[1])
    font, small = ImageFont.load_default(FONT_PX), ImageFont.load_default(12)
    width = max(columns * (side + gap_px), round(font.getlength(f"{level.name}  {_title(level)}")))
    panel = Image.new("RGB", (width, head_px + rows * (side + caption_px)), PAPER)
    draw = ImageDraw.Draw(panel)
    colour = LEVEL_COLOURS[level.name]
    _write_title(draw, level, (0, head_px // 2 - 3), font)
    for index, tile in enumerate(level.tiles):
        left, top = 1 + (index % columns) * (side + gap_px), head_px + (index // columns) * (side + caption_px)
        panel.paste(canvas.crop(tile.canvas_box).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), None, colour, 1)
        draw.text((left + side // 2, top + side + caption_px // 2), str(first + index), MUTED, small, "mm")
    return panel


def _write_title(draw: ImageDraw.ImageDraw, level: Level, middle: tuple[float, float], font: Font) -> None:
    """Name and grid of a level, from the middle of their left edge on."""
    x, y = middle
    draw.text((x, y), level.name, LEVEL_COLOURS[level.name], font, "lm")
    draw.text((x + font.getlength(f"{level.name}  "), y), _title(level), INK, font, "lm")


def _tag(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: Colour, font: Font, width_px: int) -> None:
    """White text on a tab of this colour that stands on the corner; hangs from it where there is no room above.

    It moves to the left, as far as the edge, where the picture, `width_px` wide, has too little room on the right.
    """
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    pad = max(2, (bottom - top) // 4)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(corner[0], width_px - 1 - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), colour)
    draw.text((x + pad - left, y + pad - top), text, HALO, font)
