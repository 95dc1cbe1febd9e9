"""TinyGPT-V's network apart from recorded states: another tower, sizes of pictures, what it refuses, saving and loading."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from minimonkey.compression import CompressionSpec
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models.tinygptv.configuration import TinyGPTVConfig
from minimonkey.models.tinygptv.modeling import TinyGPTVForConditionalGeneration

IMAGE = 60
LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def make(tower="blip_2_vision_model", lora_rank=2, seed=0):
    """A random network of 28 px and 14 px patches, whose norms and biases are random too."""
    config = TinyGPTVConfig(
        vision_config=LAYERS | {"model_type": tower, "image_size": 28, "patch_size": 14},
        qformer_config=LAYERS,
        text_config=LAYERS | {"vocab_size": 64, "partial_rotary_factor": 0.5, "lora_rank": lora_rank, "pad_token_id": 0},
        image_token_id=IMAGE,
        image_seq_length=3,
        projector_hidden_size=20,
    )
    network = TinyGPTVForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return network.eval()


def inputs(side=28):
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2, 3]])
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "pixel_values": pixels, "labels": ids.masked_fill(ids == IMAGE, -100)}


@pytest.mark.parametrize("tower", ["blip_2_vision_model", "clip_vision_model"])
def test_any_tower_trains_saves_and_loads(tower, tmp_path, auto_classes):
    """One step lowers the loss and changes what is trained alone; what was saved is what loads."""
    network = make(tower)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    trained = network.freeze_as_published()
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    loss = network(**inputs()).loss
    loss.backward()
    optimizer.step()
    assert network(**inputs()).loss < loss
    changed = [name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed == trained
    network.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, TinyGPTVForConditionalGeneration)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs()).logits, network(**inputs()).logits)


def test_another_tower_is_refused():
    with pytest.raises(CheckpointError, match="'siglip_vision_model'; expected blip_2_vision_model or clip_vision_model"):
        TinyGPTVConfig(vision_config={"model_type": "siglip_vision_model"})


def test_pictures_of_any_size_are_as_many_tokens():
    network = make()
    with torch.no_grad():
        small, large = (network.get_image_features(inputs(side)["pixel_values"]) for side in (28, 56))
    assert small.pooler_output.shape == large.pooler_output.shape == (1, 3, 16)
    assert (small.last_hidden_state.shape[1], large.last_hidden_state.shape[1]) == (5, 17)


def test_without_updates():
    """Rank 0 has no matrices of updates; with updates that are zero it is the same."""
    plain, updated = make(lora_rank=0), make(lora_rank=2)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    updated.load_state_dict(plain.state_dict(), strict=False)
    for name, parameter in updated.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    with torch.no_grad():
        assert torch.equal(plain(**inputs()).logits, updated(**inputs()).logits)


def test_cached_steps_equal_whole_reading():
    network, given = make(), inputs()
    del given["labels"]
    with torch.no_grad():
        said = network.generate(**given, max_new_tokens=5, do_sample=False, eos_token_id=None)
        whole = network(input_ids=said, pixel_values=given["pixel_values"]).logits[0, 5:-1].argmax(-1)
    assert said[0, 6:].tolist() == whole.tolist()


def test_compression_of_tiles_is_refused():
    """Of one tile there is nothing to compress, as in any model."""
    network, ids, spec = make(), inputs()["input_ids"], CompressionSpec("uniform")
    assert network.model.compress(spec, ids, level_tiles=torch.tensor([[0, 0, 1]]), pixel_values=inputs()["pixel_values"]) is None
    with pytest.raises(UsageError, match="TinyGPT-V's 32 image tokens a tile have none"):
        network.model.compress(spec, ids, level_tiles=torch.tensor([[2, 0, 1]]))


def test_half_precision_norms_are_computed_in_float32():
    norm = make().model.vision_layernorm
    states = torch.full((1, 16), 300.0, dtype=torch.float16)
    states[0, 0] = 900.0  # whose variance is beyond float16
    result = norm.to(torch.float16)(states)
    assert result.dtype == torch.float16 and result.isfinite().all()
