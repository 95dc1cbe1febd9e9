"""How does a prompt become shorter? A batch of prompts goes in as embeddings; what the language model gets instead comes out.

The selectors of compression.py meet the language model here: some choose before it, some between two of its layers. Knows tensors
and the layers of a language model, no picture and no text.

    shapes: B prompts of length L, K kept tokens of a row (padded on the left), D hidden size, h tokens of a detail level,
            G groups of n detail tokens that share a budget, k of them kept
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache

from minimonkey.compression import selectors
from minimonkey.compression.compressed_prompt import CompressedPrompt, PrefilledPrompt, ShortenedPrompt, copied
from minimonkey.compression.spans import DetailLevel, Selection, remaining
from minimonkey.compression.spec import INSIDE, CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.layers import Rotation, positions_in, queries_and_keys, rotation, walk, window
from minimonkey.pyramid import Span

ASKED_LAYER = 1
"""The language model's layer whose attention decides: the second, as in the paper."""


def read_whole(spec: CompressionSpec) -> int:
    """How many layers read all tokens, of which those after them get what is kept."""
    return ASKED_LAYER + 1 if spec.selector in INSIDE and spec.positions == "original" else 0


def compress(
    text: nn.Module,
    embeddings: torch.Tensor,
    mask: torch.Tensor,
    levels: Sequence[DetailLevel],
    spec: CompressionSpec,
    class_attention: torch.Tensor | None = None,
) -> CompressedPrompt:
    """The prompts [B, L, D], whose padding `mask` [B, L] leaves out, without the detail tokens that `spec` doesn't keep.

    `text` is the language model without its head; only selectors in INSIDE let it read anything. `class_attention` float32 [all
    image tokens] is what visionzip goes by. Raises UsageError for what a selector can't do with this model.
    """
    if spec.selector in INSIDE:
        return _inside(text, embeddings, mask, levels, spec)
    selections, changed = [], embeddings.clone()
    for level in levels:
        picks, scores, averages = _choice(spec, level, embeddings[level.row], class_attention)
        selections.append(_selection(level, picks, scores))
        if averages is not None:
            changed[level.row, level.span.start + selections[-1].selected] = averages.flatten(0, 1)
    return _shortened(changed, positions_in(mask), *remaining(mask, selections), selections, spec)


def _shortened(
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    index: torch.Tensor,
    kept: torch.Tensor,
    selections: list[Selection],
    spec: CompressionSpec,
) -> ShortenedPrompt:
    original = positions.gather(1, index).masked_fill(~kept, 0)
    positions = original if spec.positions == "original" else positions_in(kept)
    return ShortenedPrompt(index, kept.long(), positions, selections, _rows(embeddings, index))


# -- before the language model ---------------------------------------------------------------------------------------------------


