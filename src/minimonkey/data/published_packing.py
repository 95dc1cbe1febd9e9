"""The published packing, its order and its cuts: for comparisons with it. `packing.pack` is what to train with.

Source: `PackedDataset` in InternVL's `internvl_chat/internvl/train/dataset_packed.py` (commit 2410d1d); Mini-Monkey has none. It
splits rows that are too long, loses the text between a cut and the next picture, and drops what has too many tiles.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.data.published_order import published_rows
from minimonkey.errors import DataError, UsageError

Segment = dict[str, torch.Tensor]
"""An example or a part of it: `input_ids`, `labels`, `position_ids` [L], `pixel_values` [T, 3, S, S], `image_flags` [T]."""
OF_TOKENS, OF_TILES = ("input_ids", "labels", "position_ids"), ("pixel_values", "image_flags")
LEAST_LEARNT = 256
"""After a cut, a part is kept if more than one in so many of its tokens is learnt."""


@dataclass
class PublishedRow:
    """A row in the making."""

    segments: list[Segment]

    @property
    def tokens(self) -> int:
        return sum(len(segment["input_ids"]) for segment in self.segments)

    @property
    def tiles(self) -> int:
        return sum(len(segment["pixel_values"]) for segment in self.segments)

    @property
    def ids(self) -> list[int]:
        return torch.cat([segment["input_ids"] for segment in self.segments]).tolist()

    @property
    def teaches(self) -> bool:
        """Whether enough of it is learnt (`check_valid`)."""
        learnt = sum(int((segment["labels"] != NOT_LEARNT).sum()) for segment in self.segments)
        return learnt * LEAST_LEARNT > self.tokens

    def part(self, tokens: range, tiles: range) -> PublishedRow:
        """Some of its tokens, and some of its tiles, each with its segment."""
        segments, first_token, first_tile = [], 0, 0
        for segment in self.segments:
            next_token, next_tile = first_token + len(segment["input_ids"]), first_tile + len(segment["pixel_values"])
            of_tokens = slice(max(tokens.start - first_token, 0), max(tokens.stop - first_token, 0))
            of_tiles = slice(max(tiles.start - first_tile, 0), max(tiles.stop - first_tile, 0))
            cut = {name: segment[name][of_tokens] for name in OF_TOKENS} | {name: segment[name][of_tiles] for name in OF_TILES}
            if len(cut["input_ids"]):
                segments.append(cut)
            first_token, first_tile = next_token, next_tile
        return PublishedRow(segments)


def published_segment(example: Mapping[str, Any], processor: Any) -> Segment:
    """An example as the published packing has it: with positions and flags; without a picture it has a white tile, flag 0.

    Args:
        example: what `published_example` gives.
        processor: the model's, for the size and the colours of a tile.
    """
    segment = {name: example[name] for name in ("input_ids", "labels")}
    segment["position_ids"] = example.get("position_ids", torch.arange(len(example["input_ids"])))
    if "pixel_values" in example:
        flags = torch.ones(len(example["pixel_values"]), dtype=torch.int64)
        return segment | {"pixel_values": example["pixel_values"], "image_flags": flags}
    image_processor = processor.image_processor
    side = image_processor.spec.tile_px
    mean, std = (torch.tensor(list(of)).view(1, 3, 1, 1) for of in (image_processor.image_mean, image_processor.image_std))
    return segment | {"pixel_values": ((1 - mean) / std).expand(1, 3, side, side), "image_flags": torch.zeros(1, dtype=torch.int64)}


def published_share(rows: Sequence[Any], data_set: int, *, rank: int = 0, ranks: int = 1) -> list[Any]:
    """The rows of a data set that one of several processes reads, in its order: shuffled by the data set's number, every n-th."""
    return [rows[place] for place in published_rows(len(rows), 1, shuffle_seed=data_set)[rank::ranks]]


@dataclass
class _Draws:
    """Which data set comes next: by weight for one generator; where a set has ended another replaces it, by a second generator."""

    sets: list[Iterator[Segment]]
    weights: list[float]
    by_weight: np.random.Generator
    by_number: np.random.RandomState

    def __iter__(self) -> Iterator[Segment]:
        self.weights = [weight / sum(self.weights) for weight in self.weights]
        while self.sets:
            self.weights = [weight / sum(self.weights) for weight in self.weights]
            place = int(self.by_weight.choice(len(self.sets), p=self.weights))
            while (segment := next(self.sets[place], None)) is None:
                del self.sets[place], self.weights[place]
                if not self.sets:
                    return
                place = int(self.by_number.choice(len(self.sets)))
            yield segment


