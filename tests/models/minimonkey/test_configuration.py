"""What the configuration keeps beside InternVL's fields."""

import dataclasses

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, InternVLConfig

from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.pyramid import PyramidSpec


def test_fields_survive_a_round_trip_through_the_auto_class(tmp_path, tiny_config, auto_classes):
    spec = PyramidSpec(tile_px=28, detail=(2, 6), max_upscale=1.5)
    config = tiny_config("qwen2", pyramid=dataclasses.asdict(spec), compression={"selector": "scm", "keep_ratio": 0.5})
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is MiniMonkeyConfig
    assert PyramidSpec.from_dict(again.pyramid) == spec
    assert again.compression == {"selector": "scm", "keep_ratio": 0.5}
    assert again.text_config.model_type == "qwen2"
    assert again.text_config.max_position_embeddings == 2048
    assert tuple(again.vision_config.patch_size) == (7, 7)


def test_without_them_it_is_the_stock_configuration():
    ours, stock = MiniMonkeyConfig().to_dict(), InternVLConfig().to_dict()
    assert ours.pop("model_type") == "minimonkey"
    assert stock.pop("model_type") == "internvl"
    assert ours.pop("pyramid") is None
    assert ours.pop("compression") is None
    assert ours == stock


def test_a_wrong_type_is_an_error():
    with pytest.raises(StrictDataclassFieldValidationError, match="pyramid"):
        MiniMonkeyConfig(pyramid="4-12/3-7")
