"""The pyramid against the recorded choices of the published code, and its own promises for every size and setting."""

import dataclasses
import json
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minimonkey.errors import PyramidError
from minimonkey.pyramid import LEVEL_NAMES, MOST_TILES, Box, Grid, PyramidSpec, Size, Span
from minimonkey.pyramid.grid import candidate_grids, nearest_grid

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "grid_table.json").read_text(encoding="utf-8"))
ORDERS = list(permutations(LEVEL_NAMES))
TRAIN = {"adaptive": (1, 4), "exclude": "either"}
RECORDED_SPECS = {
    "demo_448": PyramidSpec(),
    "demo_56": PyramidSpec(tile_px=56),
    "train_8_448": PyramidSpec(detail=(1, 8), **TRAIN),
    "train_12_448": PyramidSpec(detail=(1, 12), **TRAIN),
}
PUBLISHED_BUDGETS = [  # detail, adaptive: demo, training (2), OCRBench script, the presets of the evaluation code, evaluate_vqa
    *[((4, 12), (3, 7)), ((1, 8), (1, 4)), ((1, 12), (1, 4)), ((12, 24), (3, 11)), ((12, 24), (3, 5)), ((4, 12), (1, 3))],
    *[((1, 24), (1, 8)), ((5, 24), (3, 8)), ((8, 24), (3, 9)), ((3, 8), (1, 4)), ((3, 12), (1, 4)), ((3, 9), (1, 4))],
    *[((6, 12), (2, 5)), ((11, 23), (2, 10)), ((12, 23), (3, 7))],
]

# --- equal to the published choice -----------------------------------------------------------------------------------------------


def candidates_left(spec: PyramidSpec, detail: Grid) -> int:
    """How many adaptive grids the published filter leaves, restated."""
    join = all if spec.exclude == "either" else any
    grids = candidate_grids(*spec.adaptive)
    return sum(join((detail.columns % grid.columns != 0, detail.rows % grid.rows != 0)) for grid in grids)


def grids_of(spec: PyramidSpec, size: Size) -> tuple[Grid, Grid]:
    """Detail and adaptive grid as the published code names them: a level left out is Grid(1, 1) there."""
    pyramid = spec.plan(size)
    return tuple(level.grid if level else Grid(1, 1) for level in (pyramid.detail, pyramid.adaptive))


@pytest.mark.parametrize("name", RECORDED_SPECS)
def test_recorded_choices_of_demo_and_training(name):
    spec, column = RECORDED_SPECS[name], GOLDEN["fields"].index(name)
    assert len(GOLDEN["rows"]) == 208
    for row in GOLDEN["rows"]:
        size = Size(height=row[1], width=row[0])
        *grids, left, detail_pictures, adaptive_pictures = row[column]
        detail, adaptive = grids_of(spec, size)
        assert [*detail, *adaptive] == grids, size
        assert candidates_left(spec, detail) == left, size
        # The lists that the published functions return: with the thumbnail, but for the adaptive level of the training code.
        assert detail_pictures == detail.tiles + (detail.tiles > 1)
        assert adaptive_pictures == adaptive.tiles + (adaptive.tiles > 1 and spec.exclude == "both")


def test_recorded_choices_of_the_evaluation_presets():
    column = GOLDEN["fields"].index("eval_448")
    for index, (name, budgets) in enumerate(GOLDEN["eval_presets"].items()):
        spec = PyramidSpec(detail=budgets["detail"], adaptive=budgets["adaptive"])
        for row in GOLDEN["rows"]:
            detail, adaptive = grids_of(spec, Size(height=row[1], width=row[0]))
            assert [*detail, *adaptive, candidates_left(spec, detail)] == row[column][index], (name, row[:2])


def test_recorded_choices_of_plain_tiling():
    column = GOLDEN["fields"].index("plain_448")
    for row in GOLDEN["rows"]:
        pyramid = PyramidSpec.plain().plan(Size(height=row[1], width=row[0]))
        grid = pyramid.detail.grid if pyramid.detail else Grid(1, 1)
        assert [*grid, pyramid.tile_count] == row[column], row[:2]
        assert pyramid.adaptive is None


