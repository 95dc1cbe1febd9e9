"""What a stage minimises: the losses of the text, of the characters that patches show, and of attention.

Shape legend: B samples, T tiles, S side of a tile, N patches of a tile, K character slots of a patch, L tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from minimonkey.errors import UsageError
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.synthetic.material.words import ALPHABET
from minimonkey.training.nano.attention_supervision import POSITION_FIELDS, AttentionSupervision, TargetLoss, weighted_sum
from minimonkey.training.nano.config import TrainConfig
from minimonkey.training.nano.labels import IGNORE, POINTS, SLOTS


class CharactersHead(nn.Module):
    """Names the characters whose centres lie in a patch, and those at its points: [T, N, C] -> [T, N, K + POINTS, classes]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, (SLOTS + POINTS) * (len(ALPHABET) + 1))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        logits = self.linear(self.norm(patches))
        return logits.unflatten(-1, (SLOTS + POINTS, len(ALPHABET) + 1))


def normalise(tiles: torch.Tensor, processor: MiniMonkeyProcessor) -> torch.Tensor:
    """uint8 [T, 3, S, S] to float32 pixel values, on the tensor's own device."""
    mean = torch.tensor(processor.image_processor.image_mean, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(processor.image_processor.image_std, device=tiles.device).view(3, 1, 1)
    return (tiles / 255 - mean) / std


class Group(NamedTuple):
    """Rows of a batch that run through the language model together."""

    rows: slice
    tiles: slice
    length: int


def groups(lengths: list[int], tile_counts: list[int]) -> list[Group]:
    """One or two groups of a batch's rows (shortest first): where to part them so that least is padded."""
    padded = [first * (lengths[first - 1] if first else 0) + (len(lengths) - first) * lengths[-1] for first in range(len(lengths))]
    first = min(range(len(lengths)), key=padded.__getitem__)
    tiles = sum(tile_counts[:first])
    last = Group(slice(first, None), slice(tiles, None), lengths[-1])
    return [Group(slice(first), slice(tiles), lengths[first - 1]), last] if first else [last]


class Losses(nn.Module):
    """The model, the character head and what the stage minimises: batch -> (loss, figures)."""

    def __init__(self, model: nn.Module, processor: MiniMonkeyProcessor, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.characters_head = CharactersHead(model.config.vision_config.hidden_size)
        self.processor, self.config = processor, config
        self.end_id = processor.encode_answer("")[0]
        text, side = model.config.text_config, math.isqrt(processor.image_seq_length)
        self.supervision = AttentionSupervision(config, text.num_hidden_layers, text.hidden_size, side, processor.image_token_id)
        if config.alignment_weight > 0:
            ids = processor.tokenizer.convert_tokens_to_ids(list(ALPHABET))
            if None in ids:
                raise UsageError("alignment_weight needs a tokenizer with a token for each character; set it to 0")
            self.register_buffer("token_of_class", torch.tensor([0, *ids]), persistent=False)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What is trained beside the model, and isn't published."""
        return {"characters_head": self.characters_head, "places_head": self.supervision.places_head}

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixel_values = normalise(batch["tiles"], self.processor)
        loss = torch.zeros((), device=pixel_values.device)
        figures: dict[str, torch.Tensor] = {}
        frozen = bool(batch["freeze_vision"])
        if self.config.stage == "characters":
            encoded = self.model.model.vision_tower(pixel_values=pixel_values)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                encoded = self.model.get_image_features(pixel_values=pixel_values)
        if not frozen and (self.config.stage == "characters" or self.config.characters_weight > 0):
            patches = encoded.last_hidden_state[:, 1:]
            character_loss, figures = self._characters(patches, batch)
            loss = loss + character_loss * (1.0 if self.config.stage == "characters" else self.config.characters_weight)
        if not frozen and self.config.stage == "read" and self.config.alignment_weight > 0:
            loss = loss + self.config.alignment_weight * self._alignment(encoded.pooler_output, batch["characters"])
        if self.config.stage == "read":
            text_loss, text_figures = self._read(batch, encoded)
            loss, figures = loss + text_loss, figures | text_figures
        return loss, figures

    def _read(self, batch: dict[str, torch.Tensor], encoded: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The losses of the text, in groups of about equally long rows."""
        logits: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        weights: list[torch.Tensor] = []
        is_first: list[torch.Tensor] = []
        target_losses: list[TargetLoss] = []
        text = self.model.model.language_model
        for rows, tiles, length in groups(batch["lengths"].tolist(), batch["tile_counts"].tolist()):
            part = {name: batch[name][rows, :length] for name in ("input_ids", "labels", "is_first", *POSITION_FIELDS)}
            with self.supervision.capture_inputs(text) as inputs:
                # Padding is on the right, where a causal model sees none of it: no mask, and attention takes its fast path.
                outputs = self.model(
                    input_ids=part["input_ids"],
                    mm_encoder_outputs={"image": type(encoded)(pooler_output=encoded.pooler_output[tiles])},
                )
            weight = self._weights(part["labels"], part["is_first"])
            target_losses += self.supervision(text, inputs, part, weight.roll(-1, 1))
            logits.append(outputs.logits[:, :-1].flatten(0, 1))
            for kept, each in ((labels, part["labels"]), (weights, weight), (is_first, part["is_first"])):
                kept.append(each[:, 1:].flatten())
        loss, figures = self._text(torch.cat(logits).float(), torch.cat(labels), torch.cat(weights), torch.cat(is_first))
        attention_loss, attention_figures = weighted_sum(target_losses)
        return loss + attention_loss, figures | attention_figures

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

    def _weights(self, labels: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """How much each token of rows [B, L] counts: the first one of an answer, and the one that ends it, as the recipe says."""
        weights = torch.where(first, self.config.first_weight, 1.0) * (labels != IGNORE)
        return torch.where(labels == self.end_id, self.config.end_weight, weights)

    def _text(
        self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, first: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        loss = (losses * weights).sum() / weights.sum().clamp(min=1e-6)
        asked = labels != IGNORE
        right = (logits.argmax(-1) == labels) & asked
        figures = {"next_right": right.sum() / asked.sum(), "first_right": (right & first).sum() / first.sum()}
        return loss, {"text_loss": loss.detach()} | figures
