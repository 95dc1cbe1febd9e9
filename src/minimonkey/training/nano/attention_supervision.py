"""What the language model is taught about places: what some of its heads should attend to, and where a token's print is.

The renderer knows where each character stands. Knows rows of tokens and the layers of a language model, but no picture.

Shape legend: B rows, L tokens of a row, D hidden size, n positions that a lesson is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from minimonkey.errors import UsageError
from minimonkey.language_model.layers import Rotation, queries_and_keys
from minimonkey.training.nano.config import TrainConfig

PLACES = ("looks", "stands", "recalls", "begins")
"""What a batch knows of places: the fields of a `Row` of their names, each int64 [B, L, 3]."""
FIRST_HEADS, LAST_HEADS = slice(2), slice(-2, None)
"""Which heads of a layer are taught: as a rule the first look at the picture, the last at what else helps to find a place."""
MOST_TILES = 48
"""Tiles of a picture that are told apart; all further ones are one."""

Seen = dict[int, tuple[torch.Tensor, Rotation]]
"""What goes into layers of the language model: hidden states [B, L, D], and the cosines and sines."""


class Lesson(NamedTuple):
    """What some heads of one layer of the language model are taught to attend to."""

    name: str
    weight: float
    layer: int
    heads: slice
    places: Literal["looks", "unrecalled", "recalled", "stands", "recalls", "begins"]
    """Which entry of a batch tells the positions; those of `looks` are "recalled" where `recalls` has some."""
    first_counts_more: bool
    """True: a place counts as much as the next character does, whose first in an answer counts more; False: all count alike."""
    first_level: bool = False
    """Whether only the first level of the picture counts that shows it, which is the detail level unless `pyramid.order` differs. A
    head that looks at a word on three levels mixes three rows and columns for what reads it."""


class Part(NamedTuple):
    """What a lesson found in some rows."""

    name: str
    weight: float
    missed: torch.Tensor
    """float32 [n]: a loss for each position, in nats"""
    counts: torch.Tensor
    """[n]: how much each of them counts"""


def total(parts: list[Part]) -> tuple[torch.Tensor | float, dict[str, torch.Tensor]]:
    """The weighted sum of the lessons' mean losses, and these means by name. Nothing is asked of a batch without any place."""
    loss: torch.Tensor | float = 0.0
    figures = {}
    for name, weight in {part.name: part.weight for part in parts}.items():
        missed = torch.cat([part.missed for part in parts if part.name == name])
        counts = torch.cat([part.counts for part in parts if part.name == name])
        mean = (missed * counts).sum() / counts.sum().clamp(min=1e-6)
        loss, figures[f"{name}_loss"] = loss + weight * mean, mean.detach()
    return loss, figures


def attention_lessons(config: TrainConfig, layers: int) -> list[Lesson]:
    """What heads of a language model of so many layers are taught.

    The layer that looks at the next character is the middle one, or the first behind the middle. The anchor is the layer before
    it. What words of a question have found in the anchor is known to the first characters of an answer one layer later, where
    they recall it, and tells where to look in the layer behind that alone. Where a line begins is learnt in the first layer, so
    that what the anchor finds in a token tells of its line, too. Raises UsageError for too few layers.
    """
    look = looking_layer(layers)
    recalled = config.recall_weight > 0
    for name, layer in (("anchor", look - 1), ("recall", look + 1), ("place", look + 1)):
        if getattr(config, f"{name}_weight") > 0 and not 0 < layer < layers:
            raise UsageError(f"{name}_weight needs a language model of more layers than the {layers} of this one; set it to 0")
    every = [
        Lesson("looking", config.looking_weight, look, FIRST_HEADS, "unrecalled" if recalled else "looks", True),
        Lesson("anchor", config.anchor_weight, look - 1, FIRST_HEADS, "stands", False, first_level=True),
        Lesson("line", config.line_weight, 0, LAST_HEADS, "begins", False),
        Lesson("recall", config.recall_weight, look, LAST_HEADS, "recalls", False),
        Lesson("found", config.recall_weight, look + 1, LAST_HEADS, "recalled", True, first_level=True),
    ]
    return [lesson for lesson in every if lesson.weight > 0]


def looking_layer(layers: int) -> int:
    """Which of so many layers looks at the next character."""
    return (layers + 1) // 2


