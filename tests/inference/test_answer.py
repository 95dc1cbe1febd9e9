"""Places that a model writes, as pixels."""

import pytest

from minimonkey.inference.answer import boxes_of, labels_of
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
        ("<box>[[500,500,100,100]]</box>", [Box(30, 20, 150, 100)]),
        ("<box>[[100,500,500,100]]</box>", [Box(30, 20, 150, 100)]),
        ("<box>[[0,0,5000,5000]]</box>", [Box(0, 0, 300, 200)]),
        ("<box>[[-5,-1.5,100,100]]</box>", [Box(0, 0, 30, 20)]),
        ("<box>[[100.0,99.9, 500.4 ,1000.5]]</box>", [Box(30, 20, 150, 200)]),
        (f"<box>[[{'9' * 5000},1,2,100]]</box>", [Box(1, 0, 300, 20)]),
        (f"<box>[[-{'9' * 5000},0,100,{'9' * 500}.5]]</box>", [Box(0, 0, 30, 200)]),
        ("<box>[[1001,10,2000,20]]</box>", []),
        ("<box>[[10,-20,20,-1]]</box>", []),
        ("<box>[[10,20,10,20]]</box>", [Box(3, 4, 3, 4)]),
        ("<box>[[1000,1000,1000,1000],[1,2,3,.4],[1e3,2,3,4],[--1,2,3,4]]</box>", [Box(300, 200, 300, 200)]),
    ],
)
def test_boxes_of(text, boxes):
    assert boxes_of(text, Size(200, 300)) == boxes


def test_labels_are_those_of_the_boxes():
    text = "<ref>out</ref><box>[[2000,2000,3000,3000]]</box><ref>in</ref><box>[[9,9,1,1],[-9,-9,-1,-1]]</box>"
    assert (len(boxes_of(text, Size(200, 300))), labels_of(text)) == (1, ["in"])


def test_edges_are_within_any_picture():
    for width in range(1, 40):
        for corner in range(-100, 1200, 7):
            for box in boxes_of(f"<box>[[{corner},{corner},{corner + 50.5},0]]</box>", Size(height=3, width=width)):
                assert 0 <= box.left <= box.right <= width and 0 <= box.top <= box.bottom <= 3
