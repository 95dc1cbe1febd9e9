"""What a stage learns from: seeded samples, batches of a given number of tiles, and a loss with its figures.

A batch is a function of (recipe, batch number) alone, so that a resumed run sees what an uninterrupted one would have seen.

Shape legend: B samples, T tiles, S side of a tile, N patches of a tile, K character slots of a patch, L tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from minimonkey.data.synthetic.lines import make_sample
from minimonkey.data.synthetic.words import ALPHABET
from minimonkey.errors import UsageError
from minimonkey.image_processing import tiles_uint8
from minimonkey.processing import MiniMonkeyProcessor
from minimonkey.training.config import Ingredient, TrainConfig
from minimonkey.training.labels import IGNORE, POINTS, SLOTS, character_labels, character_tokens, point_labels

QUESTIONS = (
    "Read the text.",
    "What does it say?",
    "Transcribe the text.",
    "Read everything.",
    "What is written here?",
    "Please read the text in the picture.",
)


LOOKING_HEADS = 2
"""How many heads of the language model's middle layer are taught where to look."""


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


class CharactersHead(nn.Module):
    """Names the characters whose centres lie in a patch, and those at its points: [T, N, C] -> [T, N, K + POINTS, classes]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, (SLOTS + POINTS) * (len(ALPHABET) + 1))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        logits = self.linear(self.norm(patches))
        return logits.unflatten(-1, (SLOTS + POINTS, len(ALPHABET) + 1))


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
        return self._collate(drawn)

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

    def _collate(self, drawn: list[Drawn]) -> dict[str, torch.Tensor]:
        batch = {
            "tiles": torch.from_numpy(np.concatenate([sample.tiles for sample in drawn])),
            "characters": torch.from_numpy(np.concatenate([sample.characters for sample in drawn])).long(),
            "points": torch.from_numpy(np.concatenate([sample.points for sample in drawn])).long(),
        }
        if self.config.stage == "read":
            batch |= self._tokens(drawn)
        return batch

    def _tokens(self, drawn: list[Drawn]) -> dict[str, torch.Tensor]:
        rows, answers, looks = [], [], []
        for sample in drawn:
            prompt = self.processor.encode_chat(sample.question, pictures=[len(sample.tiles)])
            answer = self.processor.encode_answer(sample.text)
            rows.append(prompt + answer)
            answers.append(len(answer))
            places = torch.from_numpy(sample.places).long()
            looks.append(torch.where(places < 0, -1, places + prompt.index(self.processor.image_token_id)))
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.processor.tokenizer.pad_token_id)
        labels = torch.full_like(input_ids, IGNORE)
        for row, (ids, answer) in enumerate(zip(rows, answers, strict=True)):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, len(ids) - answer : len(ids)] = torch.tensor(ids[-answer:])
        mask = torch.arange(longest) < torch.tensor([[len(ids)] for ids in rows])
        tokens = {"input_ids": input_ids, "labels": labels, "attention_mask": mask.long()}
        if self.config.looking_weight > 0:
            tokens["looks"] = torch.full((*input_ids.shape, 3), -1)
            for row, (ids, answer, places) in enumerate(zip(rows, answers, looks, strict=True)):
                before = len(ids) - answer - 1  # the position whose next token is the first character
                tokens["looks"][row, before : before + len(places)] = places
        return tokens


def normalise(tiles: torch.Tensor, processor: MiniMonkeyProcessor) -> torch.Tensor:
    """uint8 [T, 3, S, S] to float32 pixel values, on the tensor's own device."""
    mean = torch.tensor(processor.image_processor.image_mean, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(processor.image_processor.image_std, device=tiles.device).view(3, 1, 1)
    return (tiles / 255 - mean) / std


class Losses(nn.Module):
    """The model, the character head and what the stage minimises: batch -> (loss, figures)."""

    def __init__(self, model: nn.Module, processor: MiniMonkeyProcessor, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.characters_head = CharactersHead(model.config.vision_config.hidden_size)
        self.processor, self.config = processor, config
        if config.alignment_weight > 0:
            ids = processor.tokenizer.convert_tokens_to_ids(list(ALPHABET))
            if None in ids:
                raise UsageError("alignment_weight needs a tokenizer with a token for each character; set it to 0")
            self.register_buffer("token_of_class", torch.tensor([0, *ids]), persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixel_values = normalise(batch["tiles"], self.processor)
        encoded = None
        loss = torch.zeros((), device=pixel_values.device)
        figures: dict[str, torch.Tensor] = {}
        if self.config.stage == "characters":
            encoded = self.model.model.vision_tower(pixel_values=pixel_values)
        else:
            encoded = self.model.get_image_features(pixel_values=pixel_values)
        if self.config.stage == "characters" or self.config.characters_weight > 0:
            patches = encoded.last_hidden_state[:, 1:]
            character_loss, figures = self._characters(patches, batch)
            loss = loss + character_loss * (1.0 if self.config.stage == "characters" else self.config.characters_weight)
        if self.config.stage == "read" and self.config.alignment_weight > 0:
            loss = loss + self.config.alignment_weight * self._alignment(encoded.pooler_output, batch["characters"])
        if self.config.stage == "read":
            with self._watched() as seen:
                outputs = self.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], mm_encoder_outputs={"image": encoded}
                )
            text_loss, text_figures = self._text(outputs.logits[:, :-1].float(), batch["labels"][:, 1:])
            loss, figures = loss + text_loss, figures | text_figures
            if self.config.looking_weight > 0:
                looking = self._looking(seen, batch["looks"], batch["attention_mask"])
                loss, figures = loss + self.config.looking_weight * looking, figures | {"looking_loss": looking.detach()}
        return loss, figures

    def _characters(self, patches: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = torch.zeros((), device=patches.device)
        figures = {}
        logits = self.characters_head(patches).float().split((SLOTS, POINTS), dim=2)
        # Most slots and points are empty; all of the empty ones count as much as a few of the others.
        for name, said, empty_weight in zip(("characters", "points"), logits, (0.05, 0.1), strict=True):
            labels = batch[name]
            named = labels > 0
            weights = torch.where(named, 1.0, empty_weight) * (labels != IGNORE)
            losses = F.cross_entropy(said.flatten(0, 2), labels.flatten(), ignore_index=IGNORE, reduction="none")
            loss = loss + (losses * weights.flatten()).sum() / weights.sum().clamp(min=1)
            figures[f"{name}_right"] = ((said.argmax(-1) == labels) & named).sum() / named.sum().clamp(min=1)
        return loss, figures

    def _alignment(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what the head makes of image tokens [T, N / 4, D] with the characters that their four patches show."""
        side = int(labels.shape[1] ** 0.5)
        shown = labels.view(len(labels), side // 2, 2, side // 2, 2, SLOTS).transpose(2, 3).flatten(3).flatten(1, 2)
        counts = torch.zeros(*shown.shape[:2], self.model.lm_head.out_features, device=labels.device)
        counts.scatter_add_(2, self.token_of_class[shown.clamp(min=0)], (shown > 0).float())
        total = counts.sum(-1)
        log_probabilities = self.model.lm_head(tokens).float().log_softmax(-1)
        return -(counts * log_probabilities).sum() / total.sum().clamp(min=1)

    @property
    def _looking_layer(self) -> nn.Module:
        layers = self.model.model.language_model.layers
        return layers[len(layers) // 2].self_attn

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        """What goes into the attention of the layer that is taught to look: hidden states, cosines and sines."""
        seen: dict[str, Any] = {}
        handle = self._looking_layer.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    def _looking(self, seen: dict[str, Any], looks: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """How little of the first heads' attention is on the image tokens that hold the next character: -log of the share."""
        attention = self._looking_layer
        hidden, (cosines, sines) = seen["hidden_states"], seen["position_embeddings"]
        queries, keys = (
            project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)[:, :LOOKING_HEADS]
            for project in (attention.q_proj, attention.k_proj)
        )
        queries, keys = apply_rotary_pos_emb(queries, keys, cosines, sines)
        row, position = (looks >= 0).any(-1).nonzero(as_tuple=True)
        scores = (queries @ keys.mT * attention.scaling).transpose(1, 2)[row, position].float()  # [characters, heads, L]
        there = torch.arange(scores.shape[-1], device=row.device) <= position[:, None]
        scores = scores.masked_fill(~(there & mask[row].bool())[:, None], float("-inf"))
        wanted = torch.zeros(there.shape, dtype=torch.bool, device=row.device)
        for level in looks[row, position].unbind(-1):
            wanted[(level >= 0).nonzero()[:, 0], level[level >= 0]] = True
        right = scores.masked_fill(~wanted[:, None], float("-inf")).logsumexp(-1)
        return (scores.logsumexp(-1) - right).mean()

    def _text(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        asked = labels != IGNORE
        right = ((logits.argmax(-1) == labels) & asked).sum() / asked.sum()
        return loss, {"text_loss": loss.detach(), "next_right": right}
