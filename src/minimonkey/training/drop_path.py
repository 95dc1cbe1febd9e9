"""Stochastic depth for the vision encoder (Huang et al., arXiv 1603.09382): a tile skips a layer's branch now and then.

transformers' InternViT has none; InternVL's scripts train with 0.1 (`drop_path_rate`). A hook of ours, active while training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class DropPath:
    """A forward hook that leaves a branch out for some tiles, and scales what is left, so that its expected value stays."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        branch = output[0] if isinstance(output, tuple) else output
        if not module.training or self.rate == 0:
            return output
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        dropped = branch * kept.to(branch.dtype) / (1 - self.rate)
        return (dropped, *output[1:]) if isinstance(output, tuple) else dropped


def add_drop_path(layers: nn.ModuleList, rate: float) -> None:
    """Put the hook on attention and MLP of each encoder layer; the rate grows evenly from 0 to `rate`."""
    for depth, layer in enumerate(layers):
        drop = DropPath(rate * depth / max(1, len(layers) - 1))
        layer.attention.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)
