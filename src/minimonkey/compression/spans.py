"""Where the detail level of each picture lies in a batch of prompts, which tokens are its queries, and what remains of the prompts.

Knows tensors of ids, no model and no picture.

    shapes: B prompts of length L, P pictures, h tokens of a detail level, k of them selected, R queries, K kept in a row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minimonkey.compression.spec import QUERY_SELECTORS, CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.pyramid import LEVEL_NAMES, Span


@dataclass(frozen=True)
class DetailLevel:
    """Where the detail tokens of one picture stand in a batch, and which tokens score them."""

    picture: int
    """Which picture of the batch, from 0."""
    row: int
    """Which prompt of the batch."""
    span: Span
    """Their places in the row, padding included."""
    tile_tokens: int
    """How many of them are one tile."""
    first: int
    """The first one's number among all image tokens of the batch."""
    queries: torch.Tensor
    """Places in the row of the tokens that score them, int64 [R], ascending."""


@dataclass(frozen=True)
class Selection:
    """What was chosen of one picture, and why."""

    picture: int
    """Which picture of the batch, from 0."""
    row: int
    """Which prompt of the batch."""
    detail: Span
    """Where the detail tokens stood in the row, padding included."""
    selected: torch.Tensor
    """The detail tokens that stay, int64 [k], ascending, counted from the first of them."""
    scores: torch.Tensor | None
    """Score of each detail token, float32 [h], more is better; None where single tokens have none."""


def detail_levels(
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    level_tiles: torch.Tensor | None,
    image_token_id: int,
    spec: CompressionSpec,
    order: Sequence[str] | None = None,
) -> list[DetailLevel]:
    """The detail levels in a batch of prompts.

    For scm-reference the detail level is where the published code looks for it: from the picture's first token on, whatever the
    order; with adaptive tiles first (Mini-Monkey's demo) that holds those and a part of the detail level. (A picture of one tile is
    all thumbnail. The published code halves it; we leave it whole.)

    Args:
        input_ids: the prompts, int64 [B, L].
        mask: 0 for padding, int [B, L].
        level_tiles: tiles of the detail, adaptive and thumbnail level of each picture, int64 [P, 3].
        image_token_id: the id of image tokens.
        spec: whose `queries` count, and whether the published code is followed.
        order: the order of a picture's levels in the prompt; detail, adaptive, thumbnail if not given.

    Returns:
        One entry for each picture that has a detail level, in their order.

    Raises:
        UsageError: `level_tiles` is missing or doesn't fit the prompts; a detail level has no queries, and the selector needs some;
            or scm-reference gets several prompts or pictures, or padding.
    """
    published = spec.selector == "scm-reference"
    if level_tiles is None:
        raise UsageError("compression needs level_tiles to find the detail level: the processor gives them, pass them on")
    if published and (len(input_ids) != 1 or len(level_tiles) != 1):
        raise UsageError(
            "scm-reference takes one prompt with one picture, as published; "
            f"got {len(input_ids)} with {len(level_tiles)}: give them one at a time, or leave compression out"
        )
    if published and not mask.all():
        raise UsageError("scm-reference takes a prompt without padding, as published: leave padding out")
    places = (input_ids == image_token_id).nonzero().tolist()
    tiles = int(level_tiles.sum())
    if tiles < 1 or len(places) < tiles or len(places) % tiles:
        raise UsageError(f"level_tiles has {tiles} tiles, but the prompt {len(places)} image tokens: pass both as they were made")
    tile_tokens, end = len(places) // tiles, 0
    found = []
    for picture, counts in enumerate(level_tiles.tolist()):
        start, end = end, end + sum(counts) * tile_tokens
        by_name = dict(zip(LEVEL_NAMES, counts, strict=True))
        names = list(order or LEVEL_NAMES)
        ahead = 0 if published else sum(by_name[name] for name in names[: names.index("detail")])
        first, size = start + ahead * tile_tokens, counts[0] * tile_tokens
        if size == 0:
            continue
        (row, column), last = places[first], places[end - 1]
        if last != [row, column + end - 1 - first]:
            tiles_of = f"level_tiles has {sum(counts)} tiles for picture {picture + 1}"
            raise UsageError(f"{tiles_of}, whose image tokens aren't in one piece")
        span = Span(column, column + size)
        queries = _query_places(spec, input_ids[row] == image_token_id, mask[row].bool(), span.stop, last[1] + 1)
        found.append(DetailLevel(picture, row, span, tile_tokens, first, queries))
    return found


def _query_places(spec: CompressionSpec, is_image: torch.Tensor, real: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The places of a row [L] whose tokens score a detail level that ends at `start`, in a picture that ends at `end`."""
    places = torch.arange(len(real), device=real.device)
    counts = places < end if spec.queries == "vision" else ~is_image | (places < end)
    found = (counts & real & (places >= start)).nonzero()[:, 0]
    if spec.selector in QUERY_SELECTORS and not len(found):
        remedy = "end the prompt with a question" if spec.queries == "all" else "put the detail level first, or ask all (queries)"
        raise UsageError(f"compression asks what follows the detail level, and nothing does: {remedy}")
    return found[-1:] if spec.selector == "fastv" else found


def remaining(mask: torch.Tensor, selections: Sequence[Selection], lost: Sequence[int] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of prompts that stay.

    Args:
        mask: 0 for the padding that there was, int [B, L].
        selections: what stays of each detail level.
        lost: places that no row keeps.

    Returns:
        Their places, int64 [B, K], padded on the left, and which of them are no padding, bool [B, K].
    """
    keep = mask.bool().clone()
    for chosen in selections:
        keep[chosen.row, chosen.detail.start : chosen.detail.stop] = False
        keep[chosen.row, chosen.detail.start + chosen.selected] = True
    keep[:, list(lost)] = False
    longest = int(keep.sum(dim=1).max())
    index = keep.long().argsort(dim=1, stable=True)[:, -longest:]
    return index, keep.gather(1, index)