class PlacesHead(nn.Module):
    """Names the tile of a place, and its row and column in the tile, of which each has `side` x `side` tokens."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, MOST_TILES + 2 * side)

    def forward(self, hidden: torch.Tensor, places: torch.Tensor, tiles_too: bool = True) -> torch.Tensor:
        """Cross-entropy [n] of places int64 [n], counted from the picture's first token, given hidden states [n, D]."""
        tile, row, column = self.linear(self.norm(hidden)).float().split((MOST_TILES, self.side, self.side), dim=-1)
        tiles, within = places // self.side**2, places % self.side**2
        missed = F.cross_entropy(row, within // self.side, reduction="none")
        missed = missed + F.cross_entropy(column, within % self.side, reduction="none")
        return missed + F.cross_entropy(tile, tiles.clamp(max=MOST_TILES - 1), reduction="none") if tiles_too else missed


class Lessons(nn.Module):
    """All lessons of a recipe."""

    def __init__(self, config: TrainConfig, layers: int, width: int, side: int, image_token_id: int) -> None:
        super().__init__()
        self.config, self.image_token_id = config, image_token_id
        self.place_weight = config.place_weight if config.stage == "read" else 0.0
        self.places_head = PlacesHead(width, side)
        self.plan(layers)

    def plan(self, layers: int) -> None:
        """Which layers of so many are taught what. Raises UsageError for too few."""
        self.attention = attention_lessons(self.config, layers) if self.config.stage == "read" else []
        self.look = looking_layer(layers)

    @contextmanager
    def watched(self, text: nn.Module) -> Iterator[Seen]:
        """What goes into the layers that are taught, once the language model has run."""
        seen: Seen = {}

        def keep(index: int) -> Any:
            return lambda _, args, kwargs: seen.update({index: (args[0], kwargs["position_embeddings"])})

        layers = {lesson.layer for lesson in self.attention}
        if self.place_weight > 0:
            layers |= {0, self.look - 1, self.look, self.look + 1}
        handles = [text.layers[index].register_forward_pre_hook(keep(index), with_kwargs=True) for index in layers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, text: nn.Module, seen: Seen, batch: dict[str, torch.Tensor], weights: torch.Tensor) -> list[Part]:
        """What is missed in rows without padding on the left; `weights` [B, L]: how much the token behind each position counts."""
        looks, recalled = batch["looks"], (batch["recalls"] >= 0).any(-1, keepdim=True)
        every = batch | {"unrecalled": looks.masked_fill(recalled, -1), "recalled": looks.masked_fill(~recalled, -1)}
        found = []
        for lesson in self.attention:
            places = on_first_level(every[lesson.places]) if lesson.first_level else every[lesson.places]
            counts = weights if lesson.first_counts_more else torch.ones_like(weights)
            missed = unattended(text, seen, lesson, places).mean(-1)
            found.append(Part(lesson.name, lesson.weight, missed, counts[(places >= 0).any(-1)]))
        return found + (self._places(seen, batch) if self.place_weight > 0 else [])

    def _places(self, seen: Seen, batch: dict[str, torch.Tensor]) -> list[Part]:
        """Where image tokens are, before the first layer (without the tile, which can't be known yet) and before the anchor's;
        where the latest character is, or what a question's word names, behind the anchor's; what is recalled, a layer later."""
        ids, stands, recalls = batch["input_ids"], batch["stands"], batch["recalls"]
        first = (ids == self.image_token_id).int().argmax(1)[:, None]
        own = torch.where(batch["begins"][..., 0] >= 0, torch.arange(ids.shape[1], device=ids.device), -1)
        latest = on_first_level(stands).amax(-1)
        named = recalls.amax(-1)
        recalled = torch.where(named >= 0, latest.gather(1, named.clamp(min=0)), -1)
        found = []
        for name, layer, places in (
            ("features", 0, own),
            ("own", self.look - 1, own),
            ("latest", self.look, latest),
            ("recalled", self.look + 1, recalled),
        ):
            there = places >= 0
            missed = self.places_head(seen[layer][0][there], (places - first)[there], tiles_too=layer > 0)
            found.append(Part(f"place_{name}", self.place_weight, missed, torch.ones_like(missed)))
        return found


def on_first_level(places: torch.Tensor) -> torch.Tensor:
    """Of places [B, L, 3], one for each level in their order, the first that is there; -1 for the others."""
    there = places >= 0
    return places.masked_fill(there.cumsum(-1) > 1, -1)


def unattended(text: nn.Module, seen: Seen, lesson: Lesson, places: torch.Tensor) -> torch.Tensor:
    """How little of the attention of a lesson's heads is on the tokens `places` [B, L, 3]: -log of the share.

    For each position that has such tokens: float32 [n, heads].
    """
    hidden, turned = seen[lesson.layer]
    queries, keys = queries_and_keys(text, hidden, lesson.layer, turned)
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)[:, lesson.heads]
    queries = queries[:, lesson.heads] * text.layers[lesson.layer].self_attn.scaling
    missed = []
    for query, key, place in zip(queries, keys, places, strict=True):  # only the positions asked about: a row may be long
        position = (place >= 0).any(-1).nonzero()[:, 0]
        scores = (query[:, position] @ key.mT).float()  # [heads, n, L]
        scores = scores.masked_fill(torch.arange(len(place), device=place.device) > position[:, None], float("-inf"))
        wanted = place[position].expand(len(query), -1, -1)
        right = scores.gather(-1, wanted.clamp(min=0)).masked_fill(wanted < 0, float("-inf")).logsumexp(-1)
        missed.append((scores.logsumexp(-1) - right).T)
    return torch.cat(missed)
