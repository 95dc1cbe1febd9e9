"""What computes for inference: tiles become features, prompts are read, tokens are written. Here it is torch.

The seam for other engines: one subclasses `TorchBackend`, takes over what it does faster, and leaves the rest. `vlm.model` stays
plain torch, whatever is done to it.

    shapes: T tiles, S tile side in pixels, N image tokens a tile, D hidden size, B rows, L tokens of a prompt, M patches of a tile
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.compressed_prompt import CompressedPrompt
from minimonkey.compression.spans import Selection
from minimonkey.language_model.layers import CACHE
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration


class TorchBackend:
    """The network itself, on whatever device it lies."""

    def __init__(self, network: MiniMonkeyForConditionalGeneration) -> None:
        self.network = network

    @torch.no_grad()
    def encode(self, tiles: torch.Tensor, *, cls_attention: bool = False) -> BaseModelOutputWithPooling:
        """Run the vision encoder and the projector.

        Args:
            tiles: pixel values, float32 [T, 3, S, S], on any device.
            cls_attention: also return the class token's attention in the encoder's last layer.

        Returns:
            An output with `pooler_output` [T, N, D] and, if asked for, `attentions`, a tuple of one float32 [T, M].
        """
        how = {"cls_attention": cls_attention, "keep_last_hidden_state": False}
        return self.network.get_image_features(pixel_values=tiles.to(self.network.device), **how)

    @torch.no_grad()
    def read(self, inputs: dict[str, Any]) -> tuple[DynamicCache, CompressedPrompt | None]:
        """Read the first tokens of prompts, to which questions will be added.

        Args:
            inputs: arguments of the network's forward for one row, an empty cache among them.

        Returns:
            The cache, filled, and what compression made of the row; None without compression.
        """
        inputs, compressed = dict(inputs), None
        if (spec := inputs.pop("compression", None)) is not None:
            cache = inputs.pop(CACHE)
            compressed = self.network.model.compress(spec, **inputs)
            inputs = (inputs if compressed is None else {"compressed_prompt": compressed}) | {CACHE: cache}
        return self.network(**inputs, use_cache=True, logits_to_keep=1)[CACHE], compressed

    def write(self, inputs: dict[str, Any], settings: dict[str, Any], selections: list[Selection]) -> torch.Tensor:
        """Read what of the prompts isn't in a cache yet, and write answers behind them.

        Args:
            inputs: what the prompts are: ids, mask, pictures or their features, a cache.
            settings: arguments of `generate`.
            selections: a list that gets what compression keeps of each picture.

        Returns:
            Ids of prompts and answers, int64 [B, L + new tokens].
        """
        return self.network.generate(**self._encoded(inputs), **settings, selections=selections)

    def _encoded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with encoded tiles in place of pixel values."""
        if "pixel_values" not in inputs:
            return inputs
        needs_cls_attention = "compression" in inputs and inputs["compression"].needs_cls_attention
        encoded = self.encode(inputs["pixel_values"], cls_attention=needs_cls_attention)
        return {name: value for name, value in inputs.items() if name != "pixel_values"} | {
            "mm_encoder_outputs": {"image": encoded}
        }
