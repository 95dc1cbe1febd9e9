"""Which tiles are the same, and where the class token looks; encoding itself is tested in test_modeling.py."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import InternVLVisionConfig, InternVLVisionModel

import minimonkey
from minimonkey import CompressionSpec
from minimonkey.models.minimonkey.vision_features import cls_attention, distinct_tiles

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tiles_of_any_format_are_told_apart(dtype):
    pixels = tiles(1, 2, 1, 3, 2).to(dtype)
    pixels[3] = pixels[2].flip(0)  # the same checksum
    for given in (pixels, pixels.transpose(2, 3), pixels.repeat(1, 2, 1, 1)[:, ::2]):
        first, index = distinct_tiles(given)
        assert (first.tolist(), index.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])
        assert torch.equal(given[first][index], given)


class NoFloat64(TorchDispatchMode):
    """As Apple's GPUs: whatever would make a tensor of float64 is a TypeError."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if any(isinstance(part, torch.Tensor) and part.dtype == torch.float64 for part in tree_leaves(output)):
            raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {function}")
        return output


def test_a_device_without_float64_is_enough(golden):
    """For a whole answer, with and without compression, afresh and from an open picture."""
    vlm, picture = minimonkey.load(golden / "minimonkey-internlm2-56", device="cpu"), golden / "pixels" / "wide_receipt.png"
    compressions = (None, CompressionSpec("scm"), CompressionSpec("visionzip"))
    due = [vlm.ask(picture, "Read.", max_new_tokens=2, compression=compression).token_ids for compression in compressions]
    with NoFloat64():
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2).double()
        found = [vlm.ask(picture, "Read.", max_new_tokens=2, compression=compression).token_ids for compression in compressions]
        with vlm.open(picture) as opened:
            assert opened.ask("Read.", max_new_tokens=2).token_ids == due[0]
    assert found == due


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
    assert_close(cls_attention(layer, hidden), (weights / weights.sum())[None, 1:])
