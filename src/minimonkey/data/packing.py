"""Which examples share a row, so that little of it stays empty. The published order is in `published_packing.py`.

    stream -> waiting examples, some rows' worth -> the oldest, with those beside it that fill a row best -> row

Knows sizes alone: what a row looks like is in `packed_rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any, Generic, NamedTuple, TypeVar

from minimonkey.errors import DataError, UsageError

T = TypeVar("T")


class ExampleSize(NamedTuple):
    """What an example takes of a row."""

    tokens: int
    tiles: int


class PackingState(NamedTuple):
    """Where a packing stands: what `pack` needs to go on. All of it is numbers of examples, so that it fits a checkpoint."""

    taken: int = 0
    """Examples that were taken from the stream."""
    waiting: Sequence[int] = ()
    """Those among them that are in no row yet, by their number in the stream."""


class Waiting(NamedTuple):
    """An example that is in no row yet."""

    number: int
    size: ExampleSize
    example: Any


def size_of(example: Mapping[str, Any]) -> ExampleSize:
    """The size of an example that `encode` made."""
    return ExampleSize(len(example["input_ids"]), len(example.get("pixel_values", ())))


def pack(
    examples: Iterable[T],
    *,
    max_tokens: int,
    max_tiles: int | None = None,
    lookahead_tokens: int = 65_536,
    size: Callable[[T], ExampleSize] = size_of,  # type: ignore[assignment]
    resume: PackingState | None = None,
) -> Packs[T]:
    """Rows of whole examples, none of which is larger than the budgets.

    Each row has the example that has waited longest, and of the others those that fill the row best: the most tokens, with
    `max_tiles` the most tokens and tiles, each as a share of its budget. The stream alone decides, nothing is drawn.

    20,000 lengths, log-uniform in 256-4,096 tokens, leave 0.02 % of rows of 16,384 empty (packed as they come 6.7 %), 0.02 % of
    8,192 (13 %) and 1.3 % of 4,096 (23 %); with 24 to 64 tiles a row there are as few rows as there can be. A row takes up to ten
    milliseconds (`benchmarks/packing.py`).

    Args:
        examples: what `encode` gives, or anything that `size` knows the size of; may be endless. With `resume`, first those that
            were waiting, in their order, then the stream from number `taken` on.
        max_tokens: the most tokens of a row.
        max_tiles: the most tiles of a row; None: no limit.
        lookahead_tokens: how many tokens wait at least to be chosen from, never less than a row. More leave less empty and need
            their memory: 65,536 tokens of the published models have up to 256 tiles of 2.3 MiB.
        size: what an example takes of a row; give another to pack rows before their pictures are opened.
        resume: the `state` after the last row that was used; None: the stream is new.

    Returns:
        An iterator of lists of examples, in the order of the stream within a list; its `state` is that after the last list.

    Raises:
        UsageError: a budget below 1, or fewer examples than `resume` says were waiting.
        DataError: while iterating, an example is larger than a budget, or empty; `encode(max_tokens=)` knows its file and line.
    """
    for name, value in (("max_tokens", max_tokens), ("max_tiles", max_tiles), ("lookahead_tokens", lookahead_tokens)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name}={value!r}: expected a whole number from 1 on")
    budget = ExampleSize(max_tokens, max_tiles or 0)
    return Packs(examples, budget, max(lookahead_tokens, max_tokens), size, resume or PackingState())


class Packs(Generic[T], Iterator[list[T]]):
    """What `pack` gives: rows of examples, and how to go on after the last of them."""

    def __init__(
        self,
        examples: Iterable[T],
        budget: ExampleSize,
        lookahead_tokens: int,
        size: Callable[[T], ExampleSize],
        resume: PackingState,
    ) -> None:
        self._examples = iter(examples)
        self._numbers = chain(resume.waiting, count(resume.taken))
        self._budget = budget
        self._lookahead_tokens = lookahead_tokens
        self._size = size
        self._waiting: list[Waiting] = []
        self._again = len(resume.waiting)
        self._taken = resume.taken

    @property
    def state(self) -> PackingState:
        """After the last row."""
        return PackingState(self._taken, tuple(one.number for one in self._waiting))

    def __next__(self) -> list[T]:
        self._fill()
        if not self._waiting:
            raise StopIteration
        row = set(fullest([one.size for one in self._waiting], self._budget))
        pack = [one.example for place, one in enumerate(self._waiting) if place in row]
        self._waiting = [one for place, one in enumerate(self._waiting) if place not in row]
        return pack

    def _fill(self) -> None:
        while self._again or sum(one.size.tokens for one in self._waiting) < self._lookahead_tokens:
            try:
                example = next(self._examples)
            except StopIteration:
                if not self._again:
                    return
                raise UsageError(
                    f"resume: {self._again} of the waiting examples are missing: expected them before the stream"
                ) from None
            number = next(self._numbers)
            self._waiting.append(Waiting(number, self._checked(self._size(example), number), example))
            if self._again:
                self._again -= 1
            else:
                self._taken += 1

    def _checked(self, size: ExampleSize, number: int) -> ExampleSize:
        if size.tokens < 1:
            raise DataError(f"example {number} (from 0 on) has no tokens: expected at least one")
        for name, has, most in zip(("tokens", "tiles"), size, self._budget, strict=True):
            if most and has > most:
                raise DataError(
                    f"example {number} (from 0 on) has {has} {name}, more than max_{name}={most}: raise max_{name}, "
                    "or lower the pyramid's budgets"
                )
        return size


def fullest(sizes: Sequence[ExampleSize], budget: ExampleSize) -> list[int]:
    """The first of some examples, and those of the others that fill a row best beside it; earlier ones where several do.

    Every fill that can be reached is one bit of a number: a plane of `2 * (max_tokens + 1)` bits for each count of tiles, so that a
    sum of two rows of tokens doesn't reach the next plane. An example shifts all of them by its size.

    Args:
        sizes: of the examples, none larger than the budget.
        budget: the most tokens and tiles of a row; 0 tiles: no limit.

    Returns:
        Places in `sizes`, falling; the last one is 0.
    """
    within = (1 << (budget.tokens + 1)) - 1
    plane = 2 * (budget.tokens + 1)
    allowed = sum(within << (tiles * plane) for tiles in range(budget.tiles + 1))
    shifts = [size.tokens + plane * (size.tiles if budget.tiles else 0) for size in sizes]
    reached = [1 << shifts[0]]
    for shift in shifts[1:]:
        reached.append((reached[-1] | (reached[-1] << shift)) & allowed)
    best, fill = 0.0, shifts[0]
    for tiles in range(budget.tiles + 1):
        tokens = ((reached[-1] >> (tiles * plane)) & within).bit_length() - 1
        share = tokens / budget.tokens + (tiles / budget.tiles if budget.tiles else 0)
        if tokens >= 0 and share > best:
            best, fill = share, tokens + tiles * plane
    row = []
    for place in range(len(sizes) - 1, 0, -1):
        if not (reached[place - 1] >> fill) & 1:
            row.append(place)
            fill -= shifts[place]
    return [*row, 0]
