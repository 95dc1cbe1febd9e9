"""Loading through `from_pretrained`: what is refused, in which words, and what it leaves as it was."""

import json
import logging
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as progress

import minimonkey
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models import strict_loading
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.strict_loading import check_settings

PUBLISHED = ("minimonkey-internlm2-56", "internvl2-qwen2-56")


@pytest.fixture
def saved(tmp_path, tiny_model):
    """A native folder, without a processor."""
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_folder_is_refused_before_a_network_is_made(golden, monkeypatch, name):
    def build(*_):
        raise AssertionError("11.8 billion random weights")

    monkeypatch.setattr(MiniMonkeyForConditionalGeneration, "__init__", build)
    with pytest.raises(
        CheckpointError, match="model_type is 'internvl_chat', expected minimonkey or internvl; .*minimonkey.load"
    ) as caught:
        MiniMonkeyForConditionalGeneration.from_pretrained(golden / name)
    assert str(golden / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_settings_is_refused_before_a_network_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(MiniMonkeyForConditionalGeneration, "__init__", None)
    with pytest.raises(CheckpointError, match="config.json"):
        MiniMonkeyForConditionalGeneration.from_pretrained(tmp_path)


def test_a_folder_of_two_saves_is_refused(saved):
    """transformers would take the one file, whichever save it is of."""
    weights = load_file(saved / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, saved / "shard.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "shard.safetensors")}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"holds both model\.safetensors and model\.safetensors\.index\.json"):
        MiniMonkeyForConditionalGeneration.from_pretrained(saved)
    (saved / "model.safetensors").unlink()
    later = MiniMonkeyForConditionalGeneration.from_pretrained(saved)
    assert torch.equal(later.lm_head.weight, weights["language_model.lm_head.weight"] + 1)


WRONG = [
    ({"attn_implementation": "nonsense"}, "attn_implementation='nonsense': expected one of eager, .*sdpa"),
    ({"attn_implementation": 5}, "attn_implementation=5: expected one of eager"),
    ({"attn_implementation": {"text_config": "nonsense"}}, "attn_implementation={'text_config': 'nonsense'}: expected one of"),
    ({"attn_implementation": "kernels-community/attention"}, "attn_implementation='kernels-community/attention': expected one of"),
    ({"device_map": "nonsense"}, "device_map='nonsense': 'nonsense' is not there .*; expected one of auto, balanced"),
    ({"device_map": {"": "nonsense"}}, "device_map={'': 'nonsense'}: 'nonsense' is not there"),
    ({"device_map": {"": "meta"}}, "device_map={'': 'meta'}: 'meta' is not there"),
    ({"device_map": "disk"}, "device_map='disk': 'disk' is not there"),
    ({"device_map": -1}, "device_map=-1: -1 is not there"),
    ({"device_map": 5.5}, "device_map=5.5: 5.5 is not there"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG)
def test_a_wrong_setting_is_named(golden, monkeypatch, setting, message):
    """Before anything is fetched or read."""
    monkeypatch.setattr("minimonkey.inference.loading.find_folder", None)
    with pytest.raises(UsageError, match=message) as caught:
        minimonkey.load("owner/name", **setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        *WRONG,
        ({"dtype": "float3"}, "dtype='float3': can't be used for .*model"),
        ({"experts_implementation": "x"}, "experts_implementation='x': can't be used for"),
        ({"no_such_setting": 3}, "no_such_setting=3: can't be used for"),
    ],
)
def test_a_wrong_setting_of_from_pretrained_is_named(saved, setting, message):
    with pytest.raises(UsageError, match=message) as caught:
        MiniMonkeyForConditionalGeneration.from_pretrained(saved, **setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", [{"attn_implementation": "eager"}, {"attn_implementation": {"": "sdpa"}}, {"device_map": "auto"}]
)
def test_right_settings_pass(setting):
    check_settings(**setting)
    check_settings(device_map={"a": "cpu", "b": "disk", "c": torch.device("cpu")})


def test_weights_without_a_folder_are_called_by_the_name_of_their_settings(tiny_model):
    """As those of published folders, which are read tensor by tensor."""
    model = tiny_model()
    weights = model.state_dict() | {"lm_head.weight": torch.zeros(2, 2)}
    for name, said in (("some/folder", "some/folder: tensors"), ("", "the weights given: tensors")):
        model.config.name_or_path = name
        with pytest.raises(CheckpointError, match=f"^{said}"):
            MiniMonkeyForConditionalGeneration.from_pretrained(None, config=model.config, state_dict=dict(weights))


def test_a_published_network_is_called_by_its_folder(golden):
    assert minimonkey.load(golden / PUBLISHED[0], device="cpu").model.name_or_path == str(golden / PUBLISHED[0])


# -- what belongs to the whole process -------------------------------------------------------------------------------------------


def test_progress_bars_are_back_when_the_last_of_several_threads_has_loaded():
    """A bar that was off before stays off."""
    progress.enable_progress_bar()  # whatever tests before this one have left
    bars = strict_loading._Bars()
    first, second = bars.hidden(), bars.hidden()
    assert progress.is_progress_bar_enabled()
    for step, shown in ((first.__enter__, False), (second.__enter__, False), (lambda: first.__exit__(None, None, None), False)):
        step()
        assert progress.is_progress_bar_enabled() is shown
    second.__exit__(None, None, None)
    assert progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with bars.hidden():
            pass
        assert not progress.is_progress_bar_enabled()
    finally:
        progress.enable_progress_bar()


def test_reports_of_other_threads_are_left_alone(tmp_path, caplog, monkeypatch):
    logger = logging.getLogger("transformers.modeling_utils")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with strict_loading._quietly(tmp_path):
        logger.warning("LOAD REPORT of ours")
        other = threading.Thread(target=logger.warning, args=("LOAD REPORT of another",))
        other.start()
        other.join()
    assert {*caplog.messages} == {"LOAD REPORT of another"}
