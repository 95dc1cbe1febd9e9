"""What is minimised: cross-entropy on answers alone, without ever holding the logits of a whole batch.

    batch -> vision encoder, language model -> hidden states where something is learnt -> a few logits at a time -> one number

A vocabulary of 92,553 at 8,000 tokens would be 3 GB of logits and as much of gradients; here both exist for `chunk_tokens` at a
time, and the gradient is worked out on the way (the idea of Liger's fused cross-entropy, which has no weights for single tokens).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.data.packed_rows import LossReduction, token_weights

CHUNK_TOKENS = 256


class ChunkedCrossEntropy(torch.autograd.Function):
    """Weighted cross-entropy of a linear layer's logits, `chunk_tokens` at a time; the gradient is made in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor,
        chunk_tokens: int,
    ) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        into_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        into_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        into_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            states, target, share = hidden[chunk], labels[chunk, None], weights[chunk]
            logits = nn.functional.linear(states, weight, bias).float()
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, target)[:, 0]
            sums = logits.exp_().sum(-1, keepdim=True)  # in place: from here on they are exponentials
            total += ((sums[:, 0].log() - chosen) * share).sum()
            if into_hidden is None and into_weight is None:
                continue
            logits *= share[:, None] / sums
            logits.scatter_add_(1, target, -share[:, None])
            gradient = logits.to(weight.dtype)
            if into_hidden is not None:
                into_hidden[chunk] = gradient @ weight
            if into_weight is not None:
                into_weight.addmm_(gradient.T, states)
            if into_bias is not None:
                into_bias += gradient.sum(0)
        ctx.save_for_backward(*(each for each in (into_hidden, into_weight, into_bias) if each is not None))
        ctx.has = [each is not None for each in (into_hidden, into_weight, into_bias)]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        gradients = [next(saved) * outputs[0].to(torch.float32) if has else None for has in ctx.has]
        return *gradients, None, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> torch.Tensor:
    """The sum of weights times cross-entropy.

    Args:
        hidden: what goes into the output layer, float [N, D].
        weight: that of the output layer, float [V, D].
        labels: int64 [N], each from 0 to V - 1.
        weights: float32 [N].
        bias: that of the output layer, float [V].
        chunk_tokens: how many logits [V] there are at a time.

    Returns:
        float32 [], with a gradient for hidden, weight and bias.
    """
    return ChunkedCrossEntropy.apply(hidden, weight, bias, labels, weights, chunk_tokens)


