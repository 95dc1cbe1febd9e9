"""Attention supervision: which tokens some heads of the language model should attend to, and where a token's print is.

The renderer knows where each character stands. Knows rows of tokens and the layers of a language model, but no picture.

    next_char   the middle layer attends to the image tokens that hold the next character
    this_char   the layer before it attends to where the latest character was read, and to what the question's words name
    query_word  for the first characters of an answer, the middle layer attends to those words of the question
    found_char  and the layer behind it to the image tokens that hold the next character
    line_start  the first layer attends to where the line of an image token begins

Shape legend: B rows, L tokens of a row, D hidden size, n positions that a target is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from minimonkey.errors import UsageError
from minimonkey.language_model.layers import CosSin, queries_and_keys
from minimonkey.training.nano.config import TrainConfig

POSITION_FIELDS = ("next_char_pos", "this_char_pos", "query_word_pos", "line_start_pos")
"""The fields of a `Row` that hold positions, each int64 [B, L, 3] in a batch."""
FIRST_HEADS, LAST_HEADS = slice(2), slice(-2, None)
"""Which heads of a layer get a target: as a rule the first for image tokens of the next character, the last for other help."""
MOST_TILES = 48
"""Tiles of a picture that are told apart; all further ones are one."""

LayerInputs = dict[int, tuple[torch.Tensor, CosSin]]
"""What goes into layers of the language model: hidden states [B, L, D], rotary cosines and sines."""

PositionField = Literal[
    "next_char_pos", "next_char_pos_unaided", "next_char_pos_aided", "this_char_pos", "query_word_pos", "line_start_pos"
]
"""Fields of a batch that a target's positions come from. Those of `next_char_pos` are "aided" where `query_word_pos` has some."""


class AttentionTarget(NamedTuple):
    """What some heads of one layer of the language model should attend to."""

    name: str
    weight: float
    layer: int
    heads: slice
    positions: PositionField
    first_counts_more: bool
    """True: a position counts as much as the next character does, whose first in an answer counts more; False: all count alike."""
    first_level: bool = False
    """Whether only the first level of the picture counts that shows the character: the detail level unless `pyramid.order` differs.
    A head that attends to a word on three levels mixes three rows and columns for what reads it."""


class TargetLoss(NamedTuple):
    """The loss of one target in some rows."""

    name: str
    weight: float
    losses: torch.Tensor
    """float32 [n]: for each position, in nats"""
    counts: torch.Tensor
    """[n]: how much each of them counts"""


def weighted_sum(parts: list[TargetLoss]) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
    """The weighted sum of the targets' mean losses, and these means by name; 0 for a target without any position."""
    loss: torch.Tensor | float = 0.0
    figures = {}
    for name, weight in {part.name: part.weight for part in parts}.items():
        losses = torch.cat([part.losses for part in parts if part.name == name])
        counts = torch.cat([part.counts for part in parts if part.name == name])
        mean = (losses * counts).sum() / counts.sum().clamp(min=1e-6)
        loss, figures[f"{name}_loss"] = loss + weight * mean, mean.detach()
    return loss, figures


def attention_targets(config: TrainConfig, layers: int) -> list[AttentionTarget]:
    """The targets of a recipe for a language model of so many layers.

    The middle layer, or the first behind the middle, reads the next character. The layer before it finds the words of a question on
    the page. That is known to the first characters of an answer one layer later, which look it up there, and leads them to the
    next character in the layer behind that alone. Where a line begins is learnt in the first layer, so that a token that is found
    tells of its line, too.

    Raises:
        UsageError: too few layers.
    """
    middle, weights = reading_layer(layers), config.attention_losses
    for name, layer in (("this_char", middle - 1), ("query_word", middle + 1), ("place", middle + 1)):
        if getattr(weights, name) > 0 and not 0 < layer < layers:
            raise UsageError(
                f"attention_losses.{name} needs a language model of more layers than the {layers} of this one; set it to 0"
            )
    next_char: PositionField = "next_char_pos_unaided" if weights.query_word > 0 else "next_char_pos"
    every = [
        AttentionTarget("next_char", weights.next_char, middle, FIRST_HEADS, next_char, True),
        AttentionTarget("this_char", weights.this_char, middle - 1, FIRST_HEADS, "this_char_pos", False, first_level=True),
        AttentionTarget("line_start", weights.line_start, 0, LAST_HEADS, "line_start_pos", False),
        AttentionTarget("query_word", weights.query_word, middle, LAST_HEADS, "query_word_pos", False),
        AttentionTarget("found_char", weights.query_word, middle + 1, LAST_HEADS, "next_char_pos_aided", True, first_level=True),
    ]
    return [target for target in every if target.weight > 0]


def reading_layer(layers: int) -> int:
    """Which of so many layers attends to the next character."""
    return (layers + 1) // 2


