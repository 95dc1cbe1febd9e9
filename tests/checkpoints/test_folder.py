"""Model folders, whole and broken: each fault is one line that says what to do."""

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints import folder as folder_module
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_processor
from minimonkey.errors import CheckpointError


@pytest.fixture
def saved(tmp_path, tiny_model, tiny_processor):
    """A folder of the native layout."""
    processor = tiny_processor(detail=(1, 4))
    tiny_model(pyramid=dataclasses.asdict(processor.image_processor.spec)).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_whole_folder(saved):
    folder = find_folder(str(saved))
    assert (folder.path, folder.layout) == (saved, "native")
    native, stock = folder.config("native"), folder.config("stock")
    assert (native.model_type, native.pyramid["detail"]) == ("minimonkey", [1, 4])
    assert stock.model_type == "internvl"
    assert not hasattr(stock, "pyramid")
    assert stock.vision_config.to_dict() == native.vision_config.to_dict()


def test_home_is_understood(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert find_folder("~/model").path == saved


def remove_config(path):
    (path / "config.json").unlink()


def break_config(path):
    (path / "config.json").write_text('{"model_type": "minimonkey",')


def other_kind(path):
    edit(path / "config.json", model_type="internvl_chats")


def no_object(path):
    (path / "config.json").write_text("[]")


def no_weights(path):
    (path / "model.safetensors").unlink()


def cut_weights(path):
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def empty_weights(path):
    (path / "model.safetensors").write_bytes(b"")


def pickled_weights(path):
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def missing_shard(path):
    (path / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_elsewhere(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "../other.safetensors"}}))


def broken_index(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text("{}")


def two_saves(path):
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(path / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, path / "model.safetensors")  # of an earlier save


def only_an_adapter(path):
    for file in path.iterdir():
        file.unlink()
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "mx262/MiniMonkey", "peft_type": "LORA"}')


def an_adapter_of_nothing(path):
    only_an_adapter(path)
    (path / "adapter_config.json").write_text("[]")


def an_adapter_with_settings(path):
    """As trainers leave it that save the model's settings beside the adapter."""
    (path / "model.safetensors").unlink()
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "mx262/MiniMonkey"}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_config, "no config.json in it; give the folder"),
        (break_config, r"config\.json: is not readable JSON .*; get the folder anew"),
        (no_object, "model_type is None; expected one of minimonkey, internvl, internvl_chat"),
        (other_kind, "model_type is 'internvl_chats'; expected one of minimonkey, internvl, internvl_chat"),
        (no_weights, r"model\.safetensors: missing; get the folder anew"),
        (cut_weights, r"model\.safetensors: broken or cut short"),
        (empty_weights, r"model\.safetensors: broken or cut short"),
        (pickled_weights, r"weights only as pytorch_model\.bin; only safetensors are read"),
        (missing_shard, r"model-00001-of-00002\.safetensors: missing"),
        (shard_elsewhere, "names weight files outside the folder"),
        (broken_index, "is not a readable index"),
        (two_saves, r"holds both model\.safetensors and model\.safetensors\.index\.json, weights of two saves; remove the older"),
        (only_an_adapter, "an adapter of 'mx262/MiniMonkey'; merge it into its base model"),
        (an_adapter_of_nothing, "an adapter; merge it into its base model"),
        (an_adapter_with_settings, "an adapter of 'mx262/MiniMonkey'; merge it into its base model"),
    ],
)
def test_a_broken_folder(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_folder(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": {"model_type": "no_such_language_model"}},
        {"text_config": 5},
        {"downsample_ratio": "half"},
        {"pyramid": "4-12/3-7"},
    ],
)
def test_a_wrong_setting(saved, change):
    edit(saved / "config.json", **change)
    with pytest.raises(CheckpointError, match=r"config\.json: .+") as caught:
        find_folder(saved).config("native")
    assert "\n" not in str(caught.value)


def test_names_that_are_no_folder(tmp_path, monkeypatch):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        find_folder(tmp_path / "weights.safetensors")
    for name in (tmp_path / "nowhere", "a/b/c", "two words", "../up"):
        with pytest.raises(CheckpointError, match="no such folder; give a model folder or a hub id"):
            find_folder(name)
    with pytest.raises(CheckpointError, match="a revision goes with a hub id only"):
        find_folder(tmp_path, revision="main")