def batch_weight(batch: Mapping[str, torch.Tensor], reduction: LossReduction) -> torch.Tensor:
    """What the labels of a batch weigh together, float32 []; nothing has to be computed for it."""
    labels = batch["labels"]
    if "cu_seqlens" not in batch:
        return token_weights(labels[:, 1:], reduction).sum()
    bounds = batch["cu_seqlens"].tolist()
    parts = [labels[:, start + 1 : stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
    return torch.stack([token_weights(part, reduction).sum() for part in parts]).sum()


class AnswerLoss(nn.Module):
    """A model and its loss: a batch in, a loss out. The module that is trained, wrapped by DDP or FSDP as a whole."""

    always_encodes: bool = False
    """With text alone, send a blank tile through the encoder, whose features count for nothing: processes that train together have
    to use the same parameters."""

    def __init__(self, model: nn.Module, reduction: LossReduction = "token", chunk_tokens: int = CHUNK_TOKENS) -> None:
        """`model` may be wrapped by peft."""
        super().__init__()
        self.model, self.reduction, self.chunk_tokens = model, reduction, chunk_tokens

    @property
    def network(self) -> Any:
        """The model without peft's wrapper; its layers have the adapters."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, batch: Mapping[str, torch.Tensor], total_weight: torch.Tensor | None = None) -> torch.Tensor:
        """The loss of a batch.

        Args:
            batch: of `data.collation`, or of `data.packed_rows`: `input_ids` and `labels` [1, L] with `cu_seqlens` [S + 1], where
                each segment begins. With `calls`, an int64 [], the language model is called so often at least: processes that share
                a model have to call it equally often.
            total_weight: what the sum is divided by; None: the weights of this batch. A step of several batches, or processes,
                gives that of all.

        Returns:
            float32 []: sum of weights times cross-entropy, over the weights. 0 where nothing is learnt.
        """
        blank = None
        if self.always_encodes and not batch.keys() & {"pixel_values", "image_features"}:
            blank = self._blank_features()  # first, as other processes encode theirs now
        hidden, labels, weights = self.learnt(batch)
        head = self.network.get_output_embeddings()
        total = chunked_cross_entropy(hidden, head.weight, labels, weights, bias=head.bias, chunk_tokens=self.chunk_tokens)
        if blank is not None:
            total = total + 0 * blank.sum()
        return total / (weights.sum() if total_weight is None else total_weight).clamp(min=torch.finfo(torch.float32).tiny)

    def learnt(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states [N, D] before each learnt token, the tokens [N] and their weights [N]."""
        states, labels, weights = [], [], []
        for part in self._parts(batch):
            shifted = part.pop("labels")[:, 1:]
            hidden = self.network.model(**part, use_cache=False).last_hidden_state[:, :-1]
            places = shifted != NOT_LEARNT
            states.append(hidden[places])
            labels.append(shifted[places])
            weights.append(token_weights(shifted, self.reduction)[places])
        return torch.cat(states), torch.cat(labels), torch.cat(weights)

    def _blank_features(self) -> torch.Tensor:
        side, like = self.network.config.vision_config.image_size, next(self.network.model.vision_tower.parameters())
        tile = torch.zeros(1, 3, *side, device=like.device, dtype=like.dtype)
        return self.network.model.get_image_features(tile, return_dict=True).pooler_output.float()

    def _with_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with features in place of pixels, or of what was kept of an encoder that doesn't learn."""
        kept = inputs.pop("image_features", None)
        if kept is not None:
            features = self.network.model.multi_modal_projector(kept)
            return inputs | {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}
        return self.network.model.with_features(inputs) if "pixel_values" in inputs else inputs

    def _parts(self, batch: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """What the network reads at a time, and where that is less than `calls` asks for, what counts for nothing."""
        count = 0
        for part in self._read_parts(batch):
            count += 1
            yield part
        nothing = batch["input_ids"][:1, :2]
        for _ in range(int(batch["calls"]) - count if "calls" in batch else 0):
            yield {"input_ids": nothing, "labels": torch.full_like(nothing, NOT_LEARNT)}

    def _read_parts(self, batch: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """A padded batch as a whole, of a packed row one segment after the other.

        All tiles of a packed row are encoded together; its segments can't see each other.
        """
        left_out = ("level_tiles", "image_flags", "position_ids", "loss_weight", "calls")
        inputs: dict[str, Any] = {name: value for name, value in batch.items() if name not in left_out}
        segments = inputs.pop("cu_seqlens", None)
        if segments is None:
            yield self._with_features(inputs)
            return
        inputs.pop("attention_mask", None)
        ids, labels = inputs.pop("input_ids"), inputs.pop("labels")
        inputs = self._with_features(inputs)
        features = inputs["mm_encoder_outputs"]["image"].pooler_output if "mm_encoder_outputs" in inputs else None
        image_token, used = self.network.config.image_token_id, 0
        for start, stop in zip(segments[:-1].tolist(), segments[1:].tolist(), strict=True):
            part: dict[str, Any] = {"input_ids": ids[:, start:stop], "labels": labels[:, start:stop]}
            if features is not None and (tokens := int((part["input_ids"] == image_token).sum())):
                tiles = tokens // features.shape[1]
                part["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features[used : used + tiles])}
                used += tiles
            yield part
