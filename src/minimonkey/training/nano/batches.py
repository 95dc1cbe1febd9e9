"""What a stage learns from: seeded samples, in batches of a given number of tiles.

A batch is a function of (recipe, batch number) alone, so that a resumed run sees what an uninterrupted one would have seen.

Shape legend: B samples, T tiles, S side of a tile, N patches of a tile, K character slots of a patch, L tokens.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from minimonkey.errors import UsageError, unknown
from minimonkey.processing.image_processor import tiles_uint8
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec, Size
from minimonkey.synthetic.document import KINDS as DOCUMENT_KINDS
from minimonkey.synthetic.document import Document, make_document
from minimonkey.synthetic.material.choice import material
from minimonkey.synthetic.material.typefaces import Split
from minimonkey.synthetic.questions import LONGEST, WEIGHTS, Question
from minimonkey.synthetic.rendering.lines import KINDS as LINE_KINDS
from minimonkey.synthetic.rendering.lines import Sample, make_sample
from minimonkey.training.nano.config import Source, TrainConfig
from minimonkey.training.nano.labels import IGNORE, character_labels, character_tokens, line_starts, point_labels
from minimonkey.training.nano.rows import Row, Turn, make_row

UNSUPERVISED_SHARE = 0.6
"""Share of the image tokens without a target for where their line begins and where they are: there are many, each some work."""
MIN_X_HEIGHT_PX = 4.0
"""x-height below which nothing is asked of pictures with random budgets."""
QUERY_TAIL_CHARS = 3
"""So many last characters of a question that quotes nothing of the page point to where its answer is."""
QUESTIONS = (
    "Read the text.",
    "What does it say?",
    "Transcribe the text.",
    "Read everything.",
    "What is written here?",
    "Please read the text in the picture.",
)


class Drawn(NamedTuple):
    """One sample, ready for a batch."""

    tiles: np.ndarray
    """uint8 [T, 3, S, S]"""
    characters: np.ndarray
    """int16 [T, N, K]: classes, IGNORE where the print is too small to tell"""
    points: np.ndarray
    """int16 [T, N, POINTS]: the same for points of each patch"""
    turns: list[Turn]
    starts: np.ndarray
    """int32 [image tokens]: in which token the line begins that stands in this one, -1 for none"""


def turn_about(document: Document, question: Question, places: np.ndarray, most: int | None = None) -> Turn:
    """A question about a document, and where its answer is read; `places` are those of the document's text.

    What quotes nothing ("How much is it?") has its last characters find where the line of the answer begins. Of an answer of more
    than `most` characters that are read from the page only those are kept; nor is it learnt that one of just as many ends there.
    """
    starts = np.cumsum([0, *(len(line.text) + 1 for line in document.lines)])
    read = [-1 if source is None else starts[source[0]] + source[1] for source in question.sources]
    quoted = named(question.text, document.text)
    first = next((source for source in question.sources if source is not None), None)
    if max(quoted, default=-1) < 0 and first is not None:
        quoted[-QUERY_TAIL_CHARS:] = [starts[first[0]]] * min(QUERY_TAIL_CHARS, len(quoted))
    padded = np.append(places, np.full((1, 3), -1), axis=0).astype(np.int32)  # -1 finds the row of none
    whole = most is None or len(question.answer) < most or question.sources[0] is None
    kept = slice(None if whole else most)
    return Turn(question.text, question.answer[kept], padded[read[kept]].reshape(-1, 3), padded[quoted], whole)


def named(question: str, page: str) -> list[int]:
    """For each character of a question the one of the page that it quotes, -1 for none.

    The longest run of words, of 4 characters or more, that stands on the page once, in capitals or not: "What is the total?" names
    "TOTAL". By chance it may be a common word of the question.
    """
    words = [word.span() for word in re.finditer(r"[^\s\"“”„'?]+", question)]
    runs = ((words[first][0], words[last][1]) for first in range(len(words)) for last in range(first, len(words)))
    page, places = page.lower(), [-1] * len(question)
    for start, stop in sorted(runs, key=lambda run: run[0] - run[1]):
        quoted = question[start:stop].lower().rstrip(".,:;!")
        if len(quoted) >= 4 and page.count(quoted) == 1:
            at = page.index(quoted)
            places[start : start + len(quoted)] = range(at, at + len(quoted))
            break
    return places


def _asked(document: Document, source: Source, spec: PyramidSpec) -> list[Question]:
    """What a source asks of a document that is cut so. Raises UsageError for a kind of question that there isn't."""
    for kind in source.exclude:
        if kind not in WEIGHTS:
            raise UsageError(unknown("exclude: unknown kind of question", kind, WEIGHTS))
    asked = [question for question in document.questions if question.kind not in source.exclude]
    if source.budgets is None:
        return asked
    pyramid = spec.plan(Size(document.picture.height, document.picture.width))
    down = (pyramid.detail or next(pyramid.levels)).scale.down
    return [question for question in asked if document.smallest_print(question) * down >= MIN_X_HEIGHT_PX]