def published_packs(
    data_sets: Sequence[Iterable[Segment]],
    processor: Any,
    *,
    max_tokens: int,
    max_tiles: int,
    weights: Sequence[float] | None = None,
    max_buffer: int = 100,
    allow_overflow: bool = True,
    worker: int = 0,
    seed: int = 0,
) -> Iterator[list[Segment]]:
    """The rows that the published code packs, each set of rows read once (`replacement` false).

    Args:
        data_sets: for each data set what `published_segment` gives, in the order of `published_share`.
        processor: the model's, for the ids around pictures.
        max_tokens: `max_packed_tokens`; what is longer is split.
        max_tiles: `num_images_expected`, the tiles of a row; what has more is dropped.
        weights: how often each set is drawn, in proportion; None: alike. The published script gives sizes.
        max_buffer: `max_buffer_size`, the most rows in the making.
        allow_overflow: once half of those are there, fill rows beyond `max_tokens` and split them.
        worker: number of the worker over all processes; seeds the draws.
        seed: of numpy's global generator, which replaces a draw from a set that has ended.

    Returns:
        An iterator of rows, each a list of segments for `packed_row`. (`strict_mode` is `packed_row(pad_tiles_to=max_tiles)`.)

    Raises:
        UsageError: not one weight above 0 for each data set.
        DataError: the published code fails, or never ends, on a row that is too long.
    """
    if weights is not None and (len(weights) != len(data_sets) or any(weight <= 0 for weight in weights)):
        raise UsageError(f"weights={list(weights)} of {len(data_sets)} data sets: expected one above 0 for each")
    marks = _PictureMarks(processor.start_image_token_id, processor.image_token_id, processor.end_image_token_id)
    packing = _PublishedPacking(marks, max_tokens, max_tiles, max_buffer, allow_overflow)
    draws = _Draws(
        [iter(rows) for rows in data_sets],
        list(weights or [1] * len(data_sets)),
        np.random.default_rng(worker),
        np.random.RandomState(seed),
    )
    for segment in draws:
        yield from (row.segments for row in packing.add(segment))
    yield from (row.segments for row in packing.rows)


class _PictureMarks(NamedTuple):
    """The ids around and inside a picture."""

    start: int
    inside: int
    end: int


@dataclass
class _PublishedPacking:
    marks: _PictureMarks
    max_tokens: int
    max_tiles: int
    max_buffer: int
    allow_overflow: bool
    rows: list[PublishedRow] = field(default_factory=list)
    """In the making, most tiles first."""

    def add(self, segment: Segment) -> Iterator[PublishedRow]:
        """Takes an example in, and gives the rows that are ready then."""
        row = PublishedRow([segment])
        place = self._place_for(row)
        if place is not None:
            row = PublishedRow([*self.rows.pop(place).segments, segment])
        full = [part for part in self._split(row) if self._insert(part)]
        yield from full
        while self.rows and self.rows[0].tiles == self.max_tiles:
            yield self.rows.pop(0)
        while len(self.rows) > self.max_buffer:
            yield self.rows.pop(0)

    def _place_for(self, new: PublishedRow) -> int | None:
        """The first row that the new one fits into; else the last that may overflow (`find_buffer`)."""
        overflowing = None
        for place, row in enumerate(self.rows):
            if row.tiles + new.tiles > self.max_tiles:
                continue
            if row.tokens + new.tokens <= self.max_tokens:
                return place
            if self.allow_overflow and len(self.rows) >= self.max_buffer // 2:
                overflowing = place
        return overflowing

    def _insert(self, row: PublishedRow) -> bool:
        """Whether the row is ready; if it isn't, it now stands in its place, unless it has too many tiles."""
        if row.tiles > self.max_tiles:
            return False
        if row.tokens == self.max_tokens:
            return True
        place = next((place for place, other in enumerate(self.rows) if other.tiles < row.tiles), len(self.rows))
        self.rows.insert(place, row)
        return False

    def _split(self, row: PublishedRow) -> Iterator[PublishedRow]:
        """Parts of at most `max_tokens`, cut before a picture where the limit falls into one (`split_buffer`)."""
        if row.tokens <= self.max_tokens:
            yield row
            return
        while row.tokens > self.max_tokens:
            ids = row.ids
            starts = [place for place, token in enumerate(ids) if token == self.marks.start]
            if not len(starts) == ids.count(self.marks.end) == row.tiles:
                raise _fails(
                    f"{row.tiles} tiles in {len(starts)} pictures: it expects one tile in each, and a picture in each example"
                )
            if ids[self.max_tokens] in self.marks:
                picture = bisect(starts, self.max_tokens) - 1
                stop = starts[picture] if picture >= 0 else 0
            else:
                picture, stop = bisect(starts, self.max_tokens), self.max_tokens
            if not stop:
                raise _fails("it never ends where a picture is longer than a row: raise max_tokens")
            left = row.part(range(stop), range(picture))
            row = row.part(range(starts[picture] if picture < len(starts) else row.tokens, row.tokens), range(picture, row.tiles))
            if left.tiles and left.teaches:
                yield left
        if row.teaches:
            yield row


def _fails(why: str) -> DataError:
    return DataError(f"the published packing fails where it splits a row that is too long ({why})")
