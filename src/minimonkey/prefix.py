"""What the language model has read and needn't read again: keys and values of a prompt's first tokens, and when they still hold.

Knows no pictures and no questions: token ids, tensors, and the text model (LlamaModel, Qwen2Model, Phi3Model).

    shapes: K key heads, L tokens, C channels of a head
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache

from minimonkey.decoder import window
from minimonkey.rotary import RowRotary


@dataclass(frozen=True)
class Prefix:
    """The first tokens of a prompt, read by the language model. Nothing in it is ever changed: `cache` hands out copies."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values of each layer, [1, K, L, C]."""

    @classmethod
    def of(cls, ids: list[int], cache: DynamicCache) -> Prefix:
        """What a cache of one row holds, which has read these ids and reads no more."""
        return cls(ids, [(layer.keys, layer.values) for layer in cache.layers])

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def cache(self, length: int, rows: int) -> DynamicCache:
        """A cache that has read the first `length` tokens in each of so many rows.

        Layers with a window keep all tokens too. What they may look at is in the masks, and so the cache can be cut anywhere.
        """
        cache = DynamicCache()
        for index, tensors in enumerate(self.layers if length else []):
            cache.update(*(tensor[:, :, :length].expand(rows, -1, -1, -1) for tensor in tensors), index)
        return cache


NOTHING = Prefix([], [])


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens two rows begin with in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def turn_alike(text: nn.Module, *lengths: int) -> bool:
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
