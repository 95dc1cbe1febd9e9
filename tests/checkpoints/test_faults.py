"""What is wrong with a published folder is one line that names file and setting; and which names make a Mini-Monkey."""

import json
import os
import shutil
import warnings
from functools import partial

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints import folder as folders
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import generation_settings
from minimonkey.errors import CheckpointError

MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"
GONE = object()


@pytest.fixture
def copied(golden, tmp_path):
    """Copy a golden folder: `copied(PLAIN, "InternVL2-1B")`."""

    def make(name, place="folder"):
        return shutil.copytree(golden / name, tmp_path / place, ignore=shutil.ignore_patterns("golden.*"))

    return make


def edit(folder, setting, value):
    """Change one setting of config.json, a dotted name."""
    config = json.loads((folder / "config.json").read_text())
    *parts, name = setting.split(".")
    target = config[parts[0]] if parts else config
    target.pop(name) if value is GONE else target.update({name: value})
    (folder / "config.json").write_text(json.dumps(config))


NUMBER = "expected a whole number, 1 or more"
ROPE = "llm_config.rope_scaling"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("llm_config.vocab_size", GONE, f"llm_config.vocab_size is missing; {NUMBER}"),
        ("llm_config.vocab_size", "709", f"llm_config.vocab_size is '709'; {NUMBER}"),
        ("llm_config.num_hidden_layers", True, f"llm_config.num_hidden_layers is True; {NUMBER}"),
        ("llm_config.num_key_value_heads", 0, f"llm_config.num_key_value_heads is 0; {NUMBER}"),
        ("llm_config.num_attention_heads", 7, "llm_config.num_attention_heads is 7; expected a multiple of 2"),
        ("llm_config.hidden_size", 60, "llm_config.hidden_size is 60; expected a multiple of 8"),
        ("llm_config.num_key_value_heads", 3, "llm_config.num_attention_heads is 8; expected a multiple of 3"),
        ("vision_config.num_attention_heads", 5, "vision_config.hidden_size is 32; expected a multiple of 5"),
        ("vision_config.patch_size", None, f"vision_config.patch_size is missing; {NUMBER}"),
        ("vision_config.patch_size", 18, "downsample_ratio is 0.5; expected a number that makes whole tokens of 3 patches a side"),
        ("vision_config.norm_type", "batch", "vision_config.norm_type is 'batch'; expected one of layer_norm, rms_norm"),
        ("vision_config.hidden_act", "wave", "vision_config.hidden_act is 'wave'; expected a function such as 'gelu'"),
        ("llm_config.hidden_act", 3, "llm_config.hidden_act is 3; expected a function such as 'silu'"),
        ("llm_config.rope_theta", "big", "llm_config.rope_theta is 'big'; expected a number above 1"),
        ("llm_config.rms_norm_eps", "x", "'rms_norm_eps' expected float, got str"),
        ("llm_config.rope_pos_id_version", "v2pe", "llm_config.rope_pos_id_version is 'v2pe'; expected 'default'"),
        (ROPE, "dynamic", f"{ROPE} is 'dynamic'; expected null, or a type of linear, dynamic"),
        (ROPE, {"factor": 2.0}, f"{ROPE} is {{'factor': 2.0}}; expected null, or a type of linear, dynamic"),
        (ROPE, {"type": "su", "factor": 2.0}, "expected null, or a type of linear, dynamic"),
        (ROPE, {"type": "dynamic"}, f"{ROPE}.factor is missing; expected a number, 1 or more"),
        ("template", GONE, "template is missing; expected one of internlm2-chat"),
        ("template", ["internlm2-chat"], "template is ['internlm2-chat']; expected one of internlm2-chat"),
        ("template", "phi3-chat", "template is 'phi3-chat', whose <|end|> isn't a token of this folder"),
        ("downsample_ratio", "half", "downsample_ratio is 'half'; expected a number"),
        ("select_layer", 9, "select_layer is 9; expected one of the encoder's 3 layers"),
        ("ps_version", GONE, "ps_version is 'v1'; only 'v2' is supported"),
    ],
)
def test_wrong_settings(copied, setting, value, message):
    folder = copied(MONKEY)
    edit(folder, setting, value)
    with pytest.raises(CheckpointError) as caught:
        minimonkey.load(folder, device="cpu")
    line = str(caught.value)
    assert line.startswith(f"{folder / 'config.json'}: ") and message in line and "\n" not in line


@pytest.mark.parametrize(("setting", "value"), [("min_dynamic_patch", "1"), ("max_dynamic_patch", None), ("min_dynamic_patch", 13)])
def test_wrong_numbers_of_tiles(copied, setting, value):
    folder = copied(PLAIN)
    edit(folder, setting, value)
    with pytest.raises(CheckpointError, match=rf"config\.json: {setting} is .*; expected a whole number"):
        minimonkey.load(folder)


