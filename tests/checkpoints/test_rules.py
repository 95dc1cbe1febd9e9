"""Published names and shapes into native ones and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimonkey.checkpoints.rules import SAME_NAMES, VISION, Heads, Rule, disk_name, internlm2_rules, to_native, to_published
from minimonkey.checkpoints.tensors import LazyTensor


def lazy(**tensors: torch.Tensor) -> dict[str, LazyTensor]:
    return {name: LazyTensor(tuple(tensor.shape), lambda tensor=tensor: tensor) for name, tensor in tensors.items()}


def read(tensors: dict[str, LazyTensor]) -> dict[str, torch.Tensor]:
    values = {name: tensor[...] for name, tensor in tensors.items()}
    assert all(tuple(values[name].shape) == tensors[name].shape for name in values), "the shape promised is the shape read"
    return values


def test_a_grouped_matrix_is_cut_by_key_value_heads():
    """Two key/value heads of dimension 1, two query heads each: rows q0 q1 k0 v0 q2 q3 k1 v1."""
    rule = Rule("wqkv.*", ("q.*", "k.*", "v.*"), Heads(key_value=2, group=2, dim=1))
    fused = torch.tensor([[0.0], [1.0], [10.0], [20.0], [2.0], [3.0], [11.0], [21.0]])
    native = read(to_native(lazy(**{"wqkv.weight": fused}), [rule]))
    assert {name: tensor[:, 0].tolist() for name, tensor in native.items()} == {
        "q.weight": [0, 1, 2, 3],
        "k.weight": [10, 11],
        "v.weight": [20, 21],
    }
    assert torch.equal(rule.joined([native[f"{part}.weight"] for part in "qkv"]), fused)


def test_thirds():
    rule = Rule("qkv.*", ("q.*", "k.*", "v.*"))
    native = read(to_native(lazy(**{"qkv.bias": torch.arange(6.0)}), [rule]))
    assert {name: tensor.tolist() for name, tensor in native.items()} == {"q.bias": [0, 1], "k.bias": [2, 3], "v.bias": [4, 5]}


@settings(deadline=None)
@given(key_value=st.integers(1, 4), group=st.integers(1, 4), dim=st.integers(1, 5), columns=st.integers(1, 3))
def test_cutting_and_joining_is_the_identity(key_value, group, dim, columns):
    layer = "language_model.model.layers.7."
    fused = torch.randn(key_value * (group + 2) * dim, columns)
    tensors = lazy(
        **{f"{layer}attention.wqkv.weight": fused, f"{layer}attention_norm.weight": torch.randn(columns), "other": fused}
    )
    rules = internlm2_rules(Heads(key_value, group, dim))
    native = to_native(tensors, rules)
    assert set(native) == {
        *(f"{layer}self_attn.{part}_proj.weight" for part in "qkv"),
        f"{layer}input_layernorm.weight",
        "other",
    }
    back = read(to_published(native, rules))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name][...]) for name in tensors)


@pytest.mark.parametrize(
    ("published", "native"),
    [
        ("vision_model.encoder.layers.11.ls2", ["vision_tower.encoder.layer.11.lambda_2"]),
        ("vision_model.encoder.layers.0.attn.q_norm.weight", ["vision_tower.encoder.layer.0.attention.q_norm.weight"]),
        ("mlp1.3.bias", ["multi_modal_projector.linear_2.bias"]),
        ("language_model.model.layers.3.self_attn.qkv_proj.weight", ["language_model.model.layers.3.self_attn.qkv_proj.weight"]),
    ],
)
def test_names(published, native):
    assert list(to_native(lazy(**{published: torch.zeros(3, 1)}), VISION + SAME_NAMES)) == native


def test_buffers_that_follow_from_the_settings_are_dropped():
    old = lazy(**{"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    assert to_native(old, SAME_NAMES) == {}


def test_names_on_disk_are_those_that_transformers_writes(tiny_model, tmp_path):
    from safetensors.torch import load_file

    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path)
    assert {disk_name(name) for name in model.state_dict()} == set(load_file(tmp_path / "model.safetensors"))