@dataclass(frozen=True)
class Batches(torch.utils.data.Dataset):
    """Batch number -> batch. Loaded by worker processes, one whole batch at a time."""

    config: TrainConfig
    processor: MiniMonkeyProcessor
    patch_px: int
    split: Split = "train"

    def __len__(self) -> int:
        return self.config.steps * self.config.batches_per_step

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.config.seed, number, self.split == "train"])
        drawn: list[Drawn] = []
        tiles = 0
        while tiles < self.config.tiles_per_batch:
            if not drawn or self.config.stage == "characters":  # no rows to pad there
                source = self._choose(rng)
            drawn.append(self._draw_small(source, rng))
            tiles += len(drawn[-1].tiles)
        freeze_vision = self.config.stage == "read" and source.freeze_vision
        return self._collate(drawn, rng) | {"freeze_vision": torch.tensor(freeze_vision)}

    def _choose(self, rng: np.random.Generator) -> Source:
        """A source of the mixture; lines, regions and tiles of a batch share one size of print, documents mix them."""
        weights = np.array([source.weight for source in self.config.mixture])
        source = self.config.mixture[rng.choice(len(weights), p=weights / weights.sum())]
        if source.kind not in LINE_KINDS:
            return source
        low, high = source.size_px
        size_px = low + (high - low) * rng.random() if source.uniform else low * (high / low) ** rng.random()
        return dataclasses.replace(source, size_px=(size_px, size_px))

    def _draw_small(self, source: Source, rng: np.random.Generator) -> Drawn:
        for _ in range(100):
            sample = self._draw(source, rng)
            if sample.turns and (source.max_tiles is None or len(sample.tiles) <= source.max_tiles):
                return sample
        wrong = f"max_tiles={source.max_tiles}, exclude={list(source.exclude)}"
        remedies = "raise max_tiles or lower size_px, exclude less"
        if source.budgets is not None:
            wrong, remedies = (
                f"{wrong}, budgets={list(source.budgets)}",
                f"{remedies}, or raise budgets for print to be legible",
            )
        raise UsageError(f"{wrong}: no {source.kind} in 100 is that small and has questions; {remedies}")

    def _sample(self, source: Source, rng: np.random.Generator) -> tuple[Sample, PyramidSpec]:
        """A picture with its text, and how it is cut. Raises UsageError for an unknown kind."""
        spec = dataclasses.replace(self.processor.image_processor.spec, **source.pyramid)
        if source.budgets is not None:
            most = int(rng.integers(source.budgets[0], source.budgets[1] + 1))
            spec = dataclasses.replace(spec, detail=(min(spec.detail[0], most), most))
        seed = int(rng.integers(1 << 62))
        settings: dict[str, Any] = {"split": self.split, "size_px": source.size_px}
        settings |= material(self.config.material, self.split)._asdict()
        if source.kind == "tile":
            settings["tile_px"] = round(spec.tile_px / rng.uniform(*source.zoom))
            spec = dataclasses.replace(spec, detail=(1, 1), adaptive=None, fit="stretch", max_upscale=None)
            return make_sample(seed, "tile", **settings), spec
        for kind in LINE_KINDS:
            if source.kind == kind:
                return make_sample(seed, kind, **settings), spec
        if source.kind not in ("document", *DOCUMENT_KINDS):
            raise UsageError(unknown("unknown kind of sample", source.kind, (*LINE_KINDS, "document", *DOCUMENT_KINDS)))
        kind_of_document = None if source.kind == "document" else source.kind
        settings |= {"lines": source.lines, "most_questions": max(LONGEST, source.max_questions)}
        return make_document(seed, kind_of_document, **settings), spec

    def _draw(self, source: Source, rng: np.random.Generator) -> Drawn:
        sample, spec = self._sample(source, rng)
        characters, points = (label(sample, spec, self.patch_px) for label in (character_labels, point_labels))
        places = character_tokens(sample, spec, self.patch_px)
        turns = [Turn(QUESTIONS[rng.integers(len(QUESTIONS))], sample.text, places)]
        if isinstance(sample, Document):
            asked = _asked(sample, source, spec)
            order = rng.permutation(len(asked))[: source.max_questions]
            turns = [turn_about(sample, asked[index], places, source.answer_characters) for index in order]
        tiles = tiles_uint8(sample.picture, spec)
        starts = line_starts(sample.text, places, len(tiles) * self.processor.image_seq_length)
        starts[rng.random(len(starts)) < UNSUPERVISED_SHARE] = -1
        return Drawn(tiles, characters, points, turns, starts)

    def _collate(self, drawn: list[Drawn], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        if self.config.stage == "read":
            prefix_noise = self.config.prefix_noise
            rows = [make_row(self.processor, len(each.tiles), each.turns, prefix_noise, rng, each.starts) for each in drawn]
            order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
            drawn = [drawn[index] for index in order]
            batch |= self._tokens([rows[index] for index in order])
            batch["tile_counts"] = torch.tensor([len(sample.tiles) for sample in drawn])
        return batch | {
            "tiles": torch.from_numpy(np.concatenate([sample.tiles for sample in drawn])),
            "characters": torch.from_numpy(np.concatenate([sample.characters for sample in drawn])).long(),
            "points": torch.from_numpy(np.concatenate([sample.points for sample in drawn])).long(),
        }

    def _tokens(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Rows padded on the right, shortest first."""
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        shape = len(rows), int(lengths[-1])
        tokens = {
            "input_ids": torch.full(shape, self.processor.tokenizer.pad_token_id),
            "labels": torch.full(shape, IGNORE),
            "next_char_pos": torch.full((*shape, 3), -1),
            "this_char_pos": torch.full((*shape, 3), -1),
            "query_word_pos": torch.full((*shape, 3), -1),
            "line_start_pos": torch.full((*shape, 3), -1),
            "is_first": torch.zeros(shape, dtype=torch.bool),
        }
        for index, row in enumerate(rows):
            for key, values in row._asdict().items():
                tokens[key][index, : len(values)] = torch.from_numpy(values)
        return tokens | {"lengths": lengths}