def test_norms_of_queries_have_the_one_epsilon_that_the_network_has(copied):
    folder = copied(MONKEY)
    edit(folder, "vision_config.qk_normalization", True)
    edit(folder, "vision_config.layer_norm_eps", 1e-5)
    with pytest.raises(CheckpointError, match="vision_config.layer_norm_eps is 1e-05; expected 1e-06"):
        find_folder(folder).config("native")


@pytest.mark.parametrize("value", [10**6, GONE, None])
def test_a_padding_token_beyond_the_vocabulary_is_none(copied, value):
    folder = copied(MONKEY)
    edit(folder, "llm_config.pad_token_id", value)
    assert find_folder(folder).config("native").text_config.pad_token_id is None
    assert generation_settings(find_folder(folder)).pad_token_id == 2, "the tokenizer's"


def sharded(folder, *, left_out=(), change=dict):
    """One file as two, some tensors left out of them, with a changed index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(weights), {}
    for number in (1, 2):
        file = f"model-{number:05d}-of-00002.safetensors"
        held = names[number - 1 :: 2]
        save_file({name: weights[name] for name in held if name not in left_out}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": change(places)}))


def test_an_index_and_its_shards(copied):
    bias = "mlp1.1.bias"
    folder = copied(PLAIN, "named-not-there")
    sharded(folder, left_out=[bias])
    with pytest.raises(CheckpointError, match=r"1 missing \(mlp1\.1\.bias\)"):
        minimonkey.load(folder)
    folder = copied(PLAIN, "in-a-shard-that-is-not-there")
    sharded(folder, change=lambda places: places | {bias: "model-00003-of-00003.safetensors"})
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.safetensors: missing; get the folder anew"):
        minimonkey.load(folder)
    folder = copied(PLAIN, "there-not-named")
    sharded(folder, change=lambda places: {name: file for name, file in places.items() if name != bias})
    assert minimonkey.load(folder, device="cpu"), "no tensor is missing and none too many"


# -- names -------------------------------------------------------------------------------------------------------------------------


def is_mini_monkey(model):
    """By its name, as nothing in these folders says so: then there is a warning, and else none."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        named = find_folder(model).published.pyramid.adaptive is not None
    assert [str(warning.message).partition(", its")[0] for warning in told] == (
        [f"{model}: pictures are cut as for Mini-Monkey because of this name alone"] if named else []
    )
    return named


def test_a_folder_whose_class_says_mini_monkey_needs_no_name_and_no_warning(copied):
    assert find_folder(copied(MONKEY, "some-model")).published.pyramid.adaptive == (3, 7)
    assert find_folder(copied(MONKEY, "minimonkey-too")).published.pyramid.adaptive == (3, 7)


def test_a_name_is_warned_of_once(copied):
    folder = copied(PLAIN, "minimonkey-lines")
    with pytest.warns(UserWarning, match="because of this name alone, .*; if it is another model, rename the folder") as told:
        vlm = minimonkey.load(folder, device="cpu")
    assert len(told) == 1
    assert vlm.processor.image_processor.spec.adaptive == (3, 7)


def test_the_name_is_that_of_the_folder_not_of_those_around_it(copied, tmp_path, monkeypatch):
    assert not is_mini_monkey(copied(PLAIN, "minimonkey/InternVL2-1B"))
    folder = copied(PLAIN, "others/Mini-Monkey_2B")
    assert is_mini_monkey(folder) and is_mini_monkey(f"{folder}/")
    monkeypatch.chdir(folder)
    assert is_mini_monkey(".")
    monkeypatch.chdir(folder.parent)
    assert is_mini_monkey("Mini-Monkey_2B/") and is_mini_monkey("./Mini-Monkey_2B")
    os.symlink(folder, tmp_path / "current")
    os.symlink(copied(PLAIN, "others/plain"), tmp_path / "minimonkey-link")
    assert is_mini_monkey(tmp_path / "current") and is_mini_monkey(tmp_path / "minimonkey-link")


def test_the_name_in_the_cache_of_the_hub(golden, tmp_path, monkeypatch):
    """Snapshots are folders of links, named by their commits: the name is the repository's, by its id or by a path."""

    def snapshot(repository):
        root = tmp_path / f"models--{repository.replace('/', '--')}"
        place = root / "snapshots" / "0123abcd"
        for part in (place, root / "refs", root / "blobs"):
            part.mkdir(parents=True)
        (root / "refs" / "main").write_text("0123abcd")
        for file in (golden / PLAIN).iterdir():
            shutil.copy(file, root / "blobs" / file.name)
            os.symlink(f"../../blobs/{file.name}", place / file.name)
        return place

    monkeypatch.setattr(folders, "snapshot_download", partial(huggingface_hub.snapshot_download, cache_dir=tmp_path))
    for repository, cip in (("mx262/MiniMonkey", True), ("OpenGVLab/InternVL2-1B", False), ("minimonkey/InternVL2-1B", False)):
        assert is_mini_monkey(snapshot(repository)) == cip
        assert is_mini_monkey(repository) == cip
