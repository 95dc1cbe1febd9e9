"""A mixture of data sets as one endless stream of numbered draws. Which row is draw number N, and where does a resume go on?

    draw number --> epoch, place in it --> data set, number of the row in it --> row, read when it's asked for

The stream is the same for every number of processes and workers: they take turns at its numbers. What a run has to keep for an
exact resume is how many draws are done (`Mixture.state`). Knows no schema, no pictures, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from minimonkey.data.json_lines import JsonLines
from minimonkey.data.mixture_file import DataSet, MixtureSpec, read_mixture
from minimonkey.data.published_order import published_rows
from minimonkey.data.shares import draws_per_epoch
from minimonkey.data.template import conversation_from
from minimonkey.errors import UsageError, shown

Rows = Sequence[dict[str, Any]]
PublishedCode = Literal["internvl", "mini-monkey"]
MOST_DRAWS = 10**9
"""Of an epoch: its order is held in memory, 10 bytes a draw."""
INTERLEAVING, ROWS = 0, 1
"""What a random generator is for: so that no two share a seed."""


class Draw(NamedTuple):
    """One row of the stream."""

    data_set: int
    """Number of the data set in `MixtureSpec.sets`."""
    row: int
    """Number of the row in the data set."""


class Turn(NamedTuple):
    """Whose turn it is: one of several processes, and one of several workers that load its data."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1


def open_rows(path: Path) -> Rows:
    """The rows of a JSONL file. Other formats come through the `open_rows` of `Mixture.read`."""
    if path.suffix != ".jsonl":
        raise UsageError(f"{path}: expected rows as .jsonl")
    return JsonLines(path)


def _check_draws(spec: MixtureSpec, draws: float) -> None:
    if draws > MOST_DRAWS:
        raise UsageError(
            f"{spec.name}: an epoch of {draws:,.0f} rows: lower `repeat`, `general_ratio` or `epoch_rows` to {MOST_DRAWS:,} at most"
        )


