"""Rows of whole examples: nothing lost, nothing over budget, little empty, and the same again after a resume."""

import math
import random
from itertools import count, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimonkey.data.packing import ExampleSize, PackingState, fullest, pack
from minimonkey.errors import DataError, UsageError


def lengths(number, seed=0):
    """Log-uniform in 256-4,096 tokens, without tiles."""
    draw = random.Random(seed)
    return [ExampleSize(round(math.exp(draw.uniform(math.log(256), math.log(4096)))), 0) for _ in range(number)]


def pictures(number, seed=0):
    """Most with 1-13 tiles of 256 tokens and some text, the others text alone."""
    draw = random.Random(seed)
    tiles = [draw.choice([0, *range(1, 14)]) for _ in range(number)]
    return [ExampleSize(256 * has + round(math.exp(draw.uniform(math.log(32), math.log(800)))), has) for has in tiles]


def as_it_is(size):
    return size


def empty_share(rows, max_tokens):
    """Of the rows but the last, which holds what is left."""
    return 1 - sum(size.tokens for row in rows[:-1] for size in row) / (max_tokens * (len(rows) - 1))


def examples(tokens, tiles):
    return [
        {"input_ids": torch.arange(length)} | ({"pixel_values": torch.ones(has, 3, 2, 2)} if has else {})
        for length, has in zip(tokens, tiles, strict=True)
    ]


def test_examples_of_encode():
    given_ = examples([5, 4, 3, 2, 1], [2, 0, 1, 0, 0])
    place = {id(example): number for number, example in enumerate(given_)}
    rows = pack(given_, max_tokens=7, max_tiles=2)
    assert [[place[id(example)] for example in row] for row in rows] == [[0, 3], [1, 2], [4]]


def test_the_oldest_comes_first_and_a_row_keeps_the_order():
    sizes = [ExampleSize(tokens, 0) for tokens in (2, 9, 3, 5, 1)]
    assert list(pack(sizes, max_tokens=10, size=as_it_is)) == [[(2, 0), (3, 0), (5, 0)], [(9, 0), (1, 0)]]


def test_a_row_is_as_full_as_it_can_be():
    assert fullest([ExampleSize(4, 0), ExampleSize(5, 0), ExampleSize(3, 0), ExampleSize(3, 0)], ExampleSize(10, 0)) == [3, 2, 0]


def test_of_several_ways_the_earlier_examples():
    assert fullest([ExampleSize(4, 0), ExampleSize(6, 0), ExampleSize(6, 0)], ExampleSize(10, 0)) == [1, 0]


def test_tiles_fill_a_row_too():
    """Nine tokens with both tiles rather than ten tokens with one."""
    sizes = [ExampleSize(4, 1), ExampleSize(6, 0), ExampleSize(5, 1)]
    assert fullest(sizes, ExampleSize(10, 2)) == [2, 0]
    assert fullest(sizes, ExampleSize(10, 0)) == [1, 0]


SIZES = st.lists(st.builds(ExampleSize, st.integers(1, 12), st.integers(0, 4)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(12, 30), st.sampled_from([None, 4, 7]), st.sampled_from([1, 50, 90]))
def test_every_example_once_and_no_row_over_budget(sizes, max_tokens, max_tiles, lookahead_tokens):
    numbered = list(enumerate(sizes))
    budgets = {"max_tokens": max_tokens, "max_tiles": max_tiles, "lookahead_tokens": lookahead_tokens}
    rows = list(pack(numbered, size=lambda one: one[1], **budgets))
    assert sorted(number for row in rows for number, _ in row) == list(range(len(sizes)))
    for row in rows:
        assert sum(size.tokens for _, size in row) <= max_tokens
        assert max_tiles is None or sum(size.tiles for _, size in row) <= max_tiles
        assert [number for number, _ in row] == sorted(number for number, _ in row)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 12), st.sampled_from([None, 5]), st.sampled_from([1, 50, 90]))
def test_a_resume_goes_on_with_the_same_rows(sizes, done, max_tiles, lookahead_tokens):
    budgets = {"max_tokens": 20, "max_tiles": max_tiles, "lookahead_tokens": lookahead_tokens, "size": lambda one: one[1]}
    numbered = list(enumerate(sizes))
    whole = list(pack(numbered, **budgets))
    first = pack(numbered, **budgets)
    before = list(islice(first, done))
    state = PackingState(**first.state._asdict())
    again = [numbered[number] for number in state.waiting] + numbered[state.taken :]
    second = pack(again, resume=state, **budgets)
    assert before + list(second) == whole
    assert second.state == PackingState(len(sizes), ())


def test_an_endless_stream_is_read_no_further_than_needed():
    taken = []
    stream = (taken.append(number) or ExampleSize(100, 0) for number in count())
    packs = pack(stream, max_tokens=1000, lookahead_tokens=2000, size=as_it_is)
    assert not taken
    assert [len(row) for row in islice(packs, 3)] == [10, 10, 10]
    assert packs.state == PackingState(len(taken), tuple(range(30, 40))) and len(taken) == 40


@pytest.mark.parametrize(("max_tokens", "most"), [(16384, 0.0005), (8192, 0.0005), (4096, 0.02)])
def test_little_of_a_row_stays_empty(max_tokens, most):
    rows = list(pack(lengths(4000), max_tokens=max_tokens, size=as_it_is))
    assert empty_share(rows, max_tokens) < most


@pytest.mark.parametrize("max_tiles", [24, 40])
def test_where_tiles_are_scarce_there_are_few_rows(max_tiles):
    sizes = pictures(500)
    fewest = max(sum(size.tokens for size in sizes) / 16384, sum(size.tiles for size in sizes) / max_tiles)
    assert len(list(pack(sizes, max_tokens=16384, max_tiles=max_tiles, size=as_it_is))) <= 1.02 * fewest + 1


@pytest.mark.parametrize(
    ("tokens", "tiles", "message"),
    [
        (9, 0, r"example 1 \(from 0 on\) has 9 tokens, more than max_tokens=8: raise max_tokens, or lower the pyramid's budgets"),
        (3, 5, r"example 1 \(from 0 on\) has 5 tiles, more than max_tiles=4: raise max_tiles, or lower the pyramid's budgets"),
        (0, 0, r"example 1 \(from 0 on\) has no tokens: expected at least one"),
    ],
)
def test_an_example_that_fits_no_row(tokens, tiles, message):
    with pytest.raises(DataError, match=message):
        list(pack(examples([2, tokens], [0, tiles]), max_tokens=8, max_tiles=4))


@pytest.mark.parametrize("setting", [{"max_tokens": 0}, {"max_tokens": 8.0}, {"max_tiles": -1}, {"lookahead_tokens": 0}])
def test_settings_are_checked_at_once(setting):
    (name, value), *_ = setting.items()
    with pytest.raises(UsageError, match=f"{name}={value}: expected a whole number from 1 on"):
        pack([], **{"max_tokens": 8} | setting)


def test_a_resume_without_what_was_waiting():
    packs = pack([ExampleSize(1, 0)], max_tokens=8, size=as_it_is, resume=PackingState(9, (3, 7)))
    with pytest.raises(UsageError, match="resume: 1 of the waiting examples are missing: expected them before the stream"):
        next(packs)
