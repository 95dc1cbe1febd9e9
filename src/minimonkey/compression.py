"""Which image tokens are worth keeping? Token selection on tensors: score, select, and say what stays.

Only tokens of the detail level are up for selection. Knows tensors and positions, no model and no picture.

    shapes: L length of the prompt, h tokens of the detail level, k of them selected, H query heads, K key heads,
            C channels of a head, R query rows: the last R positions of the prompt
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from minimonkey.errors import UsageError
from minimonkey.pyramid import Span

SELECTORS = ("scm-reference",)
"""scm-reference: the Scale Compression Mechanism exactly as Mini-Monkey's code has it (`modeling_minimonkey_chat.py`): the second
layer's attention to the detail tokens, the mean over every later position; a whole second run on what is kept; and the token after
the detail level lost. One prompt with one picture. For comparison with published results."""


@dataclass(frozen=True)
class CompressionSpec:
    """How the tokens of the detail level are thinned out at prefill. `dataclasses.asdict(spec)` is what JSON keeps of it."""

    selector: str = "scm-reference"
    """Who chooses: a name in SELECTORS."""
    keep_ratio: float = 0.5
    """Share of the detail tokens that stays, rounded down: above 0, at most 1."""
    queries: Literal["all", "vision"] = "all"
    """Whose attention counts: that of all tokens after the detail level, or of image tokens alone, whatever the question."""
    positions: Literal["compact", "original"] = "compact"
    """Positions of the tokens that stay: counted anew, or those that they had."""

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            nearest = difflib.get_close_matches(str(self.selector), SELECTORS, n=1, cutoff=0.0)[0]
            known = ", ".join(SELECTORS)
            raise UsageError(f"compression: no selector {self.selector!r}; the nearest is {nearest!r}, all are {known}")
        checks = (
            ("keep_ratio", _is_ratio(self.keep_ratio), "a number above 0, at most 1"),
            ("queries", self.queries in ("all", "vision"), '"all" or "vision"'),
            ("positions", self.positions in ("compact", "original"), '"compact" or "original"'),
        )
        for name, is_right, expected in checks:
            if not is_right:
                raise UsageError(f"compression: {name}={getattr(self, name)!r}: expected {expected}")
        for name, published in {"queries": "all", "positions": "compact"}.items():
            if getattr(self, name) != published:
                raise UsageError(
                    f"compression: {name}={getattr(self, name)!r}: {self.selector} is what was published, {published!r} only"
                )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> CompressionSpec:
        """The spec of saved JSON. An unknown key is a UsageError that names the nearest setting."""
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise UsageError(f"compression has no setting {key!r}; the nearest is {nearest!r}, all are {', '.join(known)}")
        return cls(**settings)


@dataclass(frozen=True)
class Selection:
    """What was chosen for one prompt, and why."""

    detail: Span
    """Where the detail level stood in the prompt."""
    scores: torch.Tensor
    """Score of each detail token, float32 [h]; more is better."""
    selected: torch.Tensor
    """The detail tokens that stay, int64 [k], ascending, counted from the first of them."""
    kept: torch.Tensor
    """Positions of the prompt that remain, int64, ascending."""


def detail_span(input_ids: torch.Tensor, level_tiles: torch.Tensor | None, image_token_id: int) -> Span | None:
    """Where the published code looks for the detail level of a prompt [1, L] with one picture, `level_tiles` [1, 3].

    That is from the first image token on, whatever the order of the levels: with adaptive tiles first (Mini-Monkey's demo) it
    holds those and a part of the detail level. None if the picture has no detail level: a grid of one tile is the thumbnail.
    (The published code then halves the first tile that there is, an adaptive one or the thumbnail; we leave it whole.)

    Raises UsageError for several prompts or pictures, and for level tiles that are missing or don't fit the prompt.
    """
    if level_tiles is None:
        raise UsageError("compression needs level_tiles to find the detail level: the processor gives them, pass them on")
    if len(input_ids) != 1 or len(level_tiles) != 1:
        raise UsageError(
            "scm-reference takes one prompt with one picture, as published; "
            f"got {len(input_ids)} with {len(level_tiles)}: give them one at a time, or leave compression out"
        )
    detail, tiles = int(level_tiles[0, 0]), int(level_tiles.sum())
    places = (input_ids[0] == image_token_id).nonzero()[:, 0]
    if tiles < 1 or len(places) < tiles or len(places) % tiles:
        raise UsageError(f"level_tiles has {tiles} tiles, but the prompt {len(places)} image tokens: pass both as they were made")
    if detail == 0:
        return None
    start = int(places[0])
    span = Span(start, start + detail * (len(places) // tiles))
    if span.stop >= input_ids.shape[1]:
        raise UsageError("compression asks what follows the detail level, and nothing does: end the prompt with a question")
    return span


def attention_to(queries: torch.Tensor, keys: torch.Tensor, span: Span, *, scale: float, window: int | None = None) -> torch.Tensor:
    """How much the last R positions of a prompt look at each position of `span`, float32 [h]: mean over them, then over heads.

    `queries` [H, R, C] and `keys` [K, L, C] are turned by their positions; H is a multiple of K. A row sees itself and what is
    before it, `window` tokens in all if given; probabilities are over all that it sees. Never more than one head's [R, L] exists.
    """
    (heads, rows, _), (groups, length, _) = queries.shape, keys.shape
    places = torch.arange(length, device=keys.device)
    own = places[length - rows :, None]
    unseen = places > own
    if window is not None:
        unseen |= places <= own - window
    total = torch.zeros(span.stop - span.start, device=keys.device)
    for head in range(heads):
        logits = (queries[head] @ keys[head * groups // heads].T).float() * scale
        total += logits.masked_fill_(unseen, float("-inf")).softmax(dim=-1)[:, span.start : span.stop].mean(dim=0)
    return total / heads


def best(scores: torch.Tensor, keep_ratio: float) -> torch.Tensor:
    """The int(keep_ratio * h) best of `scores` [h]: int64 [k], ascending. Among equal scores the earlier ones."""
    order = scores.argsort(descending=True, stable=True)
    return order[: int(keep_ratio * len(scores))].sort().values


def select_as_published(scores: torch.Tensor, detail: Span, length: int, keep_ratio: float) -> Selection:
    """What scm-reference keeps of a prompt of `length` tokens, given the scores [h] of the detail level.

    The token after the detail level is lost, as published, even with keep_ratio=1.
    """
    selected = best(scores, keep_ratio)
    places = torch.arange(length, device=scores.device)
    kept = torch.cat((places[: detail.start], detail.start + selected, places[detail.stop + 1 :]))
    return Selection(detail, scores, selected, kept)


def _is_ratio(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number <= 1
