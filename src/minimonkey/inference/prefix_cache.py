"""The prefix cache: keys and values of a prompt's first tokens, which the language model needn't read again, and when they hold.

Knows no pictures and no questions: token ids, tensors, and the text model (LlamaModel, Qwen2Model, Phi3Model).

    shapes: K key heads, L tokens, C channels of a head
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from minimonkey.compression.compressed_prompt import CompressedPrompt, PrefilledPrompt
from minimonkey.compression.spans import Selection
from minimonkey.language_model.kv_cache import GrowingCache
from minimonkey.language_model.layers import CACHE, sliding_window
from minimonkey.language_model.rotary import RowRotary

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, [1, K, L, C]."""


@dataclass(frozen=True)
class PrefixCache:
    """The first tokens of a prompt, read by the language model. Nothing in it is ever changed: `inputs` hands out copies.

    Where its beginning was compressed, it can't be cut within that.
    """

    ids: list[int]
    """Of all tokens, those that compression dropped included."""
    layers: Layers
    """Keys and values of the tokens that weren't dropped, in each layer."""
    early_layers: Layers = ()
    """Keys and values of all tokens in the layers before pruning, where later tokens attend to all of them there."""
    kept_index: Sequence[int] = ()
    """Places of the kept tokens in a compressed beginning."""
    positions: Sequence[int] = ()
    """Their rotary positions."""
    selections: Sequence[Selection] = ()
    """How they were chosen."""

    @classmethod
    def of(cls, ids: list[int], cache: DynamicCache, compressed: CompressedPrompt | None = None) -> PrefixCache:
        """A prefix cache made of a cache of one row.

        Args:
            ids: of the tokens that were read, those that compression dropped included.
            cache: keys and values of these tokens, or of the kept ones; it isn't used any more.
            compressed: the result of compression, if there was any.
        """
        if compressed is None:
            return cls(ids, _tensors(cache, len(ids)))
        early_cache = compressed.early_cache if isinstance(compressed, PrefilledPrompt) else None
        places, positions = compressed.index[0].tolist(), compressed.positions[0].tolist()
        early_layers = () if early_cache is None else _tensors(early_cache, len(ids))
        return cls(ids, _tensors(cache, len(places)), early_layers, places, positions, compressed.selections)

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in (*self.layers, *self.early_layers))

    @property
    def compressed_length(self) -> int:
        """Tokens of the compressed beginning, dropped ones included; 0 without compression."""
        return self.kept_index[-1] + 1 if self.kept_index else 0

    @property
    def dropped(self) -> int:
        """How many of them were dropped."""
        return self.compressed_length - len(self.kept_index)

    def same_rotation(self, text: nn.Module, *lengths: int) -> bool:
        """Whether positions have the same rotary angles in prompts of these lengths that begin with it, also if they are counted
        without the dropped tokens."""
        behind = self.compressed_length - 1 - self.positions[-1] if self.positions else 0
        counted = [length - behind for length in lengths]
        return same_rotation(text, *lengths) and (not behind or same_rotation(text, *counted))

    def reusable(self, row: list[int]) -> int:
        """How many tokens at the start of a prompt needn't be read again; never its last, which the answer is read from."""
        length = min(common_length(self.ids, row), len(row) - 1)
        return length if length >= self.compressed_length else 0

    def kept_ids(self, length: int) -> list[int]:
        """The first `length` ids without those that were dropped."""
        return [self.ids[place] for place in (*self.kept_index, *range(self.compressed_length, length))] if length else []

    def inputs(self, length: int, rows: int) -> dict[str, Any]:
        """Arguments of `generate` for prompts that begin with the first `length` tokens.

        Layers with a sliding window keep all tokens too: masks tell what they may attend to, so the cache can be cut anywhere.

        Args:
            length: how many tokens come from here.
            rows: how many prompts; each gets a copy.
        """
        if not length:
            return {CACHE: GrowingCache()}
        cache = _cache(self.layers, length - self.dropped, rows)
        if not self.kept_index:
            return {CACHE: cache}
        more, device = length - self.compressed_length, self.layers[0][0].device
        places = torch.tensor([[*self.kept_index, *range(self.compressed_length, length)]], device=device).expand(rows, -1)
        counted = range(self.positions[-1] + 1, self.positions[-1] + 1 + more)
        early_cache = _cache(self.early_layers, length, rows) if self.early_layers else None
        return {
            "compressed_prompt": PrefilledPrompt(
                index=places,
                mask=torch.ones_like(places),
                positions=torch.tensor([[*self.positions, *counted]], device=device).expand(rows, -1),
                selections=[],
                cache=cache,
                early_cache=early_cache,
                prompt_mask=places.new_ones(rows, length) if self.early_layers else None,
            )
        }

    def extended(self, ids: list[int], inputs: dict[str, Any]) -> PrefixCache:
        """This cache and what was read since.

        Where the layers before pruning attend to whole prompts, the answer is left out: it has seen less there than it would as a
        part of the next prompt. The cache comes back as it was if as many tokens were read as there are ids, or more: the last
        token of an answer is never read, so those were others, tokens that were tried, say.

        Args:
            ids: of the prompt and its answer.
            inputs: what `inputs` gave, whose caches have read them since; of one row.
        """
        compressed: PrefilledPrompt | None = inputs.get("compressed_prompt")
        cache: Any = inputs[CACHE] if compressed is None else compressed.cache
        early_cache = None if compressed is None else compressed.early_cache
        length = cache.get_seq_length() + self.dropped if early_cache is None else early_cache.get_seq_length()
        if length >= len(ids):
            return self
        whole = () if early_cache is None else _tensors(early_cache, length)
        return replace(self, ids=ids[:length], layers=_tensors(cache, length - self.dropped), early_layers=whole)


def _tensors(cache: DynamicCache, length: int) -> Layers:
    """The first `length` tokens of a cache, copied where a view would keep the rest in memory too."""
    layers = [(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in cache.layers]
    return [(_alone(keys), _alone(values)) for keys, values in layers]


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _cache(layers: Layers, length: int, rows: int) -> DynamicCache:
    """A cache of copies that has read the first `length` tokens in each of so many rows."""
    cache = GrowingCache()
    for index, tensors in enumerate(layers):
        cache.update(*(tensor[:, :, :length].expand(rows, -1, -1, -1) for tensor in tensors), index)
    return cache


EMPTY = PrefixCache([], [])


def common_length(one: list[int], other: list[int]) -> int:
    """How many tokens two rows begin with in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def same_rotation(text: nn.Module, *lengths: int) -> bool:
    """Whether positions have the same rotary angles in rows of these lengths, so that keys of one are valid in another."""
    rotary = text.rotary_emb
    if not isinstance(rotary, RowRotary):
        return True
    exponents = torch.arange(0, rotary.channels, 2, dtype=torch.float32) / rotary.channels
    frequencies = rotary.inverse_frequencies(torch.tensor(lengths)[:, None], exponents)
    return bool((frequencies == frequencies[:1]).all())


def sees_all(text: nn.Module, length: int) -> bool:
    """Whether every layer sees the whole of a row of this length."""
    windows = [sliding_window(text, index) for index in range(len(text.layers))]
    return all(window is None or window >= length for window in windows)
