"""How fast is the vision encoder, against transformers' own and OpenVINO?

    python benchmarks/encoder.py [--tiles 4] [--engine openvino] [--rounds 5] [--layers 24] [--figures docs/performance.json]

InternViT-300M's shape with random weights, tiles of 448 px, in bfloat16 and then in float32. Ours is the model's
`get_image_features`. The rivals are the same method of transformers' own class, whose encoder is InternVLVisionModel with sdpa, on
the very same tensors, and, where it is installed, OpenVINO running that encoder (without the projector, 0.3 % of the work). Errors
are those of the image tokens, |x - y| / |y|, where y is transformers' own class in float32. Also says, without bars, what the
machine can do: a plain product of matrices, the linear layers of the encoder alone, its attention alone. Exits with 1 if a bar is
missed.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from internvl2_1b import random_model, stock
from minimonkey.errors import MissingExtraError
from minimonkey.evaluation.speed import medians
from minimonkey.inference.backend import TorchBackend
from minimonkey.inference.openvino import OpenVINOBackend, compiled
from report import Bar, circumstances, conclude, options, parse

BARS = {"bfloat16": (1.5, 1e-2), "float32": (1.8, 1e-4)}
"""How many times faster than transformers' own, and the largest error."""
OPENVINO_BAR = 1.0
PLAIN = 4096
"""Side of the square matrices that show what the machine can do."""


@torch.no_grad()
def encode(model: Any, tiles: torch.Tensor) -> torch.Tensor:
    """Image tokens of tiles, float [tiles, tokens, text width]."""
    return model.get_image_features(pixel_values=tiles, return_dict=True).pooler_output


def pieces(layer: nn.Module, tiles: int, like: torch.Tensor) -> dict[str, tuple[Callable[[], object], float]]:
    """Parts of the encoder alone and a plain product, each with its FLOPs: one layer's linear layers, one layer's attention."""
    attention, tokens, width = layer.attention, 1025, layer.mlp.fc1.in_features
    linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.projection_layer, layer.mlp.fc1, layer.mlp.fc2]
    hidden = {size: like.new_empty(tiles, tokens, size).normal_() for size in {linear.in_features for linear in linears}}
    query, key, value = like.new_empty(3, tiles, attention.num_heads, tokens, attention.head_dim).normal_()
    square = like.new_empty(PLAIN, PLAIN).normal_()
    weights = sum(linear.weight.numel() for linear in linears)
    return {
        "plain product": (lambda: square @ square, 2.0 * PLAIN**3),
        "linears": (
            torch.no_grad()(lambda: [linear(hidden[linear.in_features]) for linear in linears]),
            2.0 * tiles * tokens * weights,
        ),
        "attention": (lambda: functional.scaled_dot_product_attention(query, key, value), 4.0 * tiles * tokens**2 * width),
    }


class Encoder(nn.Module):
    """A vision tower that returns a tensor, as exporters want it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.tower(pixel_values=pixel_values).last_hidden_state


def in_openvino(tower: nn.Module, tiles: torch.Tensor, dtype: str) -> Callable[[], object] | None:
    """A call of OpenVINO's version of transformers' tower in float32, computing in `dtype`; None where OpenVINO isn't installed."""
    try:
        run = compiled(Encoder(tower), (tiles[:1].float(),), [[-1, 3, 448, 448]], getattr(torch, dtype))
    except MissingExtraError:
        return None
    return lambda: run(tiles)


def compare(dtype: str, given: argparse.Namespace) -> Iterator[Bar]:
    """Time everything in one number format."""
    ours = random_model(getattr(torch, dtype), given.device, vision_layers=given.layers, text_layers=1)
    rival = stock(ours)
    backend = TorchBackend(ours) if given.engine is None else OpenVINOBackend(ours)
    exact = rival if dtype == "float32" else copy.deepcopy(rival).float()
    tiles = torch.randn(given.tiles, 3, 448, 448, generator=torch.Generator().manual_seed(1)).to(ours.device, ours.dtype)
    truth = encode(exact, tiles.float())
    errors = [
        ((encoded - truth).norm() / truth.norm()).item() for encoded in (backend.encode(tiles).pooler_output, encode(rival, tiles))
    ]
    print(f"\n{dtype}, {given.tiles} tiles")
    print(f"  rival: transformers' own class on the same tensors, {rival.model.vision_tower.config._attn_implementation}")
    parts = pieces(rival.model.vision_tower.encoder.layer[0], given.tiles, tiles)
    calls: dict[str, Callable[[], object]] = {"ours": lambda: backend.encode(tiles), "stock": lambda: encode(rival, tiles)}
    calls |= {name: call for name, (call, _) in parts.items()}
    if given.device == "cpu" and (call := in_openvino(exact.model.vision_tower, tiles, dtype)):
        calls["OpenVINO"] = call
    taken = medians(calls, given.rounds)
    rates = {name: flops / taken[name] / 1e9 for name, (_, flops) in parts.items()}
    for name, seconds in taken.items():
        more = f"{rates[name]:8.0f} GFLOP/s" if name in rates else f"{1e3 * seconds / given.tiles:8.0f} ms a tile"
        print(f"  {name:<14} {seconds:8.3f} s {more}", flush=True)
    faster, error = BARS[dtype]
    yield Bar(f"vision encoder, {dtype}, against transformers' own", taken["stock"] / taken["ours"], faster)
    yield Bar(f"vision encoder, {dtype}, error (transformers' own has {errors[1]:.1e})", errors[0], error, True)
    if "OpenVINO" in taken:
        yield Bar(f"vision encoder, {dtype}, against OpenVINO", taken["OpenVINO"] / taken["ours"], OPENVINO_BAR)
    yield Bar(f"its linear layers' rate, {dtype}, of a plain product's", rates["linears"] / rates["plain product"])
    for part, said in (("linears", "linear layers"), ("attention", "attention")):
        for whole, whose in (("ours", "of ours"), ("stock", "of transformers' own")):
            yield Bar(f"its {said} alone, {dtype}, {whose}", given.layers * taken[part] / taken[whole])


def main() -> int:
    parser = options(__doc__, dtype=" and ".join(BARS), rounds=5)
    parser.add_argument("--tiles", type=int, default=4)
    given = parse(parser)
    where = circumstances(given)
    print(f"{where}; rounds alternate after one that warms up, medians")
    dtypes = given.dtype.split(" and ")
    return conclude("encoder", where, (bar for dtype in dtypes for bar in compare(dtype, given)), given.figures)


if __name__ == "__main__":
    sys.exit(main())