def published_candidates(fewest: int, most: int) -> list[Grid]:
    """The published expression: a set sorted by area alone, so that grids of one area come in the set's own order."""
    pairs = {(i, j) for n in range(fewest, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if fewest <= i * j <= most}
    return [Grid(*pair) for pair in sorted(pairs, key=lambda pair: pair[0] * pair[1])]


def tie_sizes(grids: tuple[Grid, ...]) -> list[Size]:
    """Sizes whose proportions lie exactly between those of two grids, from a few pixels to many."""
    middles = {(Fraction(*a) + Fraction(*b)) / 2 for a in grids for b in grids}
    return [Size(middle.denominator * k, middle.numerator * k) for middle in middles for k in (1, 7, 100, 1000)]


@pytest.mark.parametrize(("detail", "adaptive"), PUBLISHED_BUDGETS)
@pytest.mark.parametrize("exclude", ["both", "either"])
def test_frozen_candidate_order_gives_the_published_choice(detail, adaptive, exclude):
    """The order among grids of one area matters at exact ties only, so all ties are tried, with the detail grid each size has."""
    theirs = {"detail": published_candidates(*detail), "adaptive": published_candidates(*adaptive)}
    ours = {"detail": candidate_grids(*detail), "adaptive": candidate_grids(*adaptive)}
    assert sorted(theirs["detail"]) == sorted(ours["detail"])
    spec = PyramidSpec(detail=detail, adaptive=adaptive, exclude=exclude)
    for size in {*tie_sizes(ours["detail"]), *tie_sizes(ours["adaptive"])}:
        chosen = nearest_grid(theirs["detail"], size, 448)
        left = [grid for grid in theirs["adaptive"] if not spec._excluded(grid, chosen)]
        assert grids_of(spec, size) == (chosen, nearest_grid(left, size, 448)), size


def test_ties_are_those_of_floats():
    # |0.5 - 2/3| and |0.5 - 1/3| differ in the last bit, so that exact fractions would take the later grid.
    assert grids_of(PyramidSpec(), Size(height=1000, width=500)) == (Grid(2, 4), Grid(2, 3))
    assert Fraction(1, 2) - Fraction(1, 3) == Fraction(2, 3) - Fraction(1, 2)


def test_a_tie_goes_to_the_later_grid_above_half_of_its_pixels_only():
    grids = (Grid(3, 2), Grid(2, 4))
    assert nearest_grid(grids, Size(896, 896), 448) == Grid(3, 2)  # exactly half
    assert nearest_grid(grids, Size(897, 897), 448) == Grid(2, 4)


def test_candidate_order_is_area_then_columns():
    assert candidate_grids(3, 4) == (Grid(1, 3), Grid(3, 1), Grid(1, 4), Grid(2, 2), Grid(4, 1))


# --- promises for every size and setting -----------------------------------------------------------------------------------------

sides = st.one_of(st.integers(1, 60), st.integers(1, 6000), st.integers(1, 60000))
sizes = st.builds(Size, sides, sides)
budgets = st.tuples(st.integers(1, 24), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair)))
specs = st.builds(
    PyramidSpec,
    tile_px=st.sampled_from([14, 56, 224, 448]),
    detail=budgets,
    adaptive=st.none() | budgets,
    exclude=st.sampled_from(["both", "either", "none"]),
    order=st.sampled_from(ORDERS),
    thumbnail=st.booleans(),
    max_upscale=st.none() | st.floats(0.01, 20),
    fit=st.sampled_from(["stretch", "pad"]),
)
EXTREMES = [Size(1, 1), Size(30, 60000), Size(60000, 30), Size(1, 60000)]


def examples_of_extremes(test):
    for size in EXTREMES:
        for spec in (PyramidSpec(), PyramidSpec(fit="pad", max_upscale=1.5), PyramidSpec(detail=(1, 8), **TRAIN)):
            test = example(spec, size)(test)
    return test


def assert_partition(boxes: list[Box], grid: Grid, whole: Size) -> None:
    """Row by row, each box begins where its neighbours end, and the outer edges are those of the whole."""
    for index, box in enumerate(boxes):
        column, row = index % grid.columns, index // grid.columns
        assert box.left == (boxes[index - 1].right if column else 0) <= box.right
        assert box.top == (boxes[index - grid.columns].bottom if row else 0) <= box.bottom
        assert column < grid.columns - 1 or box.right == whole.width
        assert row < grid.rows - 1 or box.bottom == whole.height


