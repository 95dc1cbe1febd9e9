"""What the language model has read and needn't read again: keys and values of a prompt's first tokens, and when they still hold.

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
from minimonkey.language_model.layers import CACHE, window
from minimonkey.language_model.rotary import RowRotary

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, [1, K, L, C]."""


@dataclass(frozen=True)
class PrefixCache:
    """The first tokens of a prompt, read by the language model. Nothing in it is ever changed: `inputs` hands out copies.

    If its beginning was compressed, it can be cut behind that alone.
    """

    ids: list[int]
    """Of all tokens, those that compression dropped included."""
    layers: Layers
    """What each layer keeps of the tokens that weren't dropped."""
    early_layers: Layers = ()
    """What the first layers keep of all tokens besides, where those that follow look at all of them there."""
    kept_places: Sequence[int] = ()
    """Which tokens of a compressed beginning were kept."""
    positions: Sequence[int] = ()
    """Their positions."""
    selections: Sequence[Selection] = ()
    """Why these."""

    @classmethod
    def of(cls, ids: list[int], cache: DynamicCache, compressed: CompressedPrompt | None = None) -> PrefixCache:
        """What a cache of one row holds, which has read these ids, or what was kept of them, and reads no more."""
        if compressed is None:
            return cls(ids, _tensors(cache, len(ids)))
        early = compressed.early if isinstance(compressed, PrefilledPrompt) else None
        places, positions = compressed.index[0].tolist(), compressed.positions[0].tolist()
        early_layers = () if early is None else _tensors(early, len(ids))
        return cls(ids, _tensors(cache, len(places)), early_layers, places, positions, compressed.selections)

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in (*self.layers, *self.early_layers))

    @property
    def begin(self) -> int:
        """How many tokens it can't be cut among."""
        return self.kept_places[-1] + 1 if self.kept_places else 0

    @property
    def dropped(self) -> int:
        """How many of them aren't there."""
        return self.begin - len(self.kept_places)

    def same_rotation(self, text: nn.Module, *lengths: int) -> bool:
        """Whether positions turn by the same angles in prompts of these lengths that begin with it, also if counted without what
        was dropped."""
        behind = self.begin - 1 - self.positions[-1] if self.positions else 0
        counted = [length - behind for length in lengths]
        return same_rotation(text, *lengths) and (not behind or same_rotation(text, *counted))

    def known(self, row: list[int]) -> int:
        """How many tokens at the start of a prompt needn't be read again; its last must be, to be answered."""
        known = min(common_length(self.ids, row), len(row) - 1)
        return known if known >= self.begin else 0

    def kept_ids(self, length: int) -> list[int]:
        """What is there of the first `length` ids."""
        return [self.ids[place] for place in (*self.kept_places, *range(self.begin, length))] if length else []

    def inputs(self, length: int, rows: int) -> dict[str, Any]:
        """Arguments of `generate` for prompts that go on from the first `length` tokens, in each of so many rows.

        Layers with a window keep all tokens too. What they may look at is in the masks, and so the cache can be cut anywhere.
        """
        if not length:
            return {CACHE: GrowingCache()}
        cache = _cache(self.layers, length - self.dropped, rows)
        if not self.kept_places:
            return {CACHE: cache}
        more, device = length - self.begin, self.layers[0][0].device
        places = torch.tensor([[*self.kept_places, *range(self.begin, length)]], device=device).expand(rows, -1)
        counted = range(self.positions[-1] + 1, self.positions[-1] + 1 + more)
        early = _cache(self.early_layers, length, rows) if self.early_layers else None
        return {
            "compressed_prompt": PrefilledPrompt(
                index=places,
                mask=torch.ones_like(places),
                positions=torch.tensor([[*self.positions, *counted]], device=device).expand(rows, -1),
                selections=[],
                cache=cache,
                early=early,
                prompt_mask=places.new_ones(rows, length) if self.early_layers else None,
            )
        }

    def extended(self, ids: list[int], inputs: dict[str, Any]) -> PrefixCache:
        """With what was read since into the caches of `inputs`, of one row with these ids.

        Where the first layers look at all of the prompt, what was said is left out: it had seen less there than it would as a part
        of the next prompt. As it was, if a cache has read as much as was said or more: the last token said never is, so that what
        was read is something else, tokens that were tried, say.
        """
        compressed: PrefilledPrompt | None = inputs.get("compressed_prompt")
        cache: Any = inputs[CACHE] if compressed is None else compressed.cache
        early = None if compressed is None else compressed.early
        length = cache.get_seq_length() + self.dropped if early is None else early.get_seq_length()
        if length >= len(ids):
            return self
        whole = () if early is None else _tensors(early, length)
        return replace(self, ids=ids[:length], layers=_tensors(cache, length - self.dropped), early_layers=whole)


def _tensors(cache: DynamicCache, length: int) -> Layers:
    """The first `length` tokens of a cache that nobody else has; views would keep the rest too."""
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
    """Whether positions turn by the same angles in rows of these lengths, so that keys of one can stand in another."""
    rotary = text.rotary_emb
    if not isinstance(rotary, RowRotary):
        return True
    exponents = torch.arange(0, rotary.channels, 2, dtype=torch.float32) / rotary.channels
    frequencies = rotary.inverse_frequencies(torch.tensor(lengths)[:, None], exponents)
    return bool((frequencies == frequencies[:1]).all())


def sees_all(text: nn.Module, length: int) -> bool:
    """Whether every layer sees the whole of a row of this length."""
    windows = [window(text, index) for index in range(len(text.layers))]
    return all(seen is None or seen >= length for seen in windows)
