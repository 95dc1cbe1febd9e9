"""What a stage learns from: seeded samples, in batches of a given number of tiles.

A batch is a function of (recipe, batch number) alone, so that a resumed run sees what an uninterrupted one would have seen.

Shape legend: B samples, T tiles, S side of a tile, N patches of a tile, K character slots of a patch, L tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from minimonkey.data.synthetic.lines import make_sample
from minimonkey.errors import UsageError
from minimonkey.image_processing import tiles_uint8
from minimonkey.processing import MiniMonkeyProcessor
from minimonkey.training.config import Ingredient, TrainConfig
from minimonkey.training.labels import IGNORE, character_labels, character_tokens, point_labels

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
    places: np.ndarray
    """int32 [characters, 3]: the image tokens that hold each character of the text"""
    question: str
    text: str


class Row(NamedTuple):
    """One sample's tokens."""

    input_ids: np.ndarray
    """int64 [L]"""
    labels: np.ndarray
    """int64 [L]: what the token before should foretell; IGNORE in the prompt"""
    looks: np.ndarray
    """int64 [L, 3]: the positions of the image tokens that hold what comes next, -1 for none"""


def with_mistakes(rng: np.random.Generator, characters: int, length: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """An answer of `length` tokens as a reader with slips of the pen would have it behind him: (written, asked), int64 [L] each.

    `written` is which token of the answer stands there, -1 for a wrong one; `asked` is the token that is right there, -1 where
    nothing is asked. A mistake at a `rate` of the first `characters` is a wrong character, one left out, or up to six read again;
    what comes after it is always how the true text goes on.
    """
    written: list[int] = []
    asked: list[int] = []
    index = 0
    while index < length:
        chance = rng.random() / rate if rate and index < characters else 1.0
        if chance < 0.6:
            written.append(-1)
        elif chance < 0.8 and index + 1 < characters:
            written.append(index + 1)
        elif chance < 1 and index:
            again = range(first := int(rng.integers(max(0, index - 12), index)), min(index, first + int(rng.integers(1, 7))))
            written += [*again, index]
            asked += [index, *[-1] * (len(again) - 1)]
        else:
            written.append(index)
        asked.append(index)
        index = max(index, written[-1]) + 1
    return np.array(written), np.array(asked)


@dataclass(frozen=True)
class Batches(torch.utils.data.Dataset):
    """Batch number -> batch. Loaded by worker processes, one whole batch at a time."""

    config: TrainConfig
    processor: MiniMonkeyProcessor
    patch_px: int
    split: str = "train"

    def __len__(self) -> int:
        return self.config.steps * self.config.batches_per_step

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.config.seed, number, self.split == "train"])
        drawn: list[Drawn] = []
        tiles = 0
        while tiles < self.config.tiles_per_batch:
            if not drawn or self.config.stage == "characters":  # no rows to pad there
                ingredient = self._choose(rng)
            drawn.append(self._draw_small(ingredient, rng))
            tiles += len(drawn[-1].tiles)
        return self._collate(drawn, rng)

    def _choose(self, rng: np.random.Generator) -> Ingredient:
        """An ingredient of the mixture, with one size of print."""
        weights = np.array([ingredient.weight for ingredient in self.config.mixture])
        ingredient = self.config.mixture[rng.choice(len(weights), p=weights / weights.sum())]
        low, high = ingredient.size_px
        size_px = low + (high - low) * rng.random() if ingredient.uniform else low * (high / low) ** rng.random()
        return dataclasses.replace(ingredient, size_px=(size_px, size_px))

    def _draw_small(self, ingredient: Ingredient, rng: np.random.Generator) -> Drawn:
        for _ in range(100):
            sample = self._draw(ingredient, rng)
            if ingredient.max_tiles is None or len(sample.tiles) <= ingredient.max_tiles:
                return sample
        raise UsageError(f"max_tiles={ingredient.max_tiles}: no {ingredient.kind} in 100 is that small; raise it or lower size_px")

    def _draw(self, ingredient: Ingredient, rng: np.random.Generator) -> Drawn:
        spec = dataclasses.replace(self.processor.image_processor.spec, **ingredient.pyramid)
        seed = int(rng.integers(1 << 62))
        settings: dict[str, Any] = {"split": self.split, "size_px": ingredient.size_px}
        if ingredient.kind == "tile":
            settings["tile_px"] = round(spec.tile_px / rng.uniform(*ingredient.zoom))
            sample = make_sample(seed, "tile", **settings)
            spec = dataclasses.replace(spec, detail=(1, 1), adaptive=None, fit="stretch", max_upscale=None)
        else:
            sample = make_sample(seed, ingredient.kind, **settings)
        text = "\n".join(line.text for line in sample.lines)
        question = QUESTIONS[rng.integers(len(QUESTIONS))]
        labels = (label(sample, spec, self.patch_px) for label in (character_labels, point_labels, character_tokens))
        return Drawn(tiles_uint8(sample.picture, spec), *labels, question, text)

    def _collate(self, drawn: list[Drawn], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        if self.config.stage == "read":
            rows = [self._row(sample, rng) for sample in drawn]
            order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
            drawn = [drawn[index] for index in order]
            batch |= self._tokens([rows[index] for index in order])
            batch["tile_counts"] = torch.tensor([len(sample.tiles) for sample in drawn])
        return batch | {
            "tiles": torch.from_numpy(np.concatenate([sample.tiles for sample in drawn])),
            "characters": torch.from_numpy(np.concatenate([sample.characters for sample in drawn])).long(),
            "points": torch.from_numpy(np.concatenate([sample.points for sample in drawn])).long(),
        }

    def _row(self, sample: Drawn, rng: np.random.Generator) -> Row:
        prompt = self.processor.encode_chat(sample.question, pictures=[len(sample.tiles)])
        answer = np.array(self.processor.encode_answer(sample.text))
        characters = len(sample.places)  # what ends an answer is never mistaken
        written, asked = with_mistakes(rng, characters, len(answer), rng.random() * 2 * self.config.mistakes)
        ids = answer[np.where(written < 0, rng.integers(max(1, characters), size=len(written)), written)]
        places = np.append(sample.places, np.full((len(answer) - characters, 3), -1), axis=0)
        places = np.where(places < 0, -1, places + prompt.index(self.processor.image_token_id))
        before = len(prompt) - 1  # the position whose next token is the first character
        return Row(
            np.append(prompt, ids),
            np.append(np.full(len(prompt), IGNORE), np.where(asked < 0, IGNORE, answer[asked])),
            np.concatenate((np.full((before, 3), -1), np.where(asked[:, None] < 0, -1, places[asked]), np.full((1, 3), -1))),
        )

    def _tokens(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Rows padded on the right, shortest first."""
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        shape = len(rows), int(lengths[-1])
        tokens = {
            "input_ids": torch.full(shape, self.processor.tokenizer.pad_token_id),
            "labels": torch.full(shape, IGNORE),
            "looks": torch.full((*shape, 3), -1),
        }
        for index, row in enumerate(rows):
            for key, values in row._asdict().items():
                tokens[key][index, : len(values)] = torch.from_numpy(values)
        return tokens | {"lengths": lengths}