@examples_of_extremes
@given(specs, sizes)
def test_tiles_partition_canvas_and_source(spec, size):
    for level in spec.plan(size).levels:
        assert len(level.tiles) == level.grid.tiles
        assert_partition([tile.canvas_box for tile in level.tiles], level.grid, level.canvas)
        assert_partition([tile.source_box for tile in level.tiles], level.grid, size)
        px = spec.tile_px
        assert all((box.right - box.left, box.bottom - box.top) == (px, px) for box, _ in level.tiles)


@examples_of_extremes
@given(specs, sizes)
def test_source_boxes_stand_where_the_canvas_shows_them(spec, size):
    """Every cut of the canvas lies, mapped back, within the pixel that its source box begins with."""
    for level in spec.plan(size).levels:
        across = (level.content.right - level.content.left) / size.width
        down = (level.content.bottom - level.content.top) / size.height
        assert level.scale == (across, down)
        for canvas_box, source_box in level.tiles:
            left = min(max((canvas_box.left - level.content.left) / across, 0), size.width)
            top = min(max((canvas_box.top - level.content.top) / down, 0), size.height)
            assert source_box.left - 1e-6 <= left < source_box.left + 1 + 1e-6 or source_box.left == 0
            assert source_box.top - 1e-6 <= top < source_box.top + 1 + 1e-6 or source_box.top == 0


@examples_of_extremes
@given(specs, sizes)
def test_counts_and_spans_agree_with_the_tiles(spec, size):
    pyramid = spec.plan(size)
    levels = list(pyramid.levels)
    assert [level.name for level in levels] == [name for name in spec.order if getattr(pyramid, name)]
    assert pyramid.tile_count == sum(len(level.tiles) for level in levels) == sum(pyramid.level_tiles) <= spec.max_tiles
    assert levels, "every picture becomes at least one tile"
    named = {level.name: len(level.tiles) for level in levels}
    assert pyramid.level_tiles == tuple(named.get(name, 0) for name in LEVEL_NAMES)
    start = 0
    for name, span in pyramid.spans(64).items():
        assert span == Span(start, start + 64 * named[name])
        start = span.stop
    assert start == 64 * pyramid.tile_count


@examples_of_extremes
@given(specs, sizes)
def test_budgets_hold(spec, size):
    pyramid = spec.plan(size)
    for level, budget in ((pyramid.detail, spec.detail), (pyramid.adaptive, spec.adaptive)):
        if level:
            assert level.grid.tiles <= budget[1]
            assert level.grid.tiles >= budget[0] or spec.max_upscale or (level.grid.tiles == 1 and spec.exclude == "either")


@examples_of_extremes
@given(specs, sizes)
def test_the_adaptive_grid_brings_new_cuts(spec, size):
    detail, adaptive = grids_of(spec, size)
    shared = [(side % other) == 0 for side, other in zip(detail, adaptive, strict=True)]
    if adaptive.tiles > 1 and spec.exclude == "both":
        assert not all(shared)
    if adaptive.tiles > 1 and spec.exclude == "either":
        assert not any(shared)


@given(specs, sizes)
def test_max_upscale_never_adds_tiles(spec, size):
    bounded, free = spec.plan(size), dataclasses.replace(spec, max_upscale=None).plan(size)
    assert bounded.tile_count <= free.tile_count
    for name in ("detail", "adaptive"):
        ours, theirs = getattr(bounded, name), getattr(free, name)
        assert ours is None or (ours.grid.columns <= theirs.grid.columns and ours.grid.rows <= theirs.grid.rows)


@given(specs, sizes)
def test_max_upscale_bounds_the_canvas(spec, size):
    """A level is wider than the picture enlarged by the factor by less than one tile."""
    for level in spec.plan(size).levels if spec.max_upscale else ():
        assert level.canvas.width < spec.max_upscale * size.width + spec.tile_px or level.grid.columns == 1
        assert level.canvas.height < spec.max_upscale * size.height + spec.tile_px or level.grid.rows == 1


@examples_of_extremes
@given(specs, sizes)
def test_content_lies_in_the_canvas_and_keeps_proportions(spec, size):
    for level in spec.plan(size).levels:
        left, top, right, bottom = level.content
        assert 0 <= left < right <= level.canvas.width
        assert 0 <= top < bottom <= level.canvas.height
        if spec.fit == "stretch":
            assert level.content == Box(0, 0, level.canvas.width, level.canvas.height)
            continue
        across, down = (right - left) / size.width, (bottom - top) / size.height
        rounding_across, rounding_down = 0.5 / size.width, 0.5 / size.height
        if right - left > 1 and bottom - top > 1:  # below, one pixel stands for a side that would vanish
            assert abs(across - down) <= rounding_across + rounding_down + 1e-9
        assert across <= (spec.max_upscale or across) + rounding_across + 1e-9 or right - left == 1
        assert abs(left - (level.canvas.width - right)) <= 1  # centred
        assert abs(top - (level.canvas.height - bottom)) <= 1


