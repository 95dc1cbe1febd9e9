"""What a published config.json means, and what is refused because we would get it wrong."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.published import PublishedSettings
from minimonkey.errors import CheckpointError
from minimonkey.pyramid import PyramidSpec

MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"


@pytest.fixture
def settings(golden):
    """`settings("plain folder", template="phi3-chat")`: config.json of a golden folder with changes."""

    def make(name, **changes):
        return PublishedSettings(json.loads((golden / name / "config.json").read_text()) | changes, "config.json")

    return make


def test_sizes_and_names_are_taken_over(settings):
    native = settings(MONKEY).native(702)
    text, vision = native["text_config"], native["vision_config"]
    assert (text["model_type"], text["num_key_value_heads"], text["attention_bias"], text["vocab_size"]) == ("llama", 2, False, 709)
    assert text["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "dynamic", "factor": 2.0}
    assert (vision["use_qk_norm"], vision["attention_bias"], vision["use_mean_pooling"]) == (False, True, True)
    assert (native["image_token_id"], native["image_seq_length"], native["downsample_ratio"]) == (702, 4, 0.5)
    assert settings(PLAIN).native(605)["text_config"]["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "default"}


def test_su_is_the_old_name_of_longrope(settings):
    phi3 = {
        "architectures": ["Phi3ForCausalLM"],
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [4.0]},
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        **dict.fromkeys(("vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1),
        "hidden_size": 2,
    }
    text = settings(PLAIN, llm_config=phi3, template="phi3-chat").native(1)["text_config"]
    assert text["rope_parameters"] == {
        "rope_theta": 10000.0,
        "rope_type": "longrope",
        "short_factor": [1.0],
        "long_factor": [4.0],
        "factor": 32.0,
    }
    assert (text["model_type"], text["original_max_position_embeddings"]) == ("phi3", 4096)


def test_pyramids(settings):
    assert settings(MONKEY).pyramid(mini_monkey=False) == PyramidSpec(tile_px=56), "by its class"
    assert settings(PLAIN).pyramid(mini_monkey=True) == PyramidSpec(tile_px=56), "by its name"
    tiling = {"min_dynamic_patch": 2, "max_dynamic_patch": 6, "use_thumbnail": False}
    assert settings(PLAIN, **tiling).pyramid(mini_monkey=False) == PyramidSpec.plain(2, 6, tile_px=56, thumbnail=False)
    assert settings(PLAIN, dynamic_image_size=False).pyramid(mini_monkey=False) == PyramidSpec.plain(1, 1, tile_px=56)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'; only 'v2' is supported"),
        ({"use_llm_lora": 16}, "use_llm_lora is 16; .*merge the LoRA weights"),
        ({"llm_config": None}, "llm_config is missing; expected settings"),
        (
            {"llm_config": {"architectures": ["GemmaForCausalLM"]}},
            "the language model is 'GemmaForCausalLM'; expected one of InternLM2",
        ),
        ({"llm_config": {}}, "the language model is ''"),
        ({"template": "vicuna"}, "template is 'vicuna'; expected one of internlm2-chat"),
        ({"force_image_size": 448}, "force_image_size is 448 and the vision encoder's image_size 56; they must be equal"),
    ],
)
def test_what_is_refused(settings, changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        settings(PLAIN, **changes)
    assert str(caught.value).startswith("config.json: ") and "\n" not in str(caught.value)


@pytest.fixture
def copied(golden, tmp_path):
    shutil.copytree(golden / PLAIN, tmp_path / PLAIN)
    return tmp_path / PLAIN


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("mlp1.1.bias"), r"1 missing \(mlp1\.1\.bias\)"),
        (
            lambda w: w.pop("vision_model.encoder.layers.0.attn.qkv.weight"),
            r"1 missing \(vision_model\.encoder\.layers\.0\.attn\.qkv",
        ),
        (lambda w: w.update(extra=w["mlp1.1.bias"].clone()), r"1 not expected \(extra\)"),
        (
            lambda w: w.update({"mlp1.1.bias": w["mlp1.1.bias"][:-1].clone()}),
            r"1 of another shape \(mlp1\.1\.bias \[63\] for \[64\]\)",
        ),
    ],
)
def test_every_tensor_is_accounted_for_by_its_published_name(copied, damage, message):
    weights = load_file(copied / "model.safetensors")
    damage(weights)
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=message) as caught:
        minimonkey.load(copied, device="cpu")
    assert str(copied) in str(caught.value) and "\n" not in str(caught.value)


def test_shards_load_as_one_file_does(copied, golden):
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, copied / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    whole, sharded = (minimonkey.load(path, device="cpu").model.state_dict() for path in (golden / PLAIN, copied))
    assert whole.keys() == sharded.keys()
    assert all((whole[name] == sharded[name]).all() for name in whole)


def test_generation_settings_but_for_the_stop_token(copied):
    (copied / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 2], "max_new_tokens": 9, "repetition_penalty": 1.1})
    )
    generation = minimonkey.load(copied, device="cpu").model.generation_config
    assert (generation.max_new_tokens, generation.repetition_penalty) == (9, 1.1)
    assert generation.eos_token_id == 602, "that of the template, as the published chat has it"
    assert find_folder(copied).layout == "published"


def test_a_pickled_published_folder_is_refused_with_the_way_out(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weights only as pytorch_model\.bin; only safetensors are read, save the model as"):
        minimonkey.load(copied)
