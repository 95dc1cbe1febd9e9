"""The drawings: cut lines where the pyramid cuts, tiles as they are rendered, sizes that stay readable."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from minimonkey import visualize
from minimonkey.errors import UsageError
from minimonkey.processing.image_processor import render_level
from minimonkey.pyramid import PyramidSpec, Size
from minimonkey.visualize import (
    BOX_COLOURS,
    DROPPED,
    LEVEL_COLOURS,
    MARGIN_PX,
    PAPER,
    contact_sheet,
    draw_boxes,
    draw_kept,
    draw_pyramid,
)

GREY = (128, 128, 128)
SPEC = PyramidSpec(tile_px=56)


def plan(picture: Image.Image, spec: PyramidSpec = SPEC):
    return spec.plan(Size(picture.height, picture.width))


def rows_with(colour: tuple[int, int, int], drawn: Image.Image) -> np.ndarray:
    """For each row of pixels, the share that has exactly this colour."""
    return (np.asarray(drawn) == colour).all(axis=2).mean(axis=1)


def columns_with(colour: tuple[int, int, int], drawn: Image.Image) -> np.ndarray:
    return rows_with(colour, drawn.transpose(Image.Transpose.TRANSPOSE))


def centres(shares: np.ndarray, least: float, most: float = 1.0) -> list[float]:
    """The middles of the runs of neighbouring lines whose share is within the bounds."""
    marked = [0, *((shares >= least) & (shares <= most)).astype(int), 0]
    steps = np.diff(marked)
    return [(start + stop) / 2 for start, stop in zip(np.flatnonzero(steps > 0), np.flatnonzero(steps < 0), strict=True)]


def drawing(width: int, height: int, spec: PyramidSpec = SPEC) -> tuple[Image.Image, Image.Image]:
    """A drawn grey picture, and the part of the drawing where the picture is."""
    picture = Image.new("RGB", (width, height), GREY)
    drawn = draw_pyramid(picture, plan(picture, spec))
    scale = min(max(900, width, height), 1600) / max(width, height)
    size = [max(40, round(side * scale)) for side in (width, height)]
    left = (drawn.width - size[0]) // 2
    return drawn, drawn.crop((left, MARGIN_PX, left + size[0], MARGIN_PX + size[1]))


def test_cuts_stand_where_the_pyramid_cuts():
    spec = PyramidSpec(tile_px=56, detail=(12, 12), adaptive=(2, 6))  # 4x3 and 3x2
    _, inside = drawing(1200, 900, spec)
    assert centres(columns_with(LEVEL_COLOURS["detail"], inside), 0.8) == pytest.approx([300, 600, 900], abs=1.5)
    assert centres(rows_with(LEVEL_COLOURS["detail"], inside), 0.8) == pytest.approx([300, 600], abs=1.5)
    assert centres(columns_with(LEVEL_COLOURS["adaptive"], inside), 0.4, 0.7) == pytest.approx([400, 800], abs=1.5)
    assert centres(rows_with(LEVEL_COLOURS["adaptive"], inside), 0.4, 0.7) == pytest.approx([450], abs=1.5)


def test_common_cuts_alternate():
    _, inside = drawing(900, 300, PyramidSpec(tile_px=56, detail=(12, 12), adaptive=(4, 4)))  # 6x2 and 4x1: both cut the middle
    for name in ("detail", "adaptive"):
        middle = columns_with(LEVEL_COLOURS[name], inside)[448:453].max()
        assert 0.35 < middle < 0.65, name


def test_the_thumbnail_is_the_frame():
    drawn, inside = drawing(1200, 900)
    left = (drawn.width - inside.width) // 2
    assert drawn.getpixel((left - 1, 400)) == drawn.getpixel((600, MARGIN_PX - 1)) == LEVEL_COLOURS["thumbnail"]
    assert drawn.getpixel((2, 2)) == PAPER
    bare, _ = drawing(1200, 900, PyramidSpec(tile_px=56, thumbnail=False))
    assert bare.getpixel((left - 1, 400)) == visualize.MUTED


def test_the_legend_names_the_levels_that_there_are():
    def colours_below(spec: PyramidSpec) -> set[str]:
        drawn, inside = drawing(1200, 900, spec)
        below = drawn.crop((0, MARGIN_PX + inside.height + 8, drawn.width, drawn.height))
        return {name for name, colour in LEVEL_COLOURS.items() if rows_with(colour, below).max() > 0}

    assert colours_below(SPEC) == {"detail", "adaptive", "thumbnail"}
    assert colours_below(PyramidSpec(tile_px=56, adaptive=None, thumbnail=False)) == {"detail"}
    assert colours_below(PyramidSpec(tile_px=56, max_upscale=0.01)) == {"thumbnail"}


def test_cuts_of_a_padded_canvas_stand_in_the_picture():
    spec = PyramidSpec.plain(min_tiles=6, max_tiles=6, tile_px=100, fit="pad")
    picture = Image.new("RGB", (400, 100), GREY)
    pyramid = plan(picture, spec)
    assert [tile.source_box.left for tile in pyramid.detail.tiles] == [0, 0, 100, 200, 300, 400]
    _, inside = drawing(400, 100, spec)  # drawn 900 wide: cuts at the edges are left out
    assert centres(columns_with(LEVEL_COLOURS["detail"], inside), 0.8) == pytest.approx([225, 450, 675], abs=1.5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (900, 32), (3000, 20), (20, 3000), (2600, 3000)])
def test_drawings_of_all_sizes_stay_readable(width, height):
    picture = Image.new("RGB", (width, height), GREY)
    for draw in (draw_pyramid, contact_sheet):
        drawn = draw(picture, plan(picture))
        assert drawn.mode == "RGB"
        assert 200 <= drawn.width <= 2100
        assert 100 <= drawn.height <= 2100
    assert draw_pyramid(picture, plan(picture)).width <= 1600 + 2 * MARGIN_PX


def test_the_picture_is_left_alone():
    picture = Image.new("RGBA", (300, 200), (1, 2, 3, 4))
    before = picture.tobytes()
    draw_pyramid(picture, plan(picture))
    contact_sheet(picture, plan(picture))
    draw_boxes(picture, [(10, 10, 90, 90)])
    assert picture.tobytes() == before


def test_the_contact_sheet_shows_the_tiles_as_rendered():
    """Every tile of every level lies somewhere on the sheet, in the order of the sequence from the upper left of its level."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    picture = Image.fromarray(noise)
    pyramid = plan(picture, PyramidSpec(tile_px=56, order=("adaptive", "detail", "thumbnail")))
    sheet = contact_sheet(picture, pyramid)
    top = MARGIN_PX + round(1.8 * visualize.FONT_PX)
    left = MARGIN_PX + 1
    for level in pyramid.levels:
        side = min(visualize.TILE_PX[1], 1600 // max(level.grid) - 8)
        place = (left, top) if level.name == "adaptive" else find(sheet, rendered(picture, level, 0, side))
        for index in range(level.grid.tiles):
            x = place[0] + index % level.grid.columns * (side + 8)
            y = place[1] + index // level.grid.columns * (side + 18)
            assert sheet.crop((x, y, x + side, y + side)).tobytes() == rendered(picture, level, index, side).tobytes()


def rendered(picture: Image.Image, level, index: int, side: int) -> Image.Image:
    return render_level(picture, level).crop(level.tiles[index].canvas_box).resize((side, side), Image.Resampling.LANCZOS)


def find(sheet: Image.Image, tile: Image.Image) -> tuple[int, int]:
    """Where a tile's first row of pixels stands on the sheet."""
    pixels, row = np.asarray(sheet), np.asarray(tile)[0]
    for y, x in np.argwhere((pixels == row[0]).all(axis=2)):
        if np.array_equal(pixels[y, x : x + len(row)], row):
            return int(x), int(y)
    raise AssertionError("the tile is not on the sheet")


def test_boxes_stand_round_their_pixels():
    picture = Image.new("RGB", (500, 400), GREY)
    drawn = draw_boxes(picture, [(100, 50, 200, 150), (300, 200, 400, 300)])
    assert drawn.size == picture.size
    assert drawn.getpixel((99, 100)) == drawn.getpixel((150, 49)) == drawn.getpixel((200, 100)) == BOX_COLOURS[0]
    assert drawn.getpixel((299, 250)) == drawn.getpixel((400, 250)) == BOX_COLOURS[1]
    assert drawn.crop((102, 52, 198, 148)).getcolors() == [(96 * 96, GREY)]


def test_box_labels_stand_above_or_hang_where_there_is_no_room():
    picture = Image.new("RGB", (500, 400), GREY)
    drawn = draw_boxes(picture, [(100, 100, 300, 200), (320, 0, 480, 90)], ["total"])
    assert drawn.getpixel((99, 90)) == BOX_COLOURS[0]
    assert drawn.crop((102, 102, 298, 198)).getcolors() == [(196 * 96, GREY)]
    assert BOX_COLOURS[1] not in [colour for _, colour in drawn.crop((322, 2, 478, 88)).getcolors()]  # no label
    hanging = draw_boxes(picture, [(100, 1, 300, 90)], ["total"])
    assert hanging.getpixel((99, 4)) == BOX_COLOURS[0]
    assert draw_boxes(picture, []).tobytes() == picture.tobytes()


def test_boxes_with_wild_numbers_are_drawn_in_the_picture():
    picture = Image.new("RGB", (500, 400), GREY)
    swapped = draw_boxes(picture, [(200, 150, 100, 50)])
    assert swapped.tobytes() == draw_boxes(picture, [(100, 50, 200, 150)]).tobytes()
    outside = draw_boxes(picture, [(-50, -60, 10**9, 10**30)])
    for corner in ((0, 0), (499, 0), (0, 399), (499, 399)):
        assert outside.getpixel(corner) == BOX_COLOURS[0]
    assert outside.getpixel((250, 200)) == GREY
    assert draw_boxes(picture, [(700, 100, 800, 200)]).getpixel((499, 150)) == BOX_COLOURS[0]
    assert draw_boxes(picture, [(30, 40, 30, 40)]).getpixel((29, 39)) == BOX_COLOURS[0]


def test_labels_stay_in_the_picture():
    picture = Image.new("RGB", (500, 400), GREY)
    drawn = draw_boxes(picture, [(450, 100, 490, 200)], ["the total of the receipt"])
    tab = np.asarray(drawn)[85:95]
    assert (tab[:, 498] == BOX_COLOURS[0]).all()  # it ends at the edge
    assert 250 < np.flatnonzero((tab == BOX_COLOURS[0]).all(axis=(0, 2)))[0] < 400
    assert (np.asarray(draw_boxes(picture, [(9, 100, 90, 200)], ["word " * 99]))[89:95, 0] == BOX_COLOURS[0]).all()


def test_an_empty_label_is_none():
    picture = Image.new("RGB", (500, 400), GREY)
    boxes = [(100, 100, 200, 200), (300, 100, 400, 200)]
    assert draw_boxes(picture, boxes, ["", ""]).tobytes() == draw_boxes(picture, boxes).tobytes()
    assert draw_boxes(picture, boxes, ["", "b"]).getpixel((299, 90)) == BOX_COLOURS[1]


def test_tiles_are_numbered_on_through_the_levels(monkeypatch):
    firsts, panel = [], visualize._panel
    monkeypatch.setattr(visualize, "_panel", lambda picture, level, first: firsts.append(first) or panel(picture, level, first))
    picture = Image.new("RGB", (800, 600), GREY)
    contact_sheet(picture, plan(picture))
    assert firsts == [0, 12, 18]


# -- what compression keeps --------------------------------------------------------------------------------------------------

RED = (220, 20, 20)
FADED = tuple(round(0.2 * 80 + 0.8 * grey) for grey in DROPPED)  # 80 is how light the red is


def clear_cells(picture: Image.Image, spec: PyramidSpec, selected: list[int], columns: int, rows: int) -> list[list[bool]]:
    """Which cells of the drawn picture, cut into columns and rows, are as they were; the others must be faded."""
    drawn = draw_kept(picture, plan(picture, spec), selected, 4)
    scale = min(max(900, *picture.size), 1600) / max(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    left = (drawn.width - width) // 2
    colours = [
        [
            drawn.getpixel((left + (2 * i + 1) * width // (2 * columns), MARGIN_PX + (2 * j + 1) * height // (2 * rows)))
            for i in range(columns)
        ]
        for j in range(rows)
    ]
    near = [[max(abs(a - b) for a, b in zip(colour, FADED, strict=True)) < 3 or colour == RED for colour in row] for row in colours]
    assert all(map(all, near))
    return [[colour == RED for colour in row] for row in colours]


def test_kept_tokens_stay_clear_where_they_are():
    """Two tiles of 2 x 2 tokens side by side: token 1 is the first tile's upper right, 4 and 6 the second's left column."""
    spec = PyramidSpec(tile_px=56, detail=(2, 2), adaptive=None)
    assert clear_cells(Image.new("RGB", (800, 400), RED), spec, [6, 1, 4], 4, 2) == [
        [False, True, True, False],
        [False, False, True, False],
    ]


def test_tiles_follow_each_other_row_by_row():
    spec = PyramidSpec(tile_px=56, detail=(4, 4), adaptive=None)
    assert clear_cells(Image.new("RGB", (600, 600), RED), spec, [3, 4, 8, 13], 4, 4) == [
        [False, False, True, False],
        [False, True, False, False],
        [True, False, False, True],
        [False, False, False, False],
    ]


def test_padding_around_a_picture_is_not_drawn():
    """A square picture in the middle of 1 x 2 tiles: of four rows of tokens the two in the middle see it."""
    spec = PyramidSpec(tile_px=56, detail=(2, 2), adaptive=None, fit="pad")
    assert clear_cells(Image.new("RGB", (500, 500), RED), spec, [0, 1, 2, 3, 5], 2, 2) == [[True, True], [False, True]]


@pytest.mark.parametrize("size", [(800, 400), (300, 900), (60, 900)])
def test_the_caption_stands_in_the_middle_of_the_paper_below_the_picture(size):
    picture = Image.new("RGB", size, RED)
    drawn = draw_kept(picture, plan(picture, PyramidSpec(tile_px=56, detail=(2, 2), adaptive=None)), [1, 4, 6], 4)
    below = drawn.crop((0, drawn.height - 2 * MARGIN_PX, drawn.width, drawn.height))
    caption = "3 of 8 detail tokens kept, 38%"
    ImageDraw.Draw(due := Image.new("RGB", below.size, PAPER)).text(
        (below.width // 2, MARGIN_PX), caption, visualize.INK, ImageFont.load_default(visualize.FONT_PX), "mm"
    )
    assert below.tobytes() == due.tobytes(), "the caption alone, and nothing of the picture"
    rows = np.flatnonzero((np.asarray(drawn) != PAPER).any(axis=(1, 2)))
    gap = int(np.diff(rows).max())
    assert MARGIN_PX / 2 < gap < 2 * MARGIN_PX, "the picture, some paper, and the caption"
    columns = np.flatnonzero((np.asarray(below) != PAPER).any(axis=(0, 2)))
    assert abs(columns[0] + columns[-1] + 1 - drawn.width) <= 4


def test_a_picture_that_loses_nothing_is_not_drawn():
    picture = Image.new("RGB", (50, 50))
    with pytest.raises(UsageError, match="of 0 detail tiles of 4 tokens: expected 2 tiles or more, and a square"):
        draw_kept(picture, plan(picture, PyramidSpec.plain(1, 1)), [], 4)
