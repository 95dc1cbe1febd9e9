"""What the configuration keeps beside InternVL's fields."""

import dataclasses
import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, InternVLConfig

import minimonkey
from minimonkey.checkpoints.folder import find_folder
from minimonkey.errors import CheckpointError
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.pyramid import PyramidSpec


def test_fields_survive_a_round_trip_through_the_auto_class(tmp_path, tiny_config, auto_classes):
    spec = PyramidSpec(tile_px=28, detail=(2, 6), max_upscale=1.5)
    config = tiny_config("qwen2", pyramid=dataclasses.asdict(spec))
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is MiniMonkeyConfig
    assert PyramidSpec.from_dict(again.pyramid) == spec
    assert again.text_config.model_type == "qwen2"
    assert again.text_config.max_position_embeddings == 2048
    assert tuple(again.vision_config.patch_size) == (7, 7)


def test_without_them_it_is_the_stock_configuration():
    ours, stock = MiniMonkeyConfig().to_dict(), InternVLConfig().to_dict()
    assert ours.pop("model_type") == "minimonkey"
    assert stock.pop("model_type") == "internvl"
    assert ours.pop("pyramid") is None
    assert ours == stock


def test_a_wrong_type_is_an_error():
    with pytest.raises(StrictDataclassFieldValidationError, match="pyramid"):
        MiniMonkeyConfig(pyramid="4-12/3-7")


def test_a_setting_of_earlier_versions_is_left_out(tmp_path, tiny_config):
    """Nothing ever read `compression`, and folders have it."""
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compression": {"selector": "nonsense"}}))
    again = MiniMonkeyConfig.from_pretrained(tmp_path)
    assert not hasattr(again, "compression")
    assert "compression" not in again.to_dict()
    assert again.to_dict() == tiny_config().to_dict() | {"transformers_version": again.transformers_version}


def test_the_embedded_model_of_an_earlier_version_loads():
    folder = find_folder(Path(minimonkey.__file__).parent / "nano")
    for layout in ("native", "stock"):
        assert not hasattr(folder.config(layout), "compression")


@pytest.mark.parametrize("kind", ["internvl_chat", "qwen2_5_vl", None])
def test_settings_of_another_kind_are_refused(tmp_path, kind):
    """transformers would fill what is missing with defaults: a network of 11.8 billion parameters."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "llm_config": {}}))
    with pytest.raises(
        CheckpointError, match=f"{tmp_path}: model_type is {kind!r}, expected minimonkey or internvl; .*minimonkey.load"
    ):
        MiniMonkeyConfig.from_pretrained(tmp_path)