# --- degenerate cases, one by one ------------------------------------------------------------------------------------------------


def test_one_detail_tile_is_the_thumbnail():
    pyramid = PyramidSpec.plain().plan(Size(300, 300))
    assert pyramid.detail is None
    assert (pyramid.level_tiles, pyramid.tile_count) == ((0, 0, 1), 1)
    assert pyramid.thumbnail.tiles == ((Box(0, 0, 448, 448), Box(0, 0, 300, 300)),)


def test_one_detail_tile_stays_without_thumbnail():
    assert PyramidSpec.plain(thumbnail=False).plan(Size(300, 300)).level_tiles == (0, 0, 1)
    assert PyramidSpec.plain(thumbnail=False).plan(Size(300, 600)).level_tiles == (2, 0, 0)


def test_one_detail_tile_with_adaptive_level():
    assert PyramidSpec(detail=(1, 8), **TRAIN).plan(Size(300, 300)).level_tiles == (0, 4, 1)


def test_no_adaptive_grid_left():
    assert PyramidSpec(detail=(1, 4), adaptive=(1, 1)).plan(Size(300, 1200)).level_tiles == (4, 0, 1)
    assert PyramidSpec(detail=(1, 4), adaptive=(1, 1), exclude="none").plan(Size(300, 1200)).level_tiles == (4, 0, 1)


def test_no_adaptive_grid_left_in_the_training_rule_is_the_thumbnail_again():
    pyramid = PyramidSpec(detail=(1, 8), **TRAIN).plan(Size(300, 600))
    assert pyramid.level_tiles == (2, 1, 1)
    assert pyramid.adaptive.tiles == pyramid.thumbnail.tiles


def test_adaptive_level_left_out():
    assert PyramidSpec(adaptive=None).plan(Size(600, 800)).level_tiles == (12, 0, 1)


def test_exclude_none_may_repeat_the_detail_grid():
    pyramid = PyramidSpec(detail=(2, 6), adaptive=(2, 6), exclude="none").plan(Size(600, 400))
    assert pyramid.detail.grid == pyramid.adaptive.grid == Grid(2, 3)


def test_one_pixel():
    pyramid = PyramidSpec().plan(Size(1, 1))
    assert pyramid.level_tiles == (4, 6, 1)
    assert [tile.source_box for tile in pyramid.detail.tiles] == [
        Box(0, 0, 0, 0),
        Box(0, 0, 1, 0),
        Box(0, 0, 0, 1),
        Box(0, 0, 1, 1),
    ]


def test_extreme_proportions():
    assert grids_of(PyramidSpec(), Size(height=30, width=60000)) == (Grid(12, 1), Grid(7, 1))
    assert grids_of(PyramidSpec(), Size(height=60000, width=30)) == (Grid(1, 12), Grid(1, 7))


def test_max_upscale_spares_a_small_picture():
    spec = PyramidSpec(tile_px=224, max_upscale=1.5)
    assert spec.plan(Size(100, 100)).level_tiles == (0, 0, 1)
    assert spec.plan(Size(32, 900)).level_tiles == (7, 0, 1)  # adaptive: 7x1 too
    assert PyramidSpec(tile_px=224).plan(Size(32, 900)).level_tiles == (12, 7, 1)
    assert PyramidSpec(max_upscale=5e-324).plan(Size(32, 900)).level_tiles == (0, 0, 1)
    assert PyramidSpec(max_upscale=1e308).plan(Size(32, 900)).level_tiles == (12, 7, 1)


def test_max_upscale_drops_an_adaptive_grid_that_lost_its_cuts():
    spec = PyramidSpec(tile_px=100, max_upscale=1.0)
    assert grids_of(dataclasses.replace(spec, max_upscale=None), Size(90, 190)) == (Grid(4, 2), Grid(3, 2))
    assert spec.plan(Size(90, 190)).level_tiles == (2, 0, 1)  # both would be 2x1


