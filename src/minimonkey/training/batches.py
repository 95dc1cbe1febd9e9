"""Rows to the batches of a run: which rows share a batch is decided from their lengths, a window of the stream at a time.

    stream of draws -> windows -> lengths (no pixels) -> packs, or rows of similar cost -> micro-batches -> encoded by workers

Everything is a function of recipe, data and the window's first draw, so that a resumed run sees what an uninterrupted one would
have seen. Processes see the same plan and take turns at it: two of them learn from a step's rows as one with twice the
`accumulate` does. Knows no model and no loop.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from minimonkey.data.collation import collate
from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import NOT_LEARNT, encode
from minimonkey.data.length_grouping import RowCost, grouped_steps
from minimonkey.data.lengths import Lengths, lengths
from minimonkey.data.mixture import Draw, Mixture
from minimonkey.data.packed_rows import packed_row
from minimonkey.data.packing import ExampleSize, pack
from minimonkey.errors import DataError, MiniMonkeyError, UsageError
from minimonkey.training.config import TuningRecipe

WINDOW_STEPS = 32
"""Steps whose rows are planned at once."""
PACKED_ROWS = 8
"""About how many rows share a packed one."""
TILE_COST = 256.0
"""What a tile costs the vision encoder, in tokens of the language model."""
COUNTED_ROWS = 8192
"""Rows that are packed to tell how many steps an epoch has."""


class Place(NamedTuple):
    """Where in the stream of steps a run is; all that a resume needs."""

    first: int = 0
    """Number of the window's first draw."""
    steps: int = 0
    """Steps that are done in the window."""


class Loaded(NamedTuple):
    """A micro-batch and where it comes from."""

    batch: dict[str, torch.Tensor]
    numbers: list[int]
    """Of its draws."""
    behind: Place
    """Where the stream stands once its step is done."""


class Encoded(NamedTuple):
    """What a worker makes of draws. Errors are told, not raised: a worker's would arrive as a traceback."""

    batch: dict[str, torch.Tensor]
    errors: list[DataError]
    """Of rows that aren't in it."""


@dataclass
class TrainingRows(Dataset):
    """Rows of a mixture by the numbers of their draws, encoded."""

    mixture: Mixture
    processor: Any
    recipe: TuningRecipe

    def conversation(self, number: int) -> Conversation:
        """Raises DataError with file and line."""
        draw = self.mixture.draw(number)
        where, folder = self.mixture.where(draw), self.mixture.data_set(draw).images
        images = self.mixture.spec.path(folder) if folder is not None else self.mixture.spec.root
        return Conversation.of(self.mixture.row(draw), images=images, where=where)

    def pyramid(self, draw: Draw) -> dict[str, Any]:
        """Changes to the processor's pyramid for a draw: the recipe's, and the tiles that its data set allows."""
        changes, most = dict(self.recipe.pyramid), self.mixture.data_set(draw).max_tiles
        if most is not None:
            fewest = changes.get("detail", self.processor.image_processor.spec.detail)[0]
            changes["detail"] = (min(fewest, most), most)
        return changes

    def lengths(self, number: int) -> Lengths:
        row = self.conversation(number)
        try:
            found = lengths(row, self.processor, self.pyramid(self.mixture.draw(number)) or None)
        except DataError:
            raise
        except MiniMonkeyError as error:
            raise DataError(f"{row.where}: {error}", "unreadable picture") from error
        if found.tokens > self.recipe.max_tokens:
            raise DataError(
                f"{row.where}: {found.tokens} tokens with {found.tiles} tiles are more than max_tokens={self.recipe.max_tokens}: "
                "lower the pyramid's budgets, or raise max_tokens",
                "too long",
            )
        packing = self.recipe.packing
        if packing is not None and (found.tokens > packing.max_tokens or found.tiles > packing.max_tiles):
            raise DataError(
                f"{row.where}: {found.tokens} tokens with {found.tiles} tiles don't fit a packed row of {packing.max_tokens} tokens"
                f" and {packing.max_tiles} tiles: lower the pyramid's budgets, or raise packing.max_tokens or packing.max_tiles",
                "too long",
            )
        return found

    def example(self, number: int) -> dict[str, Any]:
        """Raises DataError with file and line."""
        pyramid = self.pyramid(self.mixture.draw(number)) or None
        return encode(self.conversation(number), self.processor, max_tokens=self.recipe.max_tokens, pyramid=pyramid)

    def __getitem__(self, numbers: list[int]) -> Encoded:
        """The micro-batch of these draws."""
        examples, errors = [], []
        for number in numbers:
            try:
                examples.append(self.example(number))
            except DataError as error:
                errors.append(DataError(str(error), error.kind))  # without its causes, which may not be able to travel
        if not examples:
            return Encoded(nothing_to_learn(self.processor), errors)
        return Encoded(collate(examples, self.processor) if self.recipe.packing is None else packed_row(examples), errors)


def nothing_to_learn(processor: Any) -> dict[str, torch.Tensor]:
    """A batch that counts for nothing: what is left if all its rows are left out, as each process has its turns to take."""
    blank = {"input_ids": torch.zeros(2, dtype=torch.int64), "labels": torch.full((2,), NOT_LEARNT)}
    return collate([blank], processor)


