"""Features in the places of image tokens, whichever ids stand there; saved and loaded; what is frozen."""

import pytest
import torch
from safetensors.torch import load_file

from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import CheckpointError, PromptError
from minimonkey.models.monkey.modeling import MonkeyForConditionalGeneration


@pytest.fixture
def picture():
    torch.manual_seed(2)
    return {"pixel_values": torch.randn(3, 3, 28, 28), "level_tiles": torch.tensor([[2, 0, 1]])}


def test_the_ids_of_a_file_name_count_as_image_tokens(tiny_monkey, prompt, picture):
    network, ids = tiny_monkey(), prompt(12)
    named = ids.clone()
    named[0, 1:6] = torch.tensor([9, 8, 7, 6, 5])
    with torch.no_grad():
        assert torch.equal(network(ids, **picture).logits, network(named, **picture).logits)


@pytest.mark.parametrize("tokens", [8, 13])
def test_a_wrong_number_of_image_tokens(tiny_monkey, prompt, picture, tokens):
    with torch.no_grad(), pytest.raises(PromptError, match=f"the prompt has {tokens} image tokens, its pictures 12 features"):
        tiny_monkey()(prompt(tokens), **picture)


def test_saved_and_loaded(tiny_monkey, prompt, picture, tmp_path):
    network = tiny_monkey()
    network.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"vision_tower", "multi_modal_projector", "language_model"}
    again = MonkeyForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(prompt(12), **picture).logits, network(prompt(12), **picture).logits)
    names.pop("vision_tower.layers.1.mlp_adapters.lora_scale")
    from safetensors.torch import save_file

    save_file(names, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 missing .*mlp_adapters.lora_scale"):
        MonkeyForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("selector", ["scm", "fastv", "uniform", "divprune", "mmr", "downsample", "scm-reference"])
def test_compression(tiny_monkey, prompt, picture, selector):
    network, ids = tiny_monkey(seq_length=8), prompt(12)
    whole = network.generate(ids, **picture, max_new_tokens=4, do_sample=False)
    spec, selections = CompressionSpec(selector), []
    network.generate(ids, **picture, max_new_tokens=4, do_sample=False, compression=spec, selections=selections)
    assert len(selections[0].selected) <= 4
    if selector not in ("downsample", "scm-reference"):
        spec = CompressionSpec(selector, keep_ratio=1.0)
        assert network.generate(ids, **picture, max_new_tokens=4, do_sample=False, compression=spec).tolist() == whole.tolist()


def test_what_is_trained_as_published(tiny_monkey):
    network = tiny_monkey()
    network.model.freeze_as_published()
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert all("adapters" not in name and "language_model" not in name for name in frozen)
    projector = {name.rpartition("multi_modal_projector.")[2] for name in frozen if "projector" in name}
    assert projector == {"post_norm.weight", "post_norm.bias", "projection"}
    assert {"model.vision_tower.position_embedding", "model.vision_tower.layers.0.attention.qkv.weight"} <= frozen
