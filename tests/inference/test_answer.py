"""Places that a model writes, as pixels."""

import pytest

from minimonkey.inference.answer import boxes_of
from minimonkey.pyramid import Box, Size


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<box>[[0, 0, 1000, 1000]]</box>", [Box(0, 0, 300, 200)]),
        ("<box>[[0,0,10,10],[500,500,1000,1000]]</box>", [Box(0, 0, 3, 2), Box(150, 100, 300, 200)]),
        ("a <box>[10, 20, 30, 40]</box> b<box>[[10, 20, 30, 41]]</box>", [Box(3, 4, 9, 8), Box(3, 4, 9, 8)]),
        ("[[10, 20, 30, 40]]", []),
        ("<box>[[10, 20, 30]]</box>", []),
        ("<box>[[1, 2, x, 4]]</box>", []),
        ("<box>[[1, 2, 3, 4]]", []),
    ],
)
def test_boxes_of(text, boxes):
    assert boxes_of(text, Size(200, 300)) == boxes
