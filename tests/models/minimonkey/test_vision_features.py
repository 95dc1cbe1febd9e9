"""Which tiles are the same, and where the class token looks; encoding itself is tested in test_modeling.py."""

import torch
from torch.testing import assert_close
from transformers import InternVLVisionConfig, InternVLVisionModel

from minimonkey.models.minimonkey.vision_features import class_attention, distinct_tiles

TILE_PX = 28


def tiles(*seeds: int) -> torch.Tensor:
    """One random tile for each seed; equal seeds give equal tiles."""
    return torch.stack([torch.randn(3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_tiles_of_equal_sum_are_told_apart():
    pixels = tiles(1, 2, 1)
    turned = pixels[:1].flip(-1)  # the same values elsewhere
    blank = torch.zeros(2, 3, TILE_PX, TILE_PX)
    blank[1, 0, 0, :2] = torch.tensor([1.0, -1.0])  # the same exact sum
    first, index = distinct_tiles(torch.cat([pixels, turned, blank, pixels[1:2]]))
    assert first.tolist() == [0, 1, 3, 4, 5]
    assert index.tolist() == [0, 1, 0, 2, 3, 4, 1]


def test_where_the_class_token_looks_in_numbers():
    """One head, identity projections: logits are products with the class token, not scaled."""
    sizes = {"hidden_size": 2, "num_attention_heads": 1, "intermediate_size": 2, "use_qk_norm": True}
    layer = InternVLVisionModel(InternVLVisionConfig(num_hidden_layers=1, **sizes)).encoder.layer[0]
    layer.layernorm_before = layer.attention.q_proj = layer.attention.k_proj = torch.nn.Identity()
    layer.attention.q_norm = layer.attention.k_norm = torch.nn.Identity()
    layer.attention.scale = 1.0
    hidden = torch.tensor([[[1.0, 0.0], [2.0, 9.0], [3.0, -9.0]]]).log1p()  # products: ln2 ln2, ln2 ln3, ln2 ln4
    weights = torch.tensor([2.0, 3.0, 4.0]) ** torch.tensor(2.0).log()
    hidden[..., 1] = 0
    assert_close(class_attention(layer, hidden), (weights / weights.sum())[None, 1:])
