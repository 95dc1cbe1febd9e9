"""What is left of a batch of prompts once compression is through, and how it is gone on with.

Knows tensors, caches and the layers of a language model; not who chose what stays.

    shapes: B prompts of length L, K kept tokens of a row (padded on the left), D hidden size, Q tokens that follow
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import DynamicCache

from minimonkey.compression import Selection
from minimonkey.decoder import rotation, walk


@dataclass(frozen=True)
class Compressed:
    """What the language model gets, or has read, instead of prompts. Where a row kept fewer tokens than another, padding stands on
    its left."""

    index: torch.Tensor
    """Places of the kept tokens in the prompt, int64 [B, K]; any place for padding."""
    mask: torch.Tensor
    """1 for kept tokens, 0 for padding: int64 [B, K]."""
    positions: torch.Tensor
    """Position of each token, int64 [B, K]; 0 for padding."""
    embeddings: torch.Tensor
    """Input of the language model's first layer, [B, K, D]."""
    selections: list[Selection]
    """What was chosen of each picture that has a detail level."""
    hidden: torch.Tensor | None = None
    """Output of the last layer, [B, K, D], before the final norm; None if the model hasn't read the prompt yet."""
    cache: DynamicCache | None = None
    """Keys and values of the kept tokens in each layer; None if the model hasn't read the prompt yet."""
    early: DynamicCache | None = None
    """Keys and values of the whole prompts in the layers that read them whole; None if the choice depends on the question."""
    prompt_mask: torch.Tensor | None = None
    """Which tokens of the whole prompts aren't padding, [B, L]; goes with `early`."""

    def ids(self, input_ids: torch.Tensor, pad_token_id: int) -> torch.Tensor:
        """Ids of the kept tokens, int64 [B, K], given those of the prompts [B, L]."""
        return input_ids.gather(1, self.index).masked_fill(self.mask == 0, pad_token_id)

    def repeated(self, times: int) -> Compressed:
        """The same with each row so many times in a row: beams, samples and several questions go on from one prompt."""
        if times == 1:
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        caches = {name: value for name, value in vars(self).items() if isinstance(value, DynamicCache)}
        changes = {name: tensor.repeat_interleave(times, dim=0) for name, tensor in tensors.items()}
        return replace(self, **changes, **{name: copied(cache, times) for name, cache in caches.items()})

    def followed_by(self, text: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor) -> Compressed:
        """What the same prompts with these tokens [B, Q, D] behind them come to, when only the new tokens are read.

        `mask` int64 [B, Q] leaves out padding between prompt and new tokens, which a layer with a window would count; `text` is the
        language model without its head. It takes a choice that doesn't depend on the question and was made inside the model, so
        that there is `early`. Nothing in this object is changed. Positions go on from the whole prompt's.
        """
        assert self.cache is not None and self.early is not None and self.prompt_mask is not None and self.hidden is not None
        lengths = self.prompt_mask.long().sum(dim=1, keepdim=True)
        positions = (lengths + mask.long().cumsum(dim=1) - 1).masked_fill(mask == 0, 0)
        turned = rotation(text, embeddings, positions)
        early, layers = copied(self.early), len(self.early.layers)
        seen = torch.cat((self.prompt_mask, mask.to(self.prompt_mask)), dim=1)
        hidden = walk(text, embeddings, range(layers), turned=turned, mask=seen, cache=early)
        cache = copied(self.cache)
        for index, layer in enumerate(early.layers):
            cache.update(*(tensor[:, :, seen.shape[1] - mask.shape[1] :] for tensor in (layer.keys, layer.values)), index)
        kept = torch.cat((self.mask, mask.to(self.mask)), dim=1)
        hidden = walk(text, hidden, range(layers, len(text.layers)), turned=turned, mask=kept, cache=cache)
        places = self.prompt_mask.shape[1] + torch.arange(mask.shape[1], device=self.index.device)
        return Compressed(
            index=torch.cat((self.index, places.expand(len(mask), -1)), dim=1),
            mask=kept,
            positions=torch.cat((self.positions, positions), dim=1),
            embeddings=torch.cat((self.embeddings, embeddings), dim=1),
            selections=self.selections,
            hidden=torch.cat((self.hidden, hidden), dim=1),
            cache=cache,
            early=early,
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