def test_a_hub_id_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"nobody/nothing: no folder of this name here, and the hub gave none .*the network"
    ) as caught:
        find_folder("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            RepositoryNotFoundError,
            "RepositoryNotFoundError: 404 Client Error. Not Found.*check the name and the revision and, for a private",
        ),
        (GatedRepoError, "accept its licence at https://huggingface.co/nobody/nothing, then log in"),
    ],
)
def test_a_hub_id_that_the_hub_refuses(monkeypatch, kind, message):
    class Response:
        headers: dict = {}
        request = None

    def refuse(name, **settings):
        raise kind("404 Client Error.\n\nNot Found", response=Response())

    monkeypatch.setattr(folder_module, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_folder("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch):
    """Make a hub of one folder: `hub(folder)` returns the list of calls that will have been made to it."""

    def make(folder):
        calls = []

        def fetch(name, **settings):
            calls.append((name, settings))
            return str(folder)

        monkeypatch.setattr(folder_module, "snapshot_download", fetch)
        return calls

    return make


def test_a_hub_id_is_fetched_without_code_or_pickles(saved, hub):
    calls = hub(saved)
    assert find_folder("owner/name", revision="v1", token="secret").path == saved
    for name, settings in calls:
        assert (name, settings["revision"], settings["token"]) == ("owner/name", "v1", "secret")
    patterns = [settings["allow_patterns"] for _, settings in calls]
    assert patterns[0] == ["config.json", "adapter_config.json"], "settings before weights"
    assert len(patterns) == 2 and "*.safetensors" in patterns[1]
    assert not [pattern for pattern in patterns[1] if pattern.endswith((".py", ".bin", ".pt", ".pth"))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_kind, "owner/name/config.json: model_type is 'internvl_chats'; expected one of minimonkey, internvl, internvl_chat"),
        (lambda path: edit(path / "config.json", downsample_ratio="half"), "downsample_ratio"),
        (lambda path: edit(path / "config.json", model_type="internvl_chat"), "vision_config.image_size is|llm_config is missing"),
        (remove_config, "owner/name: no config.json in it"),
        (only_an_adapter, "owner/name: an adapter of 'mx262/MiniMonkey'; merge it"),
    ],
)
def test_weights_of_an_unknown_kind_are_not_fetched(saved, hub, damage, message):
    damage(saved)
    calls = hub(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_folder("owner/name")
    assert "\n" not in str(caught.value)
    assert [settings["allow_patterns"] for _, settings in calls] == [["config.json", "adapter_config.json"]]


def processor_of(path):
    folder = find_folder(path)
    return load_processor(folder, folder.config("native"))


def test_the_processor_of_a_folder(saved, recwarn):
    assert processor_of(saved).image_processor.spec.detail == (1, 4)
    assert not recwarn.list


def test_a_broken_processor(saved):
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not readable JSON"):
        processor_of(saved)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (saved / name).unlink()
    with pytest.raises(CheckpointError, match="no usable processor in it") as caught:
        processor_of(saved)
    assert "\n" not in str(caught.value)


def break_template(path):
    (path / "chat_template.jinja").write_text("{% for message in %}")


def patches_of_nothing(path):
    edit(
        path / "config.json", vision_config=json.loads((path / "config.json").read_text())["vision_config"] | {"patch_size": [0, 0]}
    )


def unknown_pyramid(path):
    edit(path / "config.json", pyramid={"tiles": 3})


def wrong_generation(path):
    edit(path / "generation_config.json", max_new_tokens="many")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_template, "its chat template can't be used"),
        (patches_of_nothing, "patch_size is"),
        (unknown_pyramid, "config.json: pyramid has no setting 'tiles'"),
        (wrong_generation, r"generation_config\.json: max_new_tokens='many': expected a whole number, 1 or more"),
    ],
)
def test_loading_a_folder_with_a_wrong_setting_is_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        minimonkey.load(saved, device="cpu")
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_a_processor_of_another_model(saved, tmp_path, tiny_processor):
    images = json.loads((saved / "processor_config.json").read_text())["image_processor"]
    edit(saved / "processor_config.json", image_processor=images | {"pyramid": images["pyramid"] | {"tile_px": 56}})
    with pytest.raises(CheckpointError, match="the processor's tile_px is 56, the model's 28"):
        processor_of(saved)
    edit(saved / "processor_config.json", image_processor=images, image_seq_length=16)
    with pytest.raises(CheckpointError, match="image_seq_length is 16, the model's 4"):
        processor_of(saved)
    edit(saved / "processor_config.json", image_seq_length=4)
    text = json.loads((saved / "config.json").read_text())["text_config"]
    edit(saved / "config.json", image_token_id=7)
    with pytest.raises(CheckpointError, match="image token is 5, the model's 7"):
        processor_of(saved)
    edit(saved / "config.json", image_token_id=5, text_config=text | {"vocab_size": 100})
    with pytest.raises(CheckpointError, match="the tokenizer knows 362 tokens, the model 100"):
        processor_of(saved)


def test_a_pyramid_that_the_model_was_not_trained_with(saved):
    trained = json.loads((saved / "config.json").read_text())["pyramid"]
    edit(saved / "config.json", pyramid=trained | {"detail": [4, 12], "max_upscale": 1.5})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processor_of(saved)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        "pictures are cut with detail=(1, 4), the model was trained with (4, 12)",
        "pictures are cut with max_upscale=None, the model was trained with 1.5",
    ]


def test_a_stock_folder_is_cut_plainly_and_without_warning(saved, tmp_path, recwarn):
    from minimonkey.checkpoints.convert import convert

    convert(saved, tmp_path / "stock", to="stock")
    spec = processor_of(tmp_path / "stock").image_processor.spec
    assert (spec.tile_px, spec.detail, spec.adaptive) == (28, (1, 4), None)
    assert not recwarn.list
    shutil.rmtree(tmp_path / "stock")