@dataclass
class Batches:
    """The stream of micro-batches of one process."""

    rows: TrainingRows
    rank: int = 0
    ranks: int = 1
    skipped: Path | None = None
    """Where rows that are left out are written; None: the first one is raised."""
    _plans: dict[int, list[list[int]]] = field(default_factory=dict)

    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.skipped is not None and self.skipped.exists():  # by an earlier call, which may have been cut off
            self._told = {
                line for line in self.skipped.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
            }

    @property
    def recipe(self) -> TuningRecipe:
        return self.rows.recipe

    @property
    def turns(self) -> int:
        """Micro-batches of a step, of all processes."""
        return self.ranks * self.recipe.accumulate

    @cached_property
    def window_rows(self) -> int:
        """Draws of a window: a whole number of steps."""
        step = (self.recipe.batch_rows if self.recipe.packing is None else PACKED_ROWS) * self.turns
        return step * max(1, min(WINDOW_STEPS, -(-len(self.rows.mixture) // step)))

    def plan(self, first: int) -> list[list[int]]:
        """The micro-batches of the window that begins with a draw, each the numbers of its draws; a whole number of steps."""
        if first not in self._plans:
            self._plans = {first: self._planned(first)}
        return self._plans[first]

    def _planned(self, first: int) -> list[list[int]]:
        costs: dict[int, Lengths] = {}
        for number in range(first, first + self.window_rows):
            try:
                costs[number] = self.rows.lengths(number)
            except DataError as error:
                self._leave_out(error, writes=self.rank == 0)  # all processes see it
        if not costs:
            raise DataError(f"{self.window_rows} rows in a row can't be used; {self.skipped} says why")
        numbers = [*costs]
        if self.recipe.packing is not None:
            packs = pack(
                numbers,
                max_tokens=self.recipe.packing.max_tokens,
                max_tiles=self.recipe.packing.max_tiles,
                size=lambda number: ExampleSize(costs[number].tokens, costs[number].tiles),
            )
            batches = list(packs)
        else:
            batches = self._grouped(numbers, costs)
        spare = -len(batches) % self.turns  # every process has as much to do: the first ones come twice
        return [*batches, *islice(cycle(batches), spare)]

    def _grouped(self, numbers: list[int], costs: dict[int, Lengths]) -> list[list[int]]:
        size = self.recipe.batch_rows
        whole = len(numbers) // (size * self.turns) * size * self.turns
        if not self.recipe.group_by_length or not whole:
            return [numbers[start : start + size] for start in range(0, len(numbers), size)]
        chosen = [RowCost(costs[number].tokens, costs[number].tiles) for number in numbers[:whole]]
        steps = grouped_steps(chosen, batch_rows=size, ranks=self.turns, tile_cost=TILE_COST, seed=[self.recipe.seed, numbers[0]])
        grouped = [[numbers[place] for place in batch] for step in steps for batch in step]
        return grouped + [numbers[start : start + size] for start in range(whole, len(numbers), size)]

    def _leave_out(self, error: DataError, *, writes: bool = True) -> None:
        """Write a row that is left out to the list, once."""
        if self.skipped is None:
            raise error
        line = json.dumps({"kind": error.kind, "error": str(error)}) + "\n"
        if line in self._told or not writes:
            return
        self._told.add(line)
        try:
            with self.skipped.open("a", encoding="utf-8") as log:
                log.write(line)
        except OSError as failure:
            raise UsageError(f"can't write {self.skipped}: {failure.strerror or failure}") from failure

    # -- in order ----------------------------------------------------------------------------------------------------------------

    def turn_by_turn(self, place: Place) -> Iterator[tuple[Place, list[int]]]:
        """This process's micro-batches from a place on, without end, each with the place behind its step."""
        first, done = place
        while True:
            plan = self.plan(first)
            steps = len(plan) // self.turns
            for step in range(done, steps):
                behind = Place(first, step + 1) if step + 1 < steps else Place(first + self.window_rows)
                for batch in plan[step * self.turns : (step + 1) * self.turns][self.rank :: self.ranks]:
                    yield behind, batch
            first, done = first + self.window_rows, 0

    def load(self, place: Place) -> Iterator[Loaded]:
        """The same, encoded by the recipe's workers ahead of time. Closing the iterator ends them. Raises DataError."""
        sent: list[tuple[Place, list[int]]] = []

        def numbers() -> Iterator[list[int]]:
            for behind, batch in self.turn_by_turn(place):
                sent.append((behind, batch))
                yield batch

        loader = DataLoader(
            self.rows,
            sampler=numbers(),
            batch_size=None,
            num_workers=self.recipe.workers,
            prefetch_factor=2 if self.recipe.workers else None,
            worker_init_fn=leave_signals_to_the_parent,
            generator=torch.Generator(),  # of the workers' seeds, which nothing uses: the global one is left alone
        )
        batches = iter(loader)
        try:
            for batch, errors in batches:
                behind, drawn = sent.pop(0)
                for error in errors:
                    self._leave_out(error)
                yield Loaded(batch, drawn, behind)
        finally:  # a traceback would keep them, and they don't listen to the signal that ends children
            if self.recipe.workers:
                batches._shutdown_workers()

    def steps_per_epoch(self) -> int:
        """Steps that go through the data once; with packing reckoned from the first windows' plans."""
        rows = len(self.rows.mixture)
        if self.recipe.packing is None:
            return max(1, round(rows / (self.recipe.batch_rows * self.turns)))
        windows = max(1, min(-(-rows // self.window_rows), COUNTED_ROWS // self.window_rows))
        batches = sum(len(self._planned(window * self.window_rows)) for window in range(windows))
        return max(1, round(batches * rows / (windows * self.window_rows) / self.turns))


def leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C and many a SIGTERM go to the whole group: workers go on until the loop, which has its step to end, is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