def _choice(
    spec: CompressionSpec, level: DetailLevel, row: torch.Tensor, class_attention: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """What a selector keeps of a picture in a prompt, embeddings [L, D]: picks [G, k], scores [G, n], averages [G, k, D]."""
    features = row[level.span.start : level.span.stop].unflatten(0, (-1, _group(spec, level)))
    groups, size = features.shape[:2]
    keep = spec.kept(size)
    with torch.no_grad():
        if spec.selector == "visionzip":
            assert class_attention is not None
            scores = class_attention[level.first : level.first + groups * size].view(groups, size)
            return selectors.best(scores, keep), scores, None
        if spec.selector == "random":
            return selectors.at_random(groups, size, keep, spec.seed), None, None
        if spec.selector == "uniform":
            return selectors.evenly(groups, size, keep), None, None
        if spec.selector == "divprune":
            return selectors.diverse(features, keep), None, None
        if spec.selector in ("cdpruner", "mmr"):
            scores = selectors.relevance(features, row[level.queries])
            choose = selectors.marginal if spec.selector == "mmr" else selectors.relevant_and_diverse
            return choose(features, scores, keep), scores, None
    picks, averages = selectors.pooled(features, keep)
    return picks, None, averages


def _group(spec: CompressionSpec, level: DetailLevel) -> int:
    """How many tokens share a budget."""
    return level.tile_tokens if spec.budget == "tile" else level.span.stop - level.span.start


def _selection(level: DetailLevel, picks: torch.Tensor, scores: torch.Tensor | None) -> Selection:
    """Picks [G, k], counted within their groups, counted from the first detail token."""
    size = (level.span.stop - level.span.start) // len(picks)
    starts = size * torch.arange(len(picks), device=picks.device)
    selected = (starts[:, None] + picks).flatten().to(level.queries.device)
    return Selection(level.picture, level.row, level.span, selected, None if scores is None else scores.flatten())


# -- between two layers ----------------------------------------------------------------------------------------------------------


def _inside(
    text: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor, levels: Sequence[DetailLevel], spec: CompressionSpec
) -> CompressedPrompt:
    """The first layers read everything. What they find worth keeping goes on with its hidden states, keys and values as they are,
    or, with compact positions, begins again."""
    if len(text.layers) <= ASKED_LAYER:
        raise UsageError(
            f"compression asks layer {ASKED_LAYER + 1} of the language model, which has {len(text.layers)}: leave it out"
        )
    positions = positions_in(mask)
    turned = rotation(text, embeddings, positions)
    if spec.positions == "compact":
        with torch.no_grad():
            before = walk(text, embeddings, range(ASKED_LAYER), turned=turned, mask=mask)
            _, keys = queries_and_keys(text, before, ASKED_LAYER, turned)
            selections = _ask(text, before, keys, turned, mask, levels, spec)
        lost = [selections[0].detail.stop] if spec.selector == "scm-reference" else []
        return _shortened(embeddings, positions, *remaining(mask, selections, lost), selections, spec)
    cache = DynamicCache()
    before = walk(text, embeddings, range(ASKED_LAYER), turned=turned, mask=mask, cache=cache)
    hidden = walk(text, before, range(ASKED_LAYER, ASKED_LAYER + 1), turned=turned, mask=mask, cache=cache)
    with torch.no_grad():
        selections = _ask(text, before, cache.layers[ASKED_LAYER].keys, turned, mask, levels, spec)
    shortened = _shortened(embeddings, positions, *remaining(mask, selections), selections, spec)
    early = None if spec.depends_on_question else copied(cache)
    for layer in cache.layers:
        layer.keys, layer.values = (
            _rows(tensor.transpose(1, 2), shortened.index).transpose(1, 2) for tensor in (layer.keys, layer.values)
        )
    hidden, turned = _rows(hidden, shortened.index), tuple(_rows(part, shortened.index) for part in turned)
    rest = range(ASKED_LAYER + 1, len(text.layers))
    hidden = walk(text, hidden, rest, turned=turned, mask=shortened.mask, cache=cache)
    return PrefilledPrompt(
        shortened.index,
        shortened.mask,
        shortened.positions,
        shortened.selections,
        cache,
        hidden,
        early,
        prompt_mask=None if early is None else mask,
    )


def _ask(
    text: nn.Module,
    hidden: torch.Tensor,
    keys: torch.Tensor,
    turned: Rotation,
    mask: torch.Tensor,
    levels: Sequence[DetailLevel],
    spec: CompressionSpec,
) -> list[Selection]:
    """What each picture's queries look at in the layer that these hidden states [B, L, D] go into; its keys are [B, K, L, C]."""
    selections = []
    for level in levels:
        place = (level.row, level.queries)
        turns = tuple(part[place][None] for part in turned)
        queries, _ = queries_and_keys(text, hidden[place][None], ASKED_LAYER, turns)
        padding = int(mask[level.row].long().argmax())  # sliced off rather than masked: sums are those of the row alone
        scores = selectors.attention_to(
            queries[0],
            keys[level.row, :, padding:],
            (level.queries - padding).to(keys.device),
            Span(level.span.start - padding, level.span.stop - padding),
            scale=text.layers[ASKED_LAYER].self_attn.scaling,
            window=window(text, ASKED_LAYER),
        )
        grouped = scores.to(hidden.device).unflatten(0, (-1, _group(spec, level)))
        selections.append(_selection(level, selectors.best(grouped, spec.kept(grouped.shape[1])), grouped))
    return selections


def _rows(tensors: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The tokens [B, K, ...] at these places [B, K] of each row [B, L, ...]."""
    index = index.to(tensors.device)
    return tensors[torch.arange(len(index), device=index.device)[:, None], index]
