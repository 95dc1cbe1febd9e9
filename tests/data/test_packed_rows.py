"""One row of several examples; test_published_packing.py compares it with recorded ones."""

import math

import pytest
import torch

from minimonkey.data.packed_rows import packed_row, token_weights
from minimonkey.errors import UsageError


def example(ids, learnt, tiles=0):
    ids = torch.tensor(ids)
    labels = torch.where(torch.arange(len(ids)) >= len(ids) - learnt, ids, -100)
    pictures = {"pixel_values": torch.full((tiles, 3, 2, 2), float(tiles)), "level_tiles": torch.tensor([[tiles, 0, 0]])}
    return {"input_ids": ids, "labels": labels} | (pictures if tiles else {})


def test_a_row():
    examples = [example([1, 2, 3], 2, tiles=2), example([4, 5], 0), example([6, 7, 8, 9, 10], 4, tiles=1)]
    row = packed_row(examples, reduction="square")
    assert row["input_ids"].tolist() == [[*range(1, 11)]]
    assert row["labels"].tolist() == [[-100, 2, 3, -100, -100, -100, 7, 8, 9, 10]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3, 4]]
    assert row["cu_seqlens"].tolist() == [0, 3, 5, 10] and row["cu_seqlens"].dtype == torch.int32
    half = pytest.approx(1 / math.sqrt(2))
    assert row["loss_weight"].tolist() == [[0, half, half, 0, 0, 0, 0.5, 0.5, 0.5, 0.5]]
    assert row["pixel_values"][:, 0, 0, 0].tolist() == [2, 2, 1]
    assert row["image_flags"].tolist() == [1, 1, 1]
    assert row["level_tiles"].tolist() == [[2, 0, 0], [1, 0, 0]]


def test_padding_is_a_segment_that_teaches_nothing():
    row = packed_row([example([1, 2], 1, tiles=1)], pad_to=4, pad_tiles_to=3, pad_id=9)
    assert row["input_ids"].tolist() == [[1, 2, 9, 9]]
    assert row["labels"].tolist() == [[-100, 2, -100, -100]]
    assert row["position_ids"].tolist() == [[0, 1, 0, 0]]
    assert row["loss_weight"].tolist() == [[0, 1, 0, 0]]
    assert row["cu_seqlens"].tolist() == [0, 2, 4]
    assert row["image_flags"].tolist() == [1, 0, 0]
    assert row["pixel_values"][:, 0, 0, 0].tolist() == [1, 0, 0]


def test_a_full_row_has_no_segment_of_padding():
    assert packed_row([example([1, 2], 1)], pad_to=2)["cu_seqlens"].tolist() == [0, 2]


def test_text_alone_has_no_tiles():
    assert set(packed_row([example([1, 2], 1)])) == {"input_ids", "labels", "position_ids", "loss_weight", "cu_seqlens"}


@pytest.mark.parametrize(("reduction", "weight"), [("token", 1), ("sample", 1 / 9), ("square", 1 / 3)])
def test_what_a_token_weighs(reduction, weight):
    labels = torch.tensor([[-100, *range(9)], [-100] * 10])
    assert token_weights(labels, reduction).tolist() == [pytest.approx([0, *[weight] * 9]), [0] * 10]


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([], {}, "no examples for a row: expected at least one"),
        (
            [example([1, 2, 3], 1)],
            {"pad_to": 2},
            "the examples of a row have 3 tokens, more than pad_to=2: raise pad_to, or pack fewer",
        ),
        ([example([1], 1, 2)], {"pad_tiles_to": 1}, "have 2 tiles, more than pad_tiles_to=1: raise pad_tiles_to, or pack fewer"),
        ([example([1], 1)], {"pad_tiles_to": 1}, "pad_tiles_to=1: a row without pictures has no tiles to pad: expected None"),
        ([example([1], 1)], {"reduction": "tokens"}, "unknown loss reduction 'tokens'; the nearest is 'token'"),
    ],
)
def test_errors(examples, settings, message):
    with pytest.raises(UsageError, match=message):
        packed_row(examples, **settings)