class Mixture:
    """Draws from several data sets, in an order that the seed alone decides: `mixture.row(mixture.draw(number))`.

    An epoch has `len(mixture)` draws: so many of each set as `balance`, `repeat`, `weight` and `general_ratio` say, shuffled
    together. A set's rows come in random order, each once before any comes again, across epochs: `repeat: 0.5` gives the other half
    in the next epoch. That differs on purpose from the published code, where

    - a `repeat_time` below 1 takes the first rows of the file, in every epoch;
    - `use_data_resampling` makes a data set that iterates over *numbers of data sets* instead of rows, so that the data loader,
      which asks for rows by number, never sees its weights; here `balance: sqrt` draws rows by them.

    `as_published` gives the published order for parity: one set after the other, each as `published_order.published_rows` has it,
    the same in every epoch. What shuffles it there is the sampler (`length_grouping.length_grouped_order`).
    """

    def __init__(
        self, spec: MixtureSpec, rows: Sequence[Rows], seed: int = 0, *, as_published: PublishedCode | None = None
    ) -> None:
        """Mix data sets whose rows are open already; `Mixture.read` opens them.

        Args:
            spec: the data sets and how they are mixed.
            rows: the rows of each set, in the order of `spec.sets`.
            seed: a whole number from 0 on.
            as_published: whose order to reproduce; None for ours.

        Raises:
            UsageError: a setting is wrong, a set that should give rows has none, or gives so few that it never comes.
        """
        if len(rows) != len(spec.sets):
            raise UsageError(f"{spec.name}: {len(rows)} sequences of rows for {len(spec.sets)} data sets")
        if seed < 0:
            raise UsageError(f"seed={seed}: expected a whole number from 0 on")
        self.spec, self.rows, self.seed = spec, tuple(rows), seed
        self._row_counts = tuple(map(len, rows))
        self._published: list[np.ndarray] | None = None
        if as_published is not None:
            if spec.balance != "repeat" or spec.general_ratio is not None or spec.epoch_rows is not None:
                raise UsageError(f"{spec.name}: as_published knows `repeat` alone, no balance, general_ratio or epoch_rows")
            _check_draws(spec, sum(size * each.repeat for each, size in zip(spec.sets, self._row_counts, strict=True)))
            shuffled = as_published == "mini-monkey"
            published = [
                published_rows(size, each.repeat, shuffle_seed=number if shuffled else None)
                for number, (each, size) in enumerate(zip(spec.sets, self._row_counts, strict=True))
            ]
            self._published, self.draws_per_epoch = published, tuple(map(len, published))
        else:
            self.draws_per_epoch = draws_per_epoch(spec, self._row_counts)
        if not len(self):
            raise UsageError(f"{spec.name}: no data set gives a row; raise `repeat` or `weight` of one")
        _check_draws(spec, len(self))
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def read(
        cls,
        path: Path | str,
        seed: int = 0,
        *,
        root: str | None = None,
        open_rows: Callable[[Path], Rows] = open_rows,
        as_published: PublishedCode | None = None,
    ) -> Mixture:
        """Open the mixture of a YAML or a published meta file; see `mixture_file.read_mixture`. Raises UsageError, DataError."""
        spec = read_mixture(path, root=root)
        return cls(spec, [open_rows(spec.path(each.rows)) for each in spec.sets], seed, as_published=as_published)

    def __len__(self) -> int:
        """Draws of an epoch, of all ranks together."""
        return sum(self.draws_per_epoch)

    def draw(self, number: int) -> Draw:
        """Which row the draw of that number is; numbers count all ranks' draws, from 0 on and through all epochs."""
        epoch, place = divmod(number, len(self))
        sets, rows = self._order(epoch)
        return Draw(int(sets[place]), int(rows[place]))

    def row(self, draw: Draw) -> dict[str, Any]:
        """The row itself, as it is in its file, or as its set's template words it. Raises DataError."""
        row, template = self.rows[draw.data_set][draw.row], self.spec.sets[draw.data_set].template
        return row if template is None else conversation_from(template, row, self.where(draw))

    def where(self, draw: Draw) -> str:
        """The file and the line, or else the number of a row, for messages."""
        rows = self.rows[draw.data_set]
        if isinstance(rows, JsonLines):
            return rows.where(draw.row)
        return f"{self.spec.path(self.spec.sets[draw.data_set].rows)}, row {draw.row + 1}"

    def data_set(self, draw: Draw) -> DataSet:
        """The settings of a row's data set."""
        return self.spec.sets[draw.data_set]

    def numbers(self, done: int = 0, turn: Turn = Turn(), batch_rows: int = 1) -> Iterator[int]:
        """Draw numbers of one process and worker, without end.

        Draw number N is rank N mod ranks' turn; workers take turns at batches, so that batch after batch the rank sees the same
        rows with any number of them.

        Args:
            done: draws that all ranks together have behind them, as from `position`.
            turn: which process and worker this is.
            batch_rows: rows of a batch of one rank.
        """
        for batch in count(turn.worker, turn.workers):
            for place in range(batch * batch_rows, (batch + 1) * batch_rows):
                yield done + place * turn.ranks + turn.rank

    # -- resume ------------------------------------------------------------------------------------------------------------------

    def state(self, done: int) -> dict[str, Any]:
        """What an exact resume needs, for JSON: the draws done by all ranks, and by what the order was decided."""
        return {"done": done, "seed": self.seed, "sets": self._identity()}

    def position(self, state: dict[str, Any]) -> int:
        """The draws done that a state holds. Raises UsageError: the mixture has changed since, so that its stream is another."""
        try:
            done, seed = state["done"], state["seed"]
            sets = [[name, size, drawn] for name, size, drawn in state["sets"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self.spec.name}: expected a state with done, seed and sets, got {shown(state)}") from error
        if not isinstance(done, int) or done < 0:
            raise UsageError(f"{self.spec.name}: expected a state with a number of draws, got done={shown(done)}")
        if seed != self.seed:
            raise UsageError(f"{self.spec.name}: the run was begun with seed={seed}, now it is {self.seed}; go on with the former")
        for before, now in zip(sets, self._identity(), strict=False):
            if before != now:
                was, is_now = (f"{name!r} with {size} rows, {drawn} an epoch" for name, size, drawn in (before, now))
                raise UsageError(f"{self.spec.name}: the data has changed since the run began: it was {was}, now it is {is_now}")
        if len(sets) != len(self.spec.sets):
            raise UsageError(f"{self.spec.name}: the run was begun with {len(sets)} data sets, now there are {len(self.spec.sets)}")
        return done

    def _identity(self) -> list[list[Any]]:
        names = [each.name for each in self.spec.sets]
        return [list(each) for each in zip(names, self._row_counts, self.draws_per_epoch, strict=True)]

    # -- order -------------------------------------------------------------------------------------------------------------------

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Data set (int16) and row (int64) of each draw of an epoch. Two epochs are kept: workers aren't quite abreast."""
        order = self._orders.get(epoch)
        if order is None:
            sets = np.repeat(np.arange(len(self.spec.sets), dtype=np.int16), self.draws_per_epoch)
            if self._published is not None:
                order = sets, np.concatenate(self._published)
            else:
                rows = np.concatenate([self._rows_of(number, epoch) for number in range(len(self.spec.sets))])
                shuffle = np.random.default_rng([INTERLEAVING, self.seed, epoch]).permutation(len(self))
                order = sets[shuffle], rows[shuffle]
            self._orders = dict([*self._orders.items()][-1:]) | {epoch: order}
        return order

    def _rows_of(self, number: int, epoch: int) -> np.ndarray:
        """Rows of one set in an epoch: the next ones of its endless row of permutations."""
        size, drawn = self._row_counts[number], self.draws_per_epoch[number]
        if not drawn:
            return np.empty(0, dtype=np.int64)
        first, last = epoch * drawn, (epoch + 1) * drawn
        passes = range(first // size, (last - 1) // size + 1)
        rounds = [np.random.default_rng([ROWS, self.seed, number, each]).permutation(size) for each in passes]
        return np.concatenate(rounds)[first - passes[0] * size :][:drawn]
