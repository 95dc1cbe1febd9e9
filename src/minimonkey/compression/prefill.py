"""How does a prompt become shorter? A batch of prompts goes in as embeddings; what the language model gets instead comes out.

The functions of selectors.py meet the language model here: some choose before it, some between two of its layers. Knows tensors
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
from minimonkey.compression.compressed_prompt import CompressedPrompt, PrefilledPrompt, ShortenedPrompt, copy_cache
from minimonkey.compression.spans import DetailLevel, Selection, remaining
from minimonkey.compression.spec import IN_MODEL_SELECTORS, CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.layers import CosSin, positions_in, queries_and_keys, rotary_cos_sin, run_layers, sliding_window
from minimonkey.pyramid import Span

SCORING_LAYER = 1
"""The language model's layer whose attention scores the detail tokens, from 0: the second, as in the paper."""


def layers_before_pruning(spec: CompressionSpec) -> int:
    """How many layers read the whole prompt, before those that read the kept tokens alone; 0 if it is pruned before all layers."""
    return SCORING_LAYER + 1 if spec.selector in IN_MODEL_SELECTORS and spec.positions == "original" else 0


def compress(
    text: nn.Module,
    embeddings: torch.Tensor,
    mask: torch.Tensor,
    levels: Sequence[DetailLevel],
    spec: CompressionSpec,
    cls_attention: torch.Tensor | None = None,
) -> CompressedPrompt:
    """Prompts without the detail tokens that `spec` doesn't keep.

    Args:
        text: the language model without its head; only IN_MODEL_SELECTORS let it read anything.
        embeddings: the prompts, [B, L, D].
        mask: 0 for padding, int [B, L].
        levels: where the detail tokens are, from `detail_levels`.
        spec: which of them stay.
        cls_attention: the class token's attention to each image token of the batch, float32 [image tokens]; for visionzip.

    Returns:
        A ShortenedPrompt, which the language model hasn't read yet; or, for a selector of IN_MODEL_SELECTORS with original
        positions, a PrefilledPrompt.

    Raises:
        UsageError: the selector can't work with this model.
    """
    if spec.selector in IN_MODEL_SELECTORS:
        return _compress_in_model(text, embeddings, mask, levels, spec)
    selections, changed = [], embeddings.clone()
    for level in levels:
        picks, scores, averages = _choice(spec, level, embeddings[level.row], cls_attention)
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
    spec: CompressionSpec, level: DetailLevel, row: torch.Tensor, cls_attention: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """What a selector keeps of a picture in a prompt, embeddings [L, D]: picks [G, k], scores [G, n], averages [G, k, D]."""
    features = row[level.span.start : level.span.stop].unflatten(0, (-1, _group(spec, level)))
    groups, size = features.shape[:2]
    keep = spec.kept(size)
    with torch.no_grad():
        if spec.selector == "visionzip":
            assert cls_attention is not None
            scores = cls_attention[level.first : level.first + groups * size].view(groups, size)
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


def _compress_in_model(
    text: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor, levels: Sequence[DetailLevel], spec: CompressionSpec
) -> CompressedPrompt:
    """The first layers read whole prompts and score the detail tokens. The kept tokens go on with their hidden states, keys and
    values as they are; with compact positions they begin again at the first layer."""
    if len(text.layers) <= SCORING_LAYER:
        raise UsageError(
            f"compression goes by layer {SCORING_LAYER + 1} of the language model, which has {len(text.layers)}: leave it out"
        )
    positions = positions_in(mask)
    cos_sin = rotary_cos_sin(text, embeddings, positions)
    if spec.positions == "compact":
        with torch.no_grad():
            before = run_layers(text, embeddings, range(SCORING_LAYER), cos_sin=cos_sin, mask=mask)
            _, keys = queries_and_keys(text, before, SCORING_LAYER, cos_sin)
            selections = _select_by_attention(text, before, keys, cos_sin, mask, levels, spec)
        lost = [selections[0].detail.stop] if spec.selector == "scm-reference" else []
        return _shortened(embeddings, positions, *remaining(mask, selections, lost), selections, spec)
    cache = DynamicCache()
    before = run_layers(text, embeddings, range(SCORING_LAYER), cos_sin=cos_sin, mask=mask, cache=cache)
    hidden = run_layers(text, before, range(SCORING_LAYER, SCORING_LAYER + 1), cos_sin=cos_sin, mask=mask, cache=cache)
    with torch.no_grad():
        selections = _select_by_attention(text, before, cache.layers[SCORING_LAYER].keys, cos_sin, mask, levels, spec)
    shortened = _shortened(embeddings, positions, *remaining(mask, selections), selections, spec)
    early_cache = None if spec.depends_on_question else copy_cache(cache)
    for layer in cache.layers:
        layer.keys, layer.values = (
            _rows(tensor.transpose(1, 2), shortened.index).transpose(1, 2) for tensor in (layer.keys, layer.values)
        )
    hidden, cos_sin = _rows(hidden, shortened.index), (_rows(cos_sin[0], shortened.index), _rows(cos_sin[1], shortened.index))
    rest = range(SCORING_LAYER + 1, len(text.layers))
    hidden = run_layers(text, hidden, rest, cos_sin=cos_sin, mask=shortened.mask, cache=cache)
    return PrefilledPrompt(
        shortened.index,
        shortened.mask,
        shortened.positions,
        shortened.selections,
        cache,
        hidden,
        early_cache,
        prompt_mask=None if early_cache is None else mask,
    )


def _select_by_attention(
    text: nn.Module,
    hidden: torch.Tensor,
    keys: torch.Tensor,
    cos_sin: CosSin,
    mask: torch.Tensor,
    levels: Sequence[DetailLevel],
    spec: CompressionSpec,
) -> list[Selection]:
    """The detail tokens that each picture's queries attend to most in the scoring layer, whose input is `hidden` [B, L, D] and
    whose keys are [B, K, L, C]."""
    selections = []
    for level in levels:
        place = (level.row, level.queries)
        query_cos_sin = cos_sin[0][place][None], cos_sin[1][place][None]
        queries, _ = queries_and_keys(text, hidden[place][None], SCORING_LAYER, query_cos_sin)
        padding = int(mask[level.row].long().argmax())  # sliced off rather than masked: sums are those of the row alone
        scores = selectors.attention_to(
            queries[0],
            keys[level.row, :, padding:],
            (level.queries - padding).to(keys.device),
            Span(level.span.start - padding, level.span.stop - padding),
            scale=text.layers[SCORING_LAYER].self_attn.scaling,
            sliding_window=sliding_window(text, SCORING_LAYER),
        )
        grouped = scores.to(hidden.device).unflatten(0, (-1, _group(spec, level)))
        selections.append(_selection(level, selectors.best(grouped, spec.kept(grouped.shape[1])), grouped))
    return selections


def _rows(tensors: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The tokens [B, K, ...] at these places [B, K] of each row [B, L, ...]."""
    index = index.to(tensors.device)
    return tensors[torch.arange(len(index), device=index.device)[:, None], index]
