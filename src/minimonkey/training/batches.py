"""Rows to the batches of a run: which rows share a batch is decided from their lengths, a window of the stream at a time.

    stream of draws -> windows -> lengths (no pixels) -> packs, or rows of similar cost -> micro-batches -> encoded by workers

Everything is a function of recipe, data and number of the window, so that a resumed run sees what an uninterrupted one would have
seen, and every process sees the same plan and takes its own turns. Knows no model and no loop.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from minimonkey.data.collation import collate
from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import encode
from minimonkey.data.length_grouping import RowCost, grouped_steps
from minimonkey.data.lengths import Lengths, lengths
from minimonkey.data.mixture import Draw, Mixture
from minimonkey.data.packing import ExampleSize, pack
from minimonkey.errors import DataError, MiniMonkeyError
from minimonkey.training.config import TuningRecipe

WINDOW_STEPS = 32
"""Steps whose rows are planned at once."""
PACKED_ROWS = 8
"""About how many rows share a packed one."""
TILE_COST = 256.0
"""What a tile costs the vision encoder, in tokens of the language model."""


class Loaded(NamedTuple):
    """A micro-batch and where it comes from."""

    batch: dict[str, torch.Tensor]
    numbers: list[int]
    """Of its draws."""
    behind: Place
    """Where the stream stands once it is used."""


class Place(NamedTuple):
    """Where in the stream of micro-batches a run is; all that a resume needs."""

    window: int = 0
    """Windows that are done."""
    batch: int = 0
    """Micro-batches that are done in the window, of all processes together."""


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
        return found

    def __getitem__(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """The micro-batch of these draws."""
        examples = [
            encode(
                self.conversation(number),
                self.processor,
                max_tokens=self.recipe.max_tokens,
                pyramid=self.pyramid(self.mixture.draw(number)) or None,
            )
            for number in numbers
        ]
        return collate(examples, self.processor) if self.recipe.packing is None else packed_row(examples)


def packed_row(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Examples one after the other in a row: `input_ids`, `labels` [1, L], `segments` int64 [S + 1], tiles."""
    row = {name: torch.cat([example[name] for example in examples])[None] for name in ("input_ids", "labels")}
    row["segments"] = torch.tensor([0, *(len(example["input_ids"]) for example in examples)]).cumsum(0)
    for name in ("pixel_values", "level_tiles"):
        if tiles := [example[name] for example in examples if name in example]:
            row[name] = torch.cat(tiles)
    return row


@dataclass
class Batches:
    """The stream of micro-batches of one process."""

    rows: TrainingRows
    rank: int = 0
    ranks: int = 1
    skipped: Path | None = None
    """Where rows that are left out are written; None: the first one is raised."""
    _plans: dict[int, list[list[int]]] = field(default_factory=dict)

    @property
    def recipe(self) -> TuningRecipe:
        return self.rows.recipe

    @cached_property
    def window_rows(self) -> int:
        """Draws of a window: a whole number of steps."""
        rows = self.recipe.batch_rows if self.recipe.packing is None else PACKED_ROWS
        step = rows * self.recipe.accumulate * self.ranks
        return step * max(1, min(WINDOW_STEPS, -(-len(self.rows.mixture) // step)))

    def plan(self, window: int) -> list[list[int]]:
        """The micro-batches of a window, each the numbers of its draws; a multiple of the processes' turns."""
        if window not in self._plans:
            self._plans = {window: self._planned(window)}
        return self._plans[window]

    def _planned(self, window: int) -> list[list[int]]:
        first = window * self.window_rows
        costs: dict[int, Lengths] = {}
        for number in range(first, first + self.window_rows):
            try:
                costs[number] = self.rows.lengths(number)
            except DataError as error:
                if self.skipped is None:
                    raise
                self._skip(error)
        if not costs:
            raise DataError(f"{self.window_rows} rows in a row can't be used; the last: see {self.skipped}")
        numbers, turns = [*costs], self.ranks * self.recipe.accumulate
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
        spare = -len(batches) % turns  # every process has as much to do: the first ones come twice
        return batches + batches[:spare] if spare <= len(batches) else (batches * turns)[: len(batches) + spare]

    def _grouped(self, numbers: list[int], costs: dict[int, Lengths]) -> list[list[int]]:
        size = self.recipe.batch_rows
        whole = len(numbers) // (size * self.ranks) * size * self.ranks
        if not self.recipe.group_by_length or not whole:
            return [numbers[start : start + size] for start in range(0, len(numbers), size)]
        chosen = [RowCost(costs[number].tokens, costs[number].tiles) for number in numbers[:whole]]
        steps = grouped_steps(chosen, batch_rows=size, ranks=self.ranks, tile_cost=TILE_COST, seed=[self.recipe.seed, numbers[0]])
        grouped = [[numbers[place] for place in batch] for step in steps for batch in step]
        return grouped + [numbers[start : start + size] for start in range(whole, len(numbers), size)]

    def _skip(self, error: DataError) -> None:
        if self.rank == 0 and self.skipped is not None:
            with self.skipped.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"kind": error.kind, "error": str(error)}) + "\n")

    # -- in order ----------------------------------------------------------------------------------------------------------------

    def turns(self, place: Place) -> Iterator[tuple[Place, list[int]]]:
        """This process's micro-batches from a place on, without end, each with the place behind it."""
        window, done = place
        while True:
            plan = self.plan(window)
            for batch in range(done, len(plan)):
                behind = Place(window, batch + 1) if batch + 1 < len(plan) else Place(window + 1)
                if batch % self.ranks == self.rank:
                    yield behind, plan[batch]
            window, done = window + 1, 0

    def load(self, place: Place) -> Iterator[Loaded]:
        """The same, encoded by the recipe's workers ahead of time. Closing the iterator ends them."""
        sent: list[tuple[Place, list[int]]] = []

        def numbers() -> Iterator[list[int]]:
            for behind, batch in self.turns(place):
                sent.append((behind, batch))
                yield batch

        loader = DataLoader(
            self.rows,
            sampler=numbers(),
            batch_size=None,
            num_workers=self.recipe.workers,
            prefetch_factor=2 if self.recipe.workers else None,
            worker_init_fn=leave_signals_to_the_parent,
        )
        batches = iter(loader)
        try:
            for batch in batches:
                behind, drawn = sent.pop(0)
                yield Loaded(batch, drawn, behind)
        finally:  # a traceback would keep them, and they don't listen to the signal that ends children
            if self.recipe.workers:
                batches._shutdown_workers()

    def steps_per_epoch(self) -> int:
        """Steps that go through the data once, counted from the plans of all windows."""
        windows = -(-len(self.rows.mixture) // self.window_rows)
        batches = sum(len(self._planned(window)) for window in range(windows)) * len(self.rows.mixture)
        return max(1, round(batches / (windows * self.window_rows) / (self.ranks * self.recipe.accumulate)))


def leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C and many a SIGTERM go to the whole group: workers go on until the loop, which has its step to end, is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
