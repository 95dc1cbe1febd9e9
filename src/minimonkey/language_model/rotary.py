"""Rotary positions without state: by which angles is each token of a row rotated, given this row's length and nothing else?

Two published rules depend on the length of a sequence: InternLM2's dynamic NTK and Phi-3's "su" ("longrope" in transformers). The
modules of transformers keep frequencies from call to call and let the longest row of a batch decide for all; here each row follows
from its own positions in this call. Plain rope has no state and stays transformers' own. Knows no model, picture or text.

    shapes: B rows, or 1 for positions that all rows share; L length of a row; R rotated channels of a head
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from transformers import PretrainedConfig


class RowRotary(nn.Module, ABC):
    """Cosines and sines in the place of transformers' `LlamaRotaryEmbedding`; a subclass has the rule.

    Without parameters and buffers: nothing to save, to move between devices or to make anew after the meta device.
    """

    scaling: float = 1.0
    """Factor of the cosines and sines."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        rope = config.rope_parameters
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.channels = int(head * rope.get("partial_rotary_factor", 1.0))
        self.theta = float(rope["rope_theta"])

    @abstractmethod
    def inverse_frequencies(self, lengths: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        """The angle between two neighbouring positions, for each pair of rotated channels.

        Args:
            lengths: tokens of each row, int [B, 1].
            exponents: of the base, float32 [R/2].

        Returns:
            Radians a position, float32 [B, R/2].
        """

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary cosines and sines, computed in float32.

        The greatest position of a row tells its length, so padding, whose positions are 0 or 1, counts for nothing on either side.
        In a decoding step that length is the prompt and all that was written so far: the new token is rotated by the rule for that
        length, earlier keys stay in the cache as they were rotated. So does the published code. (`Phi3ForCausalLM` of transformers
        runs the whole prompt again where the long factors set in; our `generate` is InternVL's, which has no such step.)

        Args:
            x: any tensor; its type and device are those of the results. (transformers' name.)
            position_ids: int [B, L].

        Returns:
            Cosines and sines, each [B, L, R].
        """
        positions = position_ids.to(x.device)
        lengths = positions.max(dim=-1, keepdim=True).values + 1
        exponents = torch.arange(0, self.channels, 2, device=x.device, dtype=torch.float32) / self.channels
        angles = positions[:, :, None].float() * self.inverse_frequencies(lengths, exponents)[:, None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(x.dtype), (angles.sin() * self.scaling).to(x.dtype)


class DynamicRotary(RowRotary):
    """InternLM2's rule: beyond the length that it was trained with, the base grows with the length.

    Source: `InternLM2DynamicNTKScalingRotaryEmbedding` of the published `modeling_internlm2.py`.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.trained_length, self.factor = config.max_position_embeddings, config.rope_parameters["factor"]

    def inverse_frequencies(self, lengths: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        # growth is 1 up to the trained length
        growth = self.factor * lengths.clamp(min=self.trained_length) / self.trained_length - (self.factor - 1)
        base = self.theta * growth ** (self.channels / (self.channels - 2))
        return 1.0 / base**exponents


class LongRotary(RowRotary):
    """Phi-3's rule: one list of factors for rows up to the length that it was first trained with, another for longer ones.

    Source: `Phi3SuScaledRotaryEmbedding` of the published `modeling_phi3.py`.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        rope = config.rope_parameters
        self.trained_length = getattr(config, "original_max_position_embeddings", None) or rope["original_max_position_embeddings"]
        self.short_factor, self.long_factor = rope["short_factor"], rope["long_factor"]
        factor = rope.get("factor") or config.max_position_embeddings / self.trained_length
        own = rope.get("attention_factor")
        if own is not None:
            self.scaling = own
        elif factor > 1:
            self.scaling = math.sqrt(1 + math.log(factor) / math.log(self.trained_length))

    def inverse_frequencies(self, lengths: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        short, long = (exponents.new_tensor(factors) for factors in (self.short_factor, self.long_factor))
        return 1.0 / (torch.where(lengths > self.trained_length, long, short) * self.theta**exponents)


ROTARIES: dict[str, type[RowRotary]] = {"dynamic": DynamicRotary, "longrope": LongRotary}
"""The kinds of rope, as transformers names them, that depend on the length."""


def stateless_rotary(config: PretrainedConfig) -> RowRotary | None:
    """The rotary module for a language model's configuration; None where transformers' own keeps nothing."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = ROTARIES.get(rope.get("rope_type", "default"))
    return kind(config) if kind else None


def context_length(config: PretrainedConfig, tokenizer_limit: int) -> int:
    """The most tokens of prompt and answer together that a language model was made for.

    That is the length it was trained with, but for the kinds of rope that stretch it: those go as far as the tokenizer says, linear
    and dynamic rope by their factor at least.

    Args:
        config: the language model's configuration.
        tokenizer_limit: the tokenizer's `model_max_length`; 10^30 where nobody said.
    """
    trained_length: int = config.max_position_embeddings
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type")
    if kind not in ("linear", *ROTARIES):
        return trained_length
    stretched = trained_length if kind == "longrope" else int(trained_length * rope["factor"])
    return max(stretched, tokenizer_limit if tokenizer_limit < 10**9 else 0)


def make_stateless(model: nn.Module) -> None:
    """Give a text model (LlamaModel, Phi3Model, Qwen2Model) a rotary module without state, in place, where it needs one."""
    assert isinstance(model.rotary_emb, nn.Module), "the head's model, not the one with a head"
    replacement = stateless_rotary(model.config)
    if replacement is not None:
        model.rotary_emb = replacement
