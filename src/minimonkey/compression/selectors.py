"""Ways to choose among image tokens: tensors in, the numbers of the tokens that stay out. A function for each selector.

Tokens come in groups that share a budget, the whole detail level or one tile of it; choices are counted within their group and come
back ascending. Among equals the earlier token wins. Knows no model, no prompt and no picture.

    shapes: G groups of n tokens, k of each stay; T tiles of t tokens; D features of a token; R queries; L length of a prompt,
            h tokens of a span; H query heads, K key heads, C channels of a head
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import adaptive_avg_pool2d, normalize

from minimonkey.errors import UsageError
from minimonkey.pyramid import Span

ROWS_AT_ONCE = 256
"""Query rows whose attention exists at one time, for one head: a few megabytes, which stay in the processor's cache."""
RELEVANCE_SHARE = 0.5
"""How much relevance counts in `marginal`; the rest is how little a token repeats those chosen before it."""


def attention_to(
    queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, span: Span, *, scale: float, sliding_window: int | None = None
) -> torch.Tensor:
    """The attention of some positions of a prompt to each position of `span`: the mean over the queries, then over heads.

    Probabilities are over all tokens that a query sees: itself and those before it. Never more than ROWS_AT_ONCE rows of one head
    exist.

    Args:
        queries: those of the positions `rows`, rotated, [H, R, C].
        keys: those of all positions, rotated, [K, L, C]; H is a multiple of K.
        rows: positions of the queries, int64 [R], ascending.
        span: the positions that are scored.
        scale: factor of the logits.
        sliding_window: how many tokens a query sees, itself included; None for all.

    Returns:
        float32 [h].
    """
    (heads, _, _), (groups, length, _) = queries.shape, keys.shape
    places = torch.arange(length, device=keys.device)
    total = torch.zeros(span.stop - span.start, device=keys.device)
    for block in torch.arange(len(rows), device=rows.device).split(ROWS_AT_ONCE):
        own = rows[block, None]
        seen = int(own[-1]) + 1
        unseen = places[:seen] > own
        if sliding_window is not None:
            unseen |= places[:seen] <= own - sliding_window
        for head in range(heads):
            logits = (queries[head, block] @ keys[head * groups // heads, :seen].T).float().mul_(scale)
            total += logits.masked_fill_(unseen, float("-inf")).softmax(dim=-1)[:, span.start : span.stop].sum(dim=0)
    return total / (heads * len(rows))


def relevance(features: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """How much tokens are like the queries: the mean cosine, stretched to 0 ... 1 over all groups; 1 for all if all are equal.

    Args:
        features: the tokens, [G, n, D].
        queries: [R, D].

    Returns:
        float32 [G, n].
    """
    alike = normalize(features.float(), dim=-1) @ normalize(queries.float(), dim=-1).mean(dim=0)
    low, high = alike.min(), alike.max()
    return (alike - low) / (high - low) if high > low else torch.ones_like(alike)


def best(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """The `keep` tokens with the highest scores [G, n]: int64 [G, k]."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :keep].sort(dim=-1).values


def at_random(groups: int, size: int, keep: int, seed: int) -> torch.Tensor:
    """Any `keep` of `size` tokens: int64 [G, k], on every device the same for the same seed."""
    return best(torch.rand(groups, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), keep)


def evenly(groups: int, size: int, keep: int) -> torch.Tensor:
    """The middles of `keep` equal stretches of `size` tokens: int64 [G, k]."""
    return ((2 * torch.arange(keep) + 1) * size // max(2 * keep, 1)).expand(groups, -1)


def pooled(features: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each tile's tokens, averaged over the cells of a coarser grid.

    Of two grids of as many cells the squarer is taken, then the wider: lines of text run across.

    Args:
        features: the tokens of each tile, row by row, [T, t, D].
        keep: the most cells of a tile.

    Returns:
        For each cell the token nearest its middle, whose place it takes, int64 [T, k], and the averages [T, k, D]; k may be less
        than `keep`.

    Raises:
        UsageError: tiles aren't square.
    """
    tiles, tokens, width = features.shape
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UsageError(f"downsample pools square tiles, and these have {tokens} tokens: take another selector")
    if keep == 0:
        return torch.empty(tiles, 0, dtype=torch.long), features[:, :0]
    grids = [(rows, min(side, keep // rows)) for rows in range(1, min(side, keep) + 1)]
    rows, columns = max(grids, key=lambda grid: (grid[0] * grid[1], min(grid), grid[1]))
    averages = adaptive_avg_pool2d(features.transpose(1, 2).reshape(tiles, width, side, side), (rows, columns))
    down, across = _middles(side, rows), _middles(side, columns)
    return (down[:, None] * side + across).flatten().expand(tiles, -1), averages.flatten(2).transpose(1, 2)


def _middles(size: int, cells: int) -> torch.Tensor:
    """The token nearest the middle of each cell that `adaptive_avg_pool2d` makes of a side of `size` tokens; the earlier of two."""
    first = torch.arange(cells) * size // cells
    last = ((torch.arange(cells) + 1) * size - 1) // cells
    return (first + last) // 2


def diverse(features: torch.Tensor, keep: int) -> torch.Tensor:
    """Tokens that lie far from each other: max-min diversity, in the manner of DivPrune (arXiv 2503.02175).

    The first is the one farthest from its nearest neighbour; each further one is as far as can be from the nearest of those chosen.
    Distances are 1 - cosine.

    Args:
        features: the tokens, [G, n, D].
        keep: how many of each group stay.

    Returns:
        int64 [G, k].
    """
    distances = 1 - _cosines(features)
    distances.diagonal(dim1=-2, dim2=-1).fill_(float("inf"))
    nearest = distances.min(dim=-1).values
    picks = _Picks(nearest)
    for step in range(keep):
        reach = _row(distances, picks.take(nearest))
        nearest = torch.minimum(nearest, reach) if step else reach
    return picks.ascending


def relevant_and_diverse(features: torch.Tensor, relevance: torch.Tensor, keep: int) -> torch.Tensor:
    """Tokens that span much, the relevant ones more: a conditional determinantal point process, as in CDPruner (arXiv 2506.10967).

    Greedy maximum of the determinant of the chosen cosines, rows and columns weighted by relevance, updated as a Cholesky factor:
    k steps of k * n products, so make groups small. CDPruner's relevance is that of a text encoder, ours is `relevance`.

    Args:
        features: the tokens, [G, n, D].
        relevance: of each token, from 0 to 1, [G, n].
        keep: how many of each group stay.

    Returns:
        int64 [G, k].
    """
    kernel = relevance[:, :, None] * _cosines(features) * relevance[:, None, :]
    gains = kernel.diagonal(dim1=-2, dim2=-1).clone()
    factor = kernel.new_zeros(len(kernel), keep, kernel.shape[-1])
    picks = _Picks(gains)
    for step in range(keep):
        pick = picks.take(gains)
        known = factor[:, :step]
        explained = (known.gather(2, pick[:, None, None].expand(-1, step, 1)) * known).sum(dim=1)
        own = gains.gather(1, pick[:, None]).clamp(min=1e-9)
        factor[:, step] = (_row(kernel, pick) - explained) / own.sqrt()
        gains = (gains - factor[:, step] ** 2).clamp(min=0)
    return picks.ascending


def marginal(features: torch.Tensor, relevance: torch.Tensor, keep: int) -> torch.Tensor:
    """Tokens that are relevant and don't repeat a chosen one: maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each time the token is taken whose relevance, less its greatest cosine to a chosen one, is highest, the two weighted by
    RELEVANCE_SHARE.

    Args:
        features: the tokens, [G, n, D].
        relevance: of each token, from 0 to 1, [G, n].
        keep: how many of each group stay.

    Returns:
        int64 [G, k].
    """
    cosines = _cosines(features)
    repeats = torch.zeros_like(relevance)
    picks = _Picks(relevance)
    for step in range(keep):
        alike = _row(cosines, picks.take(RELEVANCE_SHARE * relevance - (1 - RELEVANCE_SHARE) * repeats))
        repeats = torch.maximum(repeats, alike) if step else alike
    return picks.ascending


class _Picks:
    """Tokens taken one by one, in all groups at once."""

    def __init__(self, like: torch.Tensor) -> None:
        self.taken = torch.zeros_like(like, dtype=torch.bool)
        self.count = 0

    def take(self, scores: torch.Tensor) -> torch.Tensor:
        """Of the tokens left in each group the one with the highest score [G, n]: int64 [G]."""
        pick = scores.masked_fill(self.taken, float("-inf")).argmax(dim=-1)
        self.taken.scatter_(1, pick[:, None], True)
        self.count += 1
        return pick

    @property
    def ascending(self) -> torch.Tensor:
        return self.taken.nonzero()[:, 1].view(len(self.taken), self.count)


def _cosines(features: torch.Tensor) -> torch.Tensor:
    """Of each two tokens of a group [G, n, D]: float32 [G, n, n]."""
    directions = normalize(features.float(), dim=-1)
    return directions @ directions.transpose(1, 2)


def _row(matrices: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Row `index` [G] of each matrix [G, n, n]: [G, n]."""
    return matrices[torch.arange(len(matrices), device=matrices.device), index]
