"""Labels say which characters a patch holds, and what stands at its points."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minimonkey.pyramid import PyramidSpec
from minimonkey.synthetic.material.choice import material
from minimonkey.synthetic.rendering import lines
from minimonkey.training.nano.labels import (
    CLASS_OF,
    IGNORE,
    POINTS,
    SLOTS,
    character_labels,
    character_tokens,
    line_starts,
    point_labels,
)

OURS = material("package", "train")._asdict()
TWO_TILES = PyramidSpec.plain(2, 2, tile_px=28)
"""Of a picture of 56x28 px; patches of 7 px make 4 x 4 a tile."""


def sample_of(*placed, size=(56, 28), height=10.0, width=2.0, em_px=10.0):
    """A blank picture (width, height) with lines of characters at given centres: (text, [(x, y), ...])."""
    made = []
    for text, places in placed:
        centers = np.array(places, np.float32)
        edges = np.stack((centers[:, 0] - width / 2, centers[:, 0] + width / 2), axis=1)
        middle = places[0][1]
        made.append(lines.Line(text, centers, edges, em_px, (0.0, middle - height / 2, 1.0, middle + height / 2)))
    return lines.Sample(Image.new("RGB", size), made)


def test_characters_are_named_in_the_patch_of_their_centre():
    labels = character_labels(sample_of(("ab c", [(1, 3), (5, 3), (9, 3), (30, 24)])), TWO_TILES, patch_px=7)
    assert labels.shape == (3, 16, SLOTS)  # two tiles and the thumbnail
    assert labels[0, 0].tolist() == [CLASS_OF["a"], CLASS_OF["b"], 0], "both in the first patch"
    assert labels[0, 1].tolist() == [CLASS_OF[" "], 0, 0], "the space between two words is a character"
    assert labels[0, 2].tolist() == [0, 0, 0]
    assert labels[1, 12].tolist() == [CLASS_OF["c"], 0, 0], "x=30 is patch 0 of the second tile, y=24 its last row"
    assert np.count_nonzero(labels[:2]) == 4


def test_a_full_patch_keeps_the_first_characters():
    labels = character_labels(sample_of(("abcd", [(1, 3), (2, 3), (3, 3), (4, 3)])), TWO_TILES, 7)
    assert labels[0, 0].tolist() == [CLASS_OF[c] for c in "abc"]


def test_every_part_of_a_large_character_is_named():
    """An "a" of 20-px print from x=3 to 25 about y=14 reaches 9 px up and down; points lie at x=1.75, 5.25 ... and y=3.5 ..."""
    sample = sample_of(("a", [(14, 14)]), width=22, height=14, em_px=20)
    labels = point_labels(sample, TWO_TILES, patch_px=7)
    assert labels.shape == (3, 16, POINTS)
    grid = labels[0].reshape(4, 4 * POINTS)
    expected = np.zeros((4, 8), int)
    expected[1:3, 1:7] = CLASS_OF["a"]  # y=3.5 is 10.5 away; x=1.75 and 26.25 are outside
    assert grid.tolist() == expected.tolist()
    assert not labels[1].any()


def test_points_between_words_are_spaces_and_those_between_lines_empty():
    sample = sample_of(("a b", [(4, 10.5), (8, 10.5), (12, 10.5)]), width=4)
    grid = point_labels(sample, TWO_TILES, 7)[0].reshape(4, 8)
    assert grid[1].tolist() == [0, CLASS_OF["a"], CLASS_OF[" "], CLASS_OF["b"], 0, 0, 0, 0], "x = 1.75, 5.25, 8.75, 12.25"
    assert not grid[[0, 2, 3]].any()


@pytest.mark.parametrize("label", [character_labels, point_labels])
def test_print_too_small_to_tell_is_not_held_against_the_encoder(label):
    sample = sample_of(("a", [(2, 3)]), size=(28, 56), width=4)
    labels = label(sample, TWO_TILES, 7)
    assert CLASS_OF["a"] in labels[0, 0]
    assert set(labels[2, 0].tolist()) <= {IGNORE, 0} and IGNORE in labels[2], "10 px high in the picture is 5 px in the thumbnail"


@pytest.mark.parametrize("label", [character_labels, point_labels])
def test_a_turned_line_is_as_small_as_its_print(label):
    """Turned by 3 degrees, a line of 200 px is 15 px from top to bottom, but its print of 5 px is still too small to tell."""
    places = [(12 + 10 * index, 8 + 10 * index * math.sin(math.radians(3))) for index in range(20)]
    spec = PyramidSpec.plain(8, 8, tile_px=28)
    for em_px, is_told in ((5.0, False), (9.0, True)):
        line = sample_of(("a" * 20, places), size=(224, 28), em_px=em_px).lines[0]
        turned = replace(line, box=(0.0, 5.0, 224.0, 20.0))
        named = label(lines.Sample(Image.new("RGB", (224, 28)), [turned]), spec, 7)[:8]
        assert (named > 0).any() == is_told
        assert (named == IGNORE).any() != is_told


def test_points_agree_with_the_ink():
    """On a rendered tile, points that are on characters have ink near them more often than those that are not."""
    spec = PyramidSpec(tile_px=112, detail=(1, 1), adaptive=None)
    sample = lines.make_sample(3, "tile", size_px=(24, 24), tile_px=112, **OURS)
    named = point_labels(sample, spec, 14)[0].reshape(8, 16) > 0
    gray = np.abs(np.asarray(sample.picture.convert("L"), float) - np.median(np.asarray(sample.picture.convert("L"))))
    ink = gray.reshape(8, 14, 16, 7).max(axis=(1, 3))
    assert named.any() and (~named).any()
    assert ink[named].mean() > 1.3 * ink[~named].mean()


def test_tokens_that_hold_a_character():
    """Tokens are 2 x 2 patches of 7 px: 2 x 2 of them a tile of 28 px, four before the second tile, eight before the thumbnail."""
    sample = sample_of(("ab", [(3, 3), (45, 20)]), ("c", [(100, 3)]), height=30)
    places = character_tokens(sample, TWO_TILES, patch_px=7)
    assert sample.text == "ab\nc" and places.shape == (4, 3)
    assert places[0].tolist() == [0, 8, -1], "x=3 is the first token, in the thumbnail too; there are two levels"
    assert places[1].tolist() == [4 + 3, 8 + 2 + 1, -1], "x=45, y=20: second tile, lower right; halved in x in the thumbnail"
    assert places[2].tolist() == places[3].tolist() == [-1, -1, -1], "a newline is nowhere, nor is what lies outside"


def test_tokens_agree_with_the_labels_of_their_patches():
    spec = PyramidSpec(tile_px=56, detail=(1, 6), adaptive=(1, 3), fit="pad", max_upscale=1.0)
    sample = lines.make_sample(5, "line", size_px=(20, 20), **OURS)
    labels, places = character_labels(sample, spec, 7), character_tokens(sample, spec, 7)
    held = labels.reshape(len(labels), 4, 2, 4, 2, SLOTS).swapaxes(2, 3).reshape(len(labels) * 16, -1)
    asked = 0
    for character, tokens in zip(sample.text, places, strict=True):
        for token in tokens[tokens >= 0]:
            if np.count_nonzero(held[token]) < SLOTS:  # none was dropped
                assert CLASS_OF[character] in held[token]
                asked += 1
    assert asked > 10


def test_a_picture_without_text_has_no_places():
    places = character_tokens(lines.Sample(Image.new("RGB", (56, 28)), []), TWO_TILES, 7)
    assert places.shape == (0, 3)


def test_a_token_knows_where_its_line_begins():
    """Two tiles of 2 x 2 tokens each, and the thumbnail: in the level of pages, from tile to tile, but never further on."""
    sample = sample_of(("abc", [(4, 4), (18, 4), (40, 4)]), ("de", [(20, 20), (34, 20)]))
    places = character_tokens(sample, TWO_TILES, patch_px=7)
    starts = line_starts(sample.text, places, 12)
    assert starts[:8].tolist() == [0, 0, -1, 3, 0, -1, 3, -1], "of the first tile's four tokens and the second's"
    assert starts[8:].tolist() == [8, 8, 10, 10], "of the thumbnail's"


def test_a_line_that_climbs_begins_nowhere_before():
    """Its beginning is a token of the row below, which the others don't see: they come before it."""
    sample = sample_of(("ab", [(4, 20), (20, 4)]), size=(28, 28))
    plain = PyramidSpec.plain(1, 1, tile_px=28)
    places = character_tokens(sample, plain, patch_px=7)
    assert places[:, 0].tolist() == [2, 1]
    assert line_starts(sample.text, places, 4).tolist() == [-1, -1, 2, -1]