class PlacesHead(nn.Module):
    """Names the tile of an image token, and its row and column in the tile, which has `side` x `side` tokens."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, MOST_TILES + 2 * side)

    def forward(self, hidden: torch.Tensor, places: torch.Tensor, tiles_too: bool = True) -> torch.Tensor:
        """Cross-entropy [n] of places int64 [n], counted from the picture's first token, given hidden states [n, D]."""
        tile, row, column = self.linear(self.norm(hidden)).float().split((MOST_TILES, self.side, self.side), dim=-1)
        tiles, within = places // self.side**2, places % self.side**2
        losses = F.cross_entropy(row, within // self.side, reduction="none")
        losses = losses + F.cross_entropy(column, within % self.side, reduction="none")
        return losses + F.cross_entropy(tile, tiles.clamp(max=MOST_TILES - 1), reduction="none") if tiles_too else losses


class AttentionSupervision(nn.Module):
    """All attention targets of a recipe, and the head that names places."""

    def __init__(self, config: TrainConfig, layers: int, width: int, side: int, image_token_id: int) -> None:
        super().__init__()
        self.config, self.image_token_id = config, image_token_id
        self.place_weight = config.attention_losses.place if config.stage == "read" else 0.0
        self.places_head = PlacesHead(width, side)
        self.set_layers(layers)

    def set_layers(self, layers: int) -> None:
        """Find the targets of a language model of so many layers. Raises UsageError for too few."""
        self.targets = attention_targets(self.config, layers) if self.config.stage == "read" else []
        self.reading_layer = reading_layer(layers)

    @contextmanager
    def capture_inputs(self, text: nn.Module) -> Iterator[LayerInputs]:
        """What goes into the layers with targets, once the language model has run within the block."""
        inputs: LayerInputs = {}

        def keep(index: int) -> Any:
            return lambda _, args, kwargs: inputs.update({index: (args[0], kwargs["position_embeddings"])})

        layers = {target.layer for target in self.targets}
        if self.place_weight > 0:
            layers |= {0, self.reading_layer - 1, self.reading_layer, self.reading_layer + 1}
        handles = [text.layers[index].register_forward_pre_hook(keep(index), with_kwargs=True) for index in layers]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()

    def forward(
        self, text: nn.Module, inputs: LayerInputs, batch: dict[str, torch.Tensor], weights: torch.Tensor
    ) -> list[TargetLoss]:
        """The losses of rows without padding on the left; `weights` [B, L]: how much the token behind each position counts."""
        next_char, aided = batch["next_char_pos"], (batch["query_word_pos"] >= 0).any(-1, keepdim=True)
        fields = batch | {
            "next_char_pos_unaided": next_char.masked_fill(aided, -1),
            "next_char_pos_aided": next_char.masked_fill(~aided, -1),
        }
        found = []
        for target in self.targets:
            positions = on_first_level(fields[target.positions]) if target.first_level else fields[target.positions]
            counts = weights if target.first_counts_more else torch.ones_like(weights)
            losses = attention_loss(text, inputs, target, positions).mean(-1)
            found.append(TargetLoss(target.name, target.weight, losses, counts[(positions >= 0).any(-1)]))
        return found + (self._places(inputs, batch) if self.place_weight > 0 else [])

    def _places(self, inputs: LayerInputs, batch: dict[str, torch.Tensor]) -> list[TargetLoss]:
        """The losses of the places head. It names where image tokens are, before the first layer (without the tile, which can't be
        known yet) and before the one that finds words; where the latest character is, or what a question's word names, behind
        that; and what query words name, a layer later."""
        ids = batch["input_ids"]
        first = (ids == self.image_token_id).int().argmax(1)[:, None]
        own = torch.where(batch["line_start_pos"][..., 0] >= 0, torch.arange(ids.shape[1], device=ids.device), -1)
        latest = on_first_level(batch["this_char_pos"]).amax(-1)
        query_word = batch["query_word_pos"].amax(-1)
        named = torch.where(query_word >= 0, latest.gather(1, query_word.clamp(min=0)), -1)
        found = []
        for name, layer, places in (
            ("features", 0, own),
            ("image_token", self.reading_layer - 1, own),
            ("this_char", self.reading_layer, latest),
            ("query_word", self.reading_layer + 1, named),
        ):
            there = places >= 0
            losses = self.places_head(inputs[layer][0][there], (places - first)[there], tiles_too=layer > 0)
            found.append(TargetLoss(f"place_{name}", self.place_weight, losses, torch.ones_like(losses)))
        return found


def on_first_level(positions: torch.Tensor) -> torch.Tensor:
    """Of positions [B, L, 3], one for each level in their order, the first that is there; -1 for the others."""
    there = positions >= 0
    return positions.masked_fill(there.cumsum(-1) > 1, -1)


def attention_loss(text: nn.Module, inputs: LayerInputs, target: AttentionTarget, positions: torch.Tensor) -> torch.Tensor:
    """How little of a target's heads' attention is on its tokens: -log of the share.

    Args:
        text: the language model without its head.
        inputs: those of its layers.
        target: which layer and heads.
        positions: where the tokens are that each position should attend to, int64 [B, L, 3]; -1 for none.

    Returns:
        For each position that has such tokens: float32 [n, heads].
    """
    hidden, cos_sin = inputs[target.layer]
    queries, keys = queries_and_keys(text, hidden, target.layer, cos_sin)
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)[:, target.heads]
    queries = queries[:, target.heads] * text.layers[target.layer].self_attn.scaling
    losses = []
    for query, key, wanted in zip(queries, keys, positions, strict=True):  # only positions with a target: a row may be long
        position = (wanted >= 0).any(-1).nonzero()[:, 0]
        scores = (query[:, position] @ key.mT).float()  # [heads, n, L]
        scores = scores.masked_fill(torch.arange(len(wanted), device=wanted.device) > position[:, None], float("-inf"))
        tokens = wanted[position].expand(len(query), -1, -1)
        right = scores.gather(-1, tokens.clamp(min=0)).masked_fill(tokens < 0, float("-inf")).logsumexp(-1)
        losses.append((scores.logsumexp(-1) - right).T)
    return torch.cat(losses)
