"""Batches of rows that cost about the same: as published, by estimated length, and ours, by tokens and tiles.

A padded batch costs what its longest row costs, and processes that train together wait for the slowest. Knows no rows' schema:
texts and sizes come in, numbers go out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec, Size


class RowCost(NamedTuple):
    """What a row costs the two halves of a model."""

    tokens: int
    """Of the language model, image tokens included."""
    tiles: int
    """Of the vision encoder."""

    def total(self, tile_cost: float) -> float:
        """In tokens: a tile costs the vision encoder what `tile_cost` tokens cost the language model."""
        return self.tokens + tile_cost * self.tiles


def padded_cost(costs: Sequence[RowCost], tile_cost: float) -> float:
    """What a batch costs, in tokens: each of its rows as many as the longest, and the tiles of all."""
    return len(costs) * max(cost.tokens for cost in costs) + tile_cost * sum(cost.tiles for cost in costs)


def row_cost(
    text: str, sizes: Iterable[Size], *, count_tokens: Callable[[str], int], pyramid: PyramidSpec, tokens_per_tile: int
) -> RowCost:
    """What a row costs, estimated without its pixels.

    Every text is counted, and a picture counts the tiles that it has: `published_lengths` does neither.

    Args:
        text: all messages of the row, joined.
        sizes: of its pictures.
        count_tokens: how many tokens a text has.
        pyramid: how the pictures are cut.
        tokens_per_tile: image tokens of a tile.
    """
    tiles = sum(pyramid.plan(size).tile_count for size in sizes)
    return RowCost(count_tokens(text) + tokens_per_tile * tiles, tiles)


def grouped_steps(
    costs: Sequence[RowCost], *, batch_rows: int, ranks: int = 1, tile_cost: float = 256.0, seed: int | Sequence[int] = 0
) -> list[list[list[int]]]:
    """Batches of similar cost from one window of the stream: little padding, and ranks that don't wait for each other.

    The window's rows are sorted by their tokens and cut into steps, so that batches are padded little. Each step's rows are dealt
    to the ranks so that tokens and tiles together are as even as they get. The steps are shuffled, but for the dearest: it comes
    first, so that memory runs out at once or not at all. Every row comes once. A window of some 50 steps leaves little padding and
    mixes well.

    Args:
        costs: of the rows of the window, in the order of the stream; a multiple of batch_rows * ranks.
        batch_rows: rows of a batch of one rank.
        ranks: processes.
        tile_cost: what a tile costs the vision encoder, in tokens of the language model: 0.72 TFLOP of InternViT-300M at 448 px
            are about 730 tokens of 0.5 B parameters, 200 of 1.8 B, 95 of 3.8 B, forward; 0 if features are cached.
        seed: of the steps' order: such as [seed of the run, number of the window].

    Returns:
        [steps][ranks][batch_rows] numbers of rows in the window.

    Raises:
        UsageError: a setting is wrong, or the window is no whole number of steps.
    """
    if batch_rows < 1 or ranks < 1 or not tile_cost >= 0:
        raise UsageError(f"batch_rows={batch_rows}, ranks={ranks}, tile_cost={tile_cost}: expected 1 or more, 1 or more, 0 or more")
    step_rows = batch_rows * ranks
    if not costs or len(costs) % step_rows:
        raise UsageError(
            f"a window of {len(costs)} rows: expected a multiple of batch_rows * ranks = {step_rows}; the stream never ends"
        )
    totals = [cost.total(tile_cost) for cost in costs]
    longest_first = sorted(range(len(costs)), key=lambda row: (-costs[row].tokens, -totals[row], row))
    steps = []
    for start in range(0, len(costs), step_rows):
        dear_first = sorted(longest_first[start : start + step_rows], key=lambda row: -totals[row])
        steps.append(_dealt(dear_first, totals, ranks))
    dearest = max(steps, key=lambda step: max(padded_cost([costs[row] for row in batch], tile_cost) for batch in step))
    others = [step for step in steps if step is not dearest]
    return [dearest, *(others[number] for number in np.random.default_rng(seed).permutation(len(others)))]


def grouped_stream(
    cost_of: Callable[[int], RowCost],
    *,
    batch_rows: int,
    rank: int = 0,
    ranks: int = 1,
    window_steps: int = 50,
    tile_cost: float = 256.0,
    seed: int = 0,
    done: int = 0,
) -> Iterator[list[int]]:
    """The batches of one process, without end: window after window of the stream's draws, each as `grouped_steps` has it.

    Every process reckons the costs of the whole window, and comes to the same steps. A resume is exact with the same batch_rows,
    ranks and window_steps; with others it is at the border of a window.

    Args:
        cost_of: what the draw of a number costs, as from `row_cost` of its row.
        rank: of this process; the others are those of `grouped_steps`.
        window_steps: steps of a window.
        done: draws that all ranks together have behind them: steps done * batch_rows * ranks.

    Returns:
        Draw numbers, batch_rows at a time.

    Raises:
        UsageError: a setting is wrong, or `done` is within a step.
    """
    if window_steps < 1 or not 0 <= rank < ranks:
        raise UsageError(f"window_steps={window_steps}, rank={rank} of {ranks}: expected 1 or more, and a rank below their number")
    steps_done, within = divmod(done, batch_rows * ranks)
    if within:
        raise UsageError(f"{done} draws done: expected a multiple of batch_rows * ranks = {batch_rows * ranks}")
    first_window, skipped = divmod(steps_done, window_steps)
    for window in count(first_window):
        start = window * window_steps * batch_rows * ranks
        costs = [cost_of(start + row) for row in range(window_steps * batch_rows * ranks)]
        steps = grouped_steps(costs, batch_rows=batch_rows, ranks=ranks, tile_cost=tile_cost, seed=[seed, window])
        for step in steps[skipped:]:
            yield [start + row for row in step[rank]]
        skipped = 0


def _dealt(rows: list[int], costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Rows, dearest first, each to the rank with the lowest sum among those that still have room."""
    batches: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for row in rows:
        rank = min((n for n in range(ranks) if len(batches[n]) < len(rows) // ranks), key=lambda n: (sums[n], n))
        batches[rank].append(row)
        sums[rank] += costs[row]
    return batches


# -- as published ------------------------------------------------------------------------------------------------------------------


def published_lengths(
    rows: Iterable[dict[str, Any]], *, count_tokens: Callable[[str], int], tokens_per_tile: int, most_tiles: int
) -> list[int]:
    """The lengths by which the published code groups the rows of one data set, in the set's order.

    A row's own `length` counts as it is. Else its messages, joined by newlines, are tokenized, once for each *number of
    characters*: the first text of so many characters counts its tokens, every later one of as many characters counts the same and,
    as if it had the most tiles, image tokens. So the first lacks the tiles, all others have them with or without a picture, and a
    text that was never tokenized counts as another one. `row_cost` does it row by row.

    Args:
        rows: in the published form; those without `length` need `conversations`.
        count_tokens: how many tokens a text has, with those that the tokenizer adds by default.
        tokens_per_tile: image tokens of a tile.
        most_tiles: `max_dynamic_patch` of the set, and one for the thumbnail where there is one.

    Source: `LazySupervisedDataset` with `group_by_length` in `internvl_chat_finetune.py`.
    """
    seen: dict[int, int] = {}
    lengths = []
    for row in rows:
        if "length" in row:
            lengths.append(row["length"])
            continue
        text = "\n".join(turn["value"] for turn in row["conversations"])
        if len(text) in seen:
            lengths.append(seen[len(text)])
        else:
            tokens = count_tokens(text)
            seen[len(text)] = tokens + tokens_per_tile * most_tiles
            lengths.append(tokens)
    return lengths


def length_grouped_order(lengths: Sequence[int], *, batch_rows: int, world_size: int, seed: int) -> list[int]:
    """The order of the published `LengthGroupedSampler`: shuffled, sorted within a step, its rows shared out by length.

    Args:
        lengths: of all rows, as from `published_lengths`.
        batch_rows: rows of a batch of one process.
        world_size: processes, times the steps of gradient accumulation.
        seed: of torch's generator.

    Returns:
        Every row's number once. The data loader deals them to the processes.

    Source: `train_sampler_patch.py`, after LLaVA's trainer.
    """
    import torch

    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    step_rows, order = batch_rows * world_size, []
    for start in range(0, len(shuffled), step_rows):
        step = sorted(shuffled[start : start + step_rows], key=lambda row: lengths[row], reverse=True)
        if len(step) % world_size:
            batches = [step[rank::world_size] for rank in range(world_size)]
        else:
            batches = _dealt(step, lengths, world_size)
        order += [row for batch in batches for row in batch]
    return order