def test_pad_keeps_proportions_and_centres():
    level = PyramidSpec.plain(tile_px=224, fit="pad").plan(Size(32, 900)).detail
    assert (level.grid, level.content) == (Grid(12, 1), Box(0, 64, 2688, 160))
    bounded = PyramidSpec.plain(tile_px=224, fit="pad", max_upscale=1.5).plan(Size(32, 900)).detail
    assert (bounded.grid, bounded.content) == (Grid(7, 1), Box(109, 88, 1459, 136))
    assert bounded.tiles[0].source_box == Box(0, 0, (224 - 109) * 900 // 1350, 32)


def test_pad_leaves_an_empty_source_box_where_a_tile_is_all_padding():
    level = PyramidSpec(tile_px=100, detail=(6, 6), adaptive=None, fit="pad").plan(Size(height=100, width=400)).detail
    assert (level.grid, level.content) == (Grid(6, 1), Box(100, 0, 500, 100))
    assert [tile.source_box.left for tile in level.tiles] == [0, 0, 100, 200, 300, 400]
    assert [tile.source_box.right for tile in level.tiles] == [0, 100, 200, 300, 400, 400]


# --- settings --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detail": (0, 4)}, "1 <= fewest <= most"),
        ({"detail": (5, 4)}, "1 <= fewest <= most"),
        ({"detail": (1, 2, 3)}, "1 <= fewest <= most"),
        ({"detail": (True, 4)}, "1 <= fewest <= most"),
        ({"detail": (1.0, 4)}, "1 <= fewest <= most"),
        ({"detail": "12"}, "detail='12'"),
        ({"detail": None}, "detail=None"),
        ({"detail": (1, MOST_TILES + 1)}, f"<= {MOST_TILES}"),
        ({"adaptive": (3,)}, "or None for no adaptive level"),
        ({"adaptive": 7}, "adaptive=7"),
        ({"order": ("detail", "adaptive")}, "detail, adaptive, thumbnail, each once"),
        ({"order": ("detail", "detail", "thumbnail")}, "each once"),
        ({"order": "detail"}, "order='detail'"),
        ({"order": None}, "order=None"),
        ({"exclude": "all"}, '"both", "either" or "none"'),
        ({"exclude": ["both"]}, '"both", "either" or "none"'),
        ({"fit": "crop"}, '"stretch" or "pad"'),
        ({"thumbnail": "no"}, "thumbnail='no': expected True or False"),
        ({"tile_px": 0}, "a positive number of pixels"),
        ({"tile_px": "448"}, "a positive number of pixels"),
        ({"max_upscale": 0}, "a positive factor, or None"),
        ({"max_upscale": float("nan")}, "a positive factor, or None"),
        ({"max_upscale": float("inf")}, "a positive factor, or None"),
        ({"max_upscale": "2"}, "a positive factor, or None"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(PyramidError, match=message.replace("(", r"\(")):
        PyramidSpec(**settings)


@pytest.mark.parametrize("size", [Size(0, 5), Size(5, 0), Size(-1, 5)])
def test_a_picture_without_pixels_is_refused(size):
    with pytest.raises(PyramidError, match=f"{size.width}x{size.height} px has no pixels"):
        PyramidSpec().plan(size)


@given(specs)
def test_json_round_trip(spec):
    saved = json.loads(json.dumps(dataclasses.asdict(spec)))
    assert PyramidSpec(**saved) == PyramidSpec.from_dict(saved) == spec
    assert hash(PyramidSpec.from_dict(saved)) == hash(spec)


def test_settings_by_place():
    order = ("adaptive", "detail", "thumbnail")
    named = {"tile_px": 56, "detail": (1, 8), "adaptive": None, "exclude": "either", "order": order, "max_upscale": 1.5}
    assert PyramidSpec(56, (1, 8), None, "either", order, 1.5) == PyramidSpec(**named)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(PyramidError, match="no setting 'max_upscaling'; the nearest is 'max_upscale', all are tile_px, detail"):
        PyramidSpec.from_dict({"max_upscaling": 2})
    with pytest.raises(PyramidError, match="no setting 'zzz'; the nearest is"):
        PyramidSpec.from_dict({"zzz": 2})


def test_short_form():
    assert PyramidSpec.parse("4-12/3-7") == PyramidSpec()
    assert PyramidSpec.parse(" 12-24/3-5 ", tile_px=224) == PyramidSpec(tile_px=224, detail=(12, 24), adaptive=(3, 5))
    assert PyramidSpec.parse("1-12") == PyramidSpec.plain()
    assert PyramidSpec.parse("4-12/3-7", adaptive=None) == PyramidSpec(adaptive=None)


NOT_SHORT_FORMS = ["", "12", "4-12/", "4-12/3", "4-12/3-7/1-2", "a-b", "4 - 12", "-4-12", "4-12\n/3-7", "9" * 5000 + "-1"]


@pytest.mark.parametrize("text", NOT_SHORT_FORMS)
def test_short_form_errors(text):
    with pytest.raises(PyramidError, match='expected fewest-most tiles: "4-12/3-7"'):
        PyramidSpec.parse(text)


def test_short_form_with_an_impossible_budget():
    with pytest.raises(PyramidError, match=r"detail=\(12, 4\)"):
        PyramidSpec.parse("12-4")


def test_describe():
    assert PyramidSpec(detail=(1, 6), adaptive=(2, 2)).plan(Size(height=600, width=400)).describe() == (
        "400x600 px -> 9 tiles of 448 px\n"
        "detail        2x3 tiles    896x1344 px  x2.24 across, x2.24 down\n"
        "adaptive      1x2 tiles     448x896 px  x1.12 across, x1.49 down\n"
        "thumbnail     1x1 tiles     448x448 px  x1.12 across, x0.75 down"
    )


@pytest.mark.parametrize("order", ORDERS)
def test_order_and_spans(order):
    pyramid = PyramidSpec(order=order).plan(Size(600, 800))
    tiles = {"detail": 12, "adaptive": 6, "thumbnail": 1}
    assert [level.name for level in pyramid.levels] == list(order)
    assert list(pyramid.spans(256)) == list(order)
    first, second, third = (tiles[name] * 256 for name in order)
    assert list(pyramid.spans(256).values()) == [Span(0, first), Span(first, first + second), Span(first + second, 19 * 256)]
    assert pyramid.level_tiles == (12, 6, 1)
    assert third == pyramid.spans(256)[order[2]].stop - pyramid.spans(256)[order[2]].start


def test_a_spec_in_words():
    assert PyramidSpec().describe() == "CIP: 4-12 detail tiles, 3-7 adaptive tiles and a thumbnail, 448 px each"
    assert PyramidSpec.plain(1, 6, tile_px=56).describe() == "plain tiling: 1-6 tiles and a thumbnail, 56 px each"
    assert PyramidSpec.plain(2, 2, thumbnail=False).describe() == "plain tiling: 2-2 tiles, 448 px each"


def test_windows_are_a_grid_for_every_picture():
    """Monkey's layout: 896x896 as four windows, 1344x896 as six, whatever the picture's proportions."""
    for size in (Size(100, 900), Size(896, 896), Size(3000, 20)):
        pyramid = PyramidSpec.windows(2, 2).plan(size)
        assert (pyramid.detail.grid, pyramid.adaptive, pyramid.level_tiles) == (Grid(2, 2), None, (4, 0, 1))
        assert pyramid.detail.canvas == Size(896, 896)
    assert PyramidSpec.windows(3, 2).plan(Size(10, 10)).detail.canvas == Size(896, 1344)
    assert PyramidSpec.windows(1, 1).plan(Size(10, 10)).level_tiles == (0, 0, 1)
    assert PyramidSpec.parse("3x2") == PyramidSpec.windows(3, 2)
    assert "3x2 windows and a thumbnail" in PyramidSpec.windows(3, 2).describe()


def test_windows_and_an_adaptive_level():
    pyramid = PyramidSpec.windows(2, 2, adaptive=(3, 7)).plan(Size(600, 800))
    assert (pyramid.detail.grid, pyramid.adaptive.grid) == (Grid(2, 2), Grid(3, 2))


@pytest.mark.parametrize("grid", [(2,), (0, 2), (2.0, 2), "2x2", (2, 2, 2)])
def test_what_is_no_grid(grid):
    with pytest.raises(PyramidError, match="grid=.*: expected two whole numbers"):
        PyramidSpec(grid=grid)


def test_a_grid_that_detail_has_no_room_for():
    with pytest.raises(PyramidError, match=r"grid=\(3, 2\) has 6 tiles, which detail=\(4, 4\) has no room for"):
        PyramidSpec(detail=(4, 4), grid=(3, 2))


def test_a_grid_is_kept_in_json():
    spec = PyramidSpec.windows(2, 3)
    assert PyramidSpec.from_dict(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
