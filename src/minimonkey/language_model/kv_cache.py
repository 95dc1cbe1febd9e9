"""Keys and values that grow in place: a token that comes costs its own bytes, not a copy of all before it.

transformers' DynamicLayer makes new tensors for every token. Behind thousands of image tokens, in several rows, that is hundreds of
megabytes copied a token.

    shapes: B rows, K key heads, L tokens, C channels of a head
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

MIN_SPARE_TOKENS = 64
"""A new buffer has room for at least so many tokens more than there are."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [B, K, L, C]: views of larger buffers, whose rest is for the tokens to come."""

    keys: torch.Tensor
    values: torch.Tensor
    _buffer: tuple[torch.Tensor, torch.Tensor] | None = None
    _view: torch.Tensor | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any):
        if key_states.requires_grad or value_states.requires_grad:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        # Beams, crops and compression put other tensors in place of the views.
        if self._buffer is None or self.keys is not self._view or end > self._buffer[0].shape[-2]:
            most = end + max(MIN_SPARE_TOKENS, end // 16)
            buffer = tuple(new.new_empty(*new.shape[:-2], most, new.shape[-1]) for new in (key_states, value_states))
            if length:
                buffer[0][..., :length, :], buffer[1][..., :length, :] = self.keys, self.values
            self._buffer = buffer[0], buffer[1]
        keys, values = self._buffer
        keys[..., length:end, :], values[..., length:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        self._view = self.keys
        return self.keys, self.values


class GrowingCache(DynamicCache):
    """A DynamicCache of such layers. Layers with a sliding window keep all tokens too: masks tell what they may attend to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer
