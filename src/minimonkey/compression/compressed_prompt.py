"""What is left of a batch of prompts once compression is through, and how more tokens are read behind it.

Knows tensors, caches and the layers of a language model; not who chose what stays.

    shapes: B prompts of length L, K kept tokens of a row (padded on the left), D hidden size, Q tokens that follow
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn
from transformers import DynamicCache

from minimonkey.compression.spans import Selection
from minimonkey.language_model.layers import rotary_cos_sin, run_layers


@dataclass(frozen=True)
class CompressedPrompt:
    """What is left of prompts. Where a row kept fewer tokens than another, padding stands on its left."""

    index: torch.Tensor
    """Places of the kept tokens in the prompt, int64 [B, K]; any place for padding."""
    mask: torch.Tensor
    """1 for kept tokens, 0 for padding: int64 [B, K]."""
    positions: torch.Tensor
    """Position of each token, int64 [B, K]; 0 for padding."""
    selections: list[Selection]
    """What was chosen of each picture that has a detail level."""

    @property
    def dropped(self) -> int:
        """How much shorter the batch is than the prompts were. Their last tokens were kept."""
        return int(self.index[:, -1].max()) + 1 - self.index.shape[1]

    def ids(self, input_ids: torch.Tensor, pad_token_id: int) -> torch.Tensor:
        """Ids of the kept tokens, int64 [B, K], given those of the prompts [B, L]."""
        return input_ids.gather(1, self.index).masked_fill(self.mask == 0, pad_token_id)

    def repeat_rows(self, times: int) -> Self:
        """The same with each row so many times, one behind the other: for beams, samples and several questions about one prompt."""
        if times == 1:
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        caches = {name: value for name, value in vars(self).items() if isinstance(value, DynamicCache)}
        changes = {name: tensor.repeat_interleave(times, dim=0) for name, tensor in tensors.items()}
        return replace(self, **changes, **{name: copy_cache(cache, times) for name, cache in caches.items()})

    def next_positions(self, mask: torch.Tensor) -> torch.Tensor:
        """Positions of tokens that follow, int64 [B, Q]; `mask` [B, Q] is 0 for padding. The prompts' last tokens were kept."""
        return (self.positions[:, -1:] + mask.long().cumsum(dim=1)).masked_fill(mask == 0, 0)


@dataclass(frozen=True)
class ShortenedPrompt(CompressedPrompt):
    """Fewer tokens, which the language model hasn't read yet."""

    embeddings: torch.Tensor
    """Input of the language model's first layer, [B, K, D]."""


@dataclass(frozen=True)
class PrefilledPrompt(CompressedPrompt):
    """Tokens that the language model has read; later layers have seen fewer of them."""

    cache: DynamicCache
    """Keys and values of the kept tokens in each layer."""
    hidden: torch.Tensor | None = None
    """Output of the last layer before the final norm for the tokens that were read last, [B, Q, D]; None if none were read yet."""
    early_cache: DynamicCache | None = None
    """Keys and values of the whole prompts in the layers that read them whole; None if the choice depends on the question."""
    prompt_mask: torch.Tensor | None = None
    """Which tokens of the whole prompts aren't padding, [B, L]; goes with `early_cache`."""

    def extended(self, text: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor) -> PrefilledPrompt:
        """The same prompts with more tokens behind them, of which the new ones alone are read.

        That equals what compression makes of the longer prompts, if the choice doesn't depend on the question. The caches are
        extended in place, as those of transformers are.

        Args:
            text: the language model without its head, which has read the prompts.
            embeddings: the new tokens, [B, Q, D].
            mask: 0 for padding between prompt and new tokens, which a layer with a sliding window would count; int64 [B, Q].

        Returns:
            A PrefilledPrompt of K + Q tokens a row, whose `hidden` is that of the new ones.
        """
        positions, new = self.next_positions(mask), mask.shape[1]
        cos_sin = rotary_cos_sin(text, embeddings, positions)
        hidden, whole, seen = embeddings, 0, self.prompt_mask
        if self.early_cache is not None and self.prompt_mask is not None:
            whole, seen = len(self.early_cache.layers), torch.cat((self.prompt_mask, mask.to(self.prompt_mask)), dim=1)
            hidden = run_layers(text, hidden, range(whole), cos_sin=cos_sin, mask=seen, cache=self.early_cache)
            for index, layer in enumerate(self.early_cache.layers):
                self.cache.update(layer.keys[:, :, -new:], layer.values[:, :, -new:], index)
        kept = torch.cat((self.mask, mask.to(self.mask)), dim=1)
        hidden = run_layers(text, hidden, range(whole, len(text.layers)), cos_sin=cos_sin, mask=kept, cache=self.cache)
        places = self.index[:, -1:] + 1 + torch.arange(new, device=self.index.device)
        return replace(
            self,
            index=torch.cat((self.index, places), dim=1),
            mask=kept,
            positions=torch.cat((self.positions, positions), dim=1),
            hidden=hidden,
            prompt_mask=seen,
        )


def copy_cache(cache: DynamicCache, times: int = 1) -> DynamicCache:
    """A cache of the same, each row so many times in a row."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copy.update(
            *(tensor if times == 1 else tensor.repeat_interleave(times, dim=0) for tensor in (layer.keys, layer.values)), index
        )
    return copy
