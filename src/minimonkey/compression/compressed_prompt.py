"""What is left of a batch of prompts once compression is through, and how it is gone on with.

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
from minimonkey.language_model.layers import rotation, walk


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

    def repeated(self, times: int) -> Self:
        """The same with each row so many times in a row: beams, samples and several questions go on from one prompt."""
        if times == 1:
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        caches = {name: value for name, value in vars(self).items() if isinstance(value, DynamicCache)}
        changes = {name: tensor.repeat_interleave(times, dim=0) for name, tensor in tensors.items()}
        return replace(self, **changes, **{name: copied(cache, times) for name, cache in caches.items()})

    def behind(self, mask: torch.Tensor) -> torch.Tensor:
        """Positions of tokens that follow, int64 [B, Q]; `mask` [B, Q] leaves padding out. The prompts' last tokens were kept."""
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
    early: DynamicCache | None = None
    """Keys and values of the whole prompts in the layers that read them whole; None if the choice depends on the question."""
    prompt_mask: torch.Tensor | None = None
    """Which tokens of the whole prompts aren't padding, [B, L]; goes with `early`."""

    def followed_by(self, text: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor) -> PrefilledPrompt:
        """What the same prompts with these tokens [B, Q, D] behind them come to, when only the new tokens are read.

        That is what the longer prompts come to by themselves, if the choice doesn't depend on the question. `mask` int64 [B, Q]
        leaves out padding between prompt and new tokens, which a layer with a window would count; `text` is the language model
        without its head, and has read the prompts. The caches are extended in place, as those of transformers are.
        """
        positions, new = self.behind(mask), mask.shape[1]
        turned = rotation(text, embeddings, positions)
        hidden, whole, seen = embeddings, 0, self.prompt_mask
        if self.early is not None and self.prompt_mask is not None:
            whole, seen = len(self.early.layers), torch.cat((self.prompt_mask, mask.to(self.prompt_mask)), dim=1)
            hidden = walk(text, hidden, range(whole), turned=turned, mask=seen, cache=self.early)
            for index, layer in enumerate(self.early.layers):
                self.cache.update(layer.keys[:, :, -new:], layer.values[:, :, -new:], index)
        kept = torch.cat((self.mask, mask.to(self.mask)), dim=1)
        hidden = walk(text, hidden, range(whole, len(text.layers)), turned=turned, mask=kept, cache=self.cache)
        places = self.index[:, -1:] + 1 + torch.arange(new, device=self.index.device)
        return replace(
            self,
            index=torch.cat((self.index, places), dim=1),
            mask=kept,
            positions=torch.cat((self.positions, positions), dim=1),
            hidden=hidden,
            prompt_mask=seen,
        )


def copied(cache: DynamicCache, times: int = 1) -> DynamicCache:
    """A cache of the same, each row so many times in a row."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copy.update(
            *(tensor if times == 1 else tensor.repeat_interleave(times, dim=0) for tensor in (layer.keys, layer.values)), index
        )
    return copy
