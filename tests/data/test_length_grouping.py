"""Our batches: every row once, little padding, ranks that don't wait. And where the published lengths are at fault."""

import random
from itertools import islice

import pytest

from minimonkey.data.length_grouping import RowCost, grouped_steps, grouped_stream, padded_cost, published_lengths, row_cost
from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec, Size

PLAIN = PyramidSpec(detail=(1, 6), adaptive=None)


def count_words(text: str) -> int:
    return len(text.split())


def row(text: str, **more) -> dict:
    return {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "yes"}]} | more


def test_published_lengths_forget_the_first_texts_tiles_and_count_characters():
    """The fault, in four rows: equal in characters, with and without a picture, one tokenized for all."""
    rows = [row("a bb cc", image="1.png"), row("a bb cc", image="1.png"), row("d e f g"), row("x y z", length=5)]
    assert published_lengths(rows, count_tokens=count_words, tokens_per_tile=10, most_tiles=7) == [4, 74, 74, 5]


def test_ours_counts_each_text_and_the_tiles_that_there_are():
    costs = [
        row_cost(text, sizes, count_tokens=count_words, pyramid=PLAIN, tokens_per_tile=10)
        for text, sizes in (("a bb cc yes", [Size(448, 896)]), ("d e f g yes", []), ("a", [Size(448, 448), Size(448, 1344)]))
    ]
    assert costs == [RowCost(4 + 30, 3), RowCost(5, 0), RowCost(1 + 50, 5)]


@pytest.fixture
def window():
    """Rows as they are: lengths from 50 to 4,000 tokens, pictures of up to 13 tiles."""
    dice = random.Random(0)
    rows = []
    for _ in range(480):
        tiles = dice.choice((0, 1, 1, 3, 5, 7, 13))
        rows.append(RowCost(tiles * 256 + int(50 * 40 ** dice.random()), tiles))
    return rows


def test_every_row_comes_once_in_full_batches(window):
    steps = grouped_steps(window, batch_rows=4, ranks=3, seed=1)
    assert len(steps) == 40 and all(len(step) == 3 and all(len(batch) == 4 for batch in step) for step in steps)
    assert sorted(row for step in steps for batch in step for row in batch) == list(range(480))


def test_the_seed_decides_the_order_of_the_steps_alone(window):
    once, again, other = (grouped_steps(window, batch_rows=4, ranks=3, seed=seed) for seed in ([5, 0], [5, 0], [5, 1]))
    assert once == again != other
    assert once[0] == other[0] and sorted(once) == sorted(other)


def test_little_padding_and_no_waiting(window):
    """Against batches in the order of the stream: padded tokens within 4 % of the tokens that there are, ranks within 6 %."""

    def padding_and_waiting(steps):
        batches = [[window[row] for row in batch] for step in steps for batch in step]
        padded = sum(len(batch) * max(cost.tokens for cost in batch) for batch in batches)
        paid = sum(3 * max(padded_cost([window[row] for row in batch], 200) for batch in step) for step in steps)
        due = sum(padded_cost(batch, 200) for batch in batches)
        return padded / sum(cost.tokens for cost in window) - 1, paid / due - 1

    stream = [[list(range(start + 4 * rank, start + 4 * rank + 4)) for rank in range(3)] for start in range(0, 480, 12)]
    ours = padding_and_waiting(grouped_steps(window, batch_rows=4, ranks=3, tile_cost=200, seed=0))
    assert ours[0] < 0.04 and ours[1] < 0.06
    assert padding_and_waiting(stream)[0] > 0.5 and padding_and_waiting(stream)[1] > 0.2


def test_the_dearest_step_comes_first(window):
    def cost(step):
        return max(padded_cost([window[row] for row in batch], 256) for batch in step)

    steps = grouped_steps(window, batch_rows=4, ranks=2)
    assert cost(steps[0]) == max(map(cost, steps))


def test_tiles_are_dealt_out_evenly():
    """Of rows of equal length, those with pictures don't all go to one rank."""
    costs = [RowCost(1000, 3)] * 4 + [RowCost(1000, 0)] * 4
    [step] = grouped_steps(costs, batch_rows=4, ranks=2)
    assert [sum(costs[row].tiles for row in batch) for batch in step] == [6, 6]


def test_the_grouped_stream_goes_on_where_it_was(window):
    """Window after window every draw once, over two processes; a resume in the midst of a window equals the whole."""

    def stream(rank, done=0):
        def cost_of(number):
            return window[number % 480]

        return grouped_stream(cost_of, batch_rows=3, rank=rank, ranks=2, window_steps=5, seed=7, done=done)

    whole = [list(islice(stream(rank), 25)) for rank in range(2)]
    assert sorted(number for batches in whole for batch in batches for number in batch) == list(range(150))
    assert {number // 30 for batches in whole for batch in batches[5:10] for number in batch} == {1}
    for steps in (3, 5, 12):
        assert [list(islice(stream(rank, done=steps * 6), 25 - steps)) for rank in range(2)] == [each[steps:] for each in whole]
    with pytest.raises(UsageError, match="7 draws done: expected a multiple of batch_rows"):
        next(stream(0, done=7))
    with pytest.raises(UsageError, match="rank=2 of 2"):
        next(stream(2))


@pytest.mark.parametrize("changes", [{"batch_rows": 0}, {"ranks": 0}, {"tile_cost": -1.0}, {"batch_rows": 5}, {"costs": []}])
def test_a_window_that_is_no_whole_number_of_steps_is_refused(changes):
    settings = {"costs": [RowCost(1, 0)] * 12, "batch_rows": 4, "ranks": 3} | changes
    with pytest.raises(UsageError, match="expected"):
        grouped_steps(**settings)
