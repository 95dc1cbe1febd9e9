"""TinyGPT-V's published files: found by their names, read in their order without running anything, refused in one line each."""

import json
import os
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints.convert import convert
from minimonkey.checkpoints.folder import find_folder
from minimonkey.cli.inspect import report
from minimonkey.cli.main import main
from minimonkey.documents import load_picture
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.evaluation.flops import Shape
from minimonkey.pyramid import Size

STAGE, TOWER, QFORMER = "TinyGPT-V_for_Stage4.pth", "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of the recorded folder."""
    return shutil.copytree(golden / "tinygptv" / "checkpoint", tmp_path / "TinyGPT-V")


def load(folder):
    return minimonkey.load(folder, vision_heads=3)


def read(file):
    return torch.load(file, weights_only=True)


def change(folder, stage=None, **tensors):
    """Put tensors into the stage file's model, None takes one out; `stage` maps other names to values."""
    content = read(folder / STAGE) | (stage or {})
    content["model"] = {name: value for name, value in (content["model"] | tensors).items() if value is not None}
    torch.save(content, folder / STAGE)


def logits(vlm, side=448):
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([vlm.processor.encode_chat("what is this?", pictures=[1])])
    with torch.no_grad():
        return vlm.model(input_ids=ids, pixel_values=pixels).logits


@pytest.fixture(scope="module")
def recorded_logits(recorded_tinygptv):
    return logits(recorded_tinygptv)


# -- what loads, and what it answers ----------------------------------------------------------------------------------


def test_recorded_answers(recorded_tinygptv, golden):
    """One by one, in a batch, streamed and of an open picture."""
    recorded = json.loads((golden / "tinygptv" / "golden.json").read_text())
    images = golden / "tinygptv" / "images"
    pictures = [load_picture(images / f"scene_{letter}.png", as_published=True) for letter in "cd"]
    rows, vlm = list(zip(pictures, recorded["questions"], strict=True)), recorded_tinygptv
    due = [row[1:] for row in recorded["cases"]["generate_batch"]["sequences"]]
    settings = {"max_new_tokens": 16}
    assert [answer.token_ids for answer in vlm.batch(rows, **settings)] == due
    answer = vlm.ask(*rows[0], **settings)
    assert answer.token_ids == due[0] == recorded["cases"]["generate_single0"]["sequences"][0][1:]
    assert (answer.prompt_tokens, answer.image_tokens) == (97, 32)
    assert answer.text == recorded["cases"]["generate_single0"]["answers"][0]
    assert "".join(vlm.stream(*rows[1], **settings)) == vlm.ask(*rows[1], **settings).text
    with vlm.open(pictures[1]) as opened:
        assert [opened.ask(rows[1][1], **settings).token_ids for _ in range(2)] == [due[1]] * 2


def test_an_answer_ends_at_three_hashes(recorded_tinygptv):
    assert recorded_tinygptv.model.generation_config.eos_token_id == [426, 257]


def test_a_picture_of_one_pixel(recorded_tinygptv):
    answer = recorded_tinygptv.ask(torch.zeros(1, 1, 3, dtype=torch.uint8).numpy(), "what?", max_new_tokens=2)
    assert answer.image_tokens == 32


def test_later_peft_names_updates_otherwise(folder, recorded_logits):
    content = read(folder / STAGE)
    for name in [name for name in content["model"] if ".lora_" in name]:
        content["model"][name.replace(".weight", ".default.weight")] = content["model"].pop(name)
    torch.save(content, folder / STAGE)
    assert torch.equal(logits(load(folder)), recorded_logits)


def test_todays_phi_2_has_three_matrices(folder, recorded_logits):
    file = folder / "phi-2" / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".query_key_value." in name]:
        parts = tensors.pop(name).unflatten(0, (4, 3, 20)).unbind(1)
        for letter, part in zip("qkv", parts, strict=True):
            tensors[name.replace("query_key_value", f"{letter}_proj")] = part.flatten(0, 1).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    assert torch.equal(logits(load(folder)), recorded_logits)


def test_later_files_go_before_earlier_ones(folder, recorded_tinygptv):
    """A stage file of the older training code holds the Q-Former's queries too."""
    change(folder, query_tokens=torch.ones(1, 32, 32))
    assert load(folder).model.model.query_tokens.eq(1).all()


def test_a_block_too_many_and_a_head_are_left_out(folder, recorded_logits, monkeypatch):
    """EVA ViT-g's file has forty blocks, of which thirty-nine are used."""
    monkeypatch.setattr("minimonkey.checkpoints.tinygptv_names.VISION_BLOCKS", 2)
    monkeypatch.setattr("minimonkey.checkpoints.tinygptv_settings.VISION_BLOCKS", 2)
    tower = read(folder / TOWER)
    more = {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in tower.items() if name.startswith("blocks.1.")}
    torch.save(tower | more | {"norm.weight": torch.ones(48), "head.weight": torch.ones(3, 48)}, folder / TOWER)
    assert torch.equal(logits(load(folder)), recorded_logits)


def test_a_stage_is_chosen_by_its_file(folder):
    """The latest one if the folder is named."""
    content = read(folder / STAGE)
    content["config"]["model"]["arch"] = "minigpt4"
    content["model"]["llama_proj2.bias"] += 1
    torch.save(content, folder / "TinyGPT-V_for_Stage3.pth")
    last, third = load(folder), load(folder / "TinyGPT-V_for_Stage3.pth")
    assert (last.processor.image_processor.spec.tile_px, third.processor.image_processor.spec.tile_px) == (448, 224)
    biases = [vlm.model.model.multi_modal_projector.linear_2.bias for vlm in (last, third)]
    assert torch.allclose(biases[1] - biases[0], torch.ones(80))


def test_without_bert_settings_those_of_bert_base(folder):
    shutil.rmtree(folder / "bert-base-uncased")
    with pytest.raises(
        CheckpointError, match="the Q-Former is 32 wide, not BERT base's 768: put its bert-base-uncased/config.json"
    ):
        load(folder)


# -- converted ----------------------------------------------------------------------------------


def test_a_converted_folder_needs_none_of_them(golden, tmp_path, recorded_logits, recorded_tinygptv):
    native = tmp_path / "native"
    convert(golden / "tinygptv" / "checkpoint", native, to="native", vision_heads=3)
    assert not list(native.rglob("*.pth")) and not (native / "published").exists()
    vlm = minimonkey.load(native)
    assert torch.equal(logits(vlm), recorded_logits)
    assert vlm.model.generation_config.eos_token_id == [426, 257]
    ours, theirs = (dict(one.model.named_parameters()) for one in (vlm, recorded_tinygptv))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = report(vlm.processor.image_processor.spec.plan(Size(30, 40)), Shape.of("it", vlm.model.config)).splitlines()
    assert lines[-2].startswith("32 image tokens, 32 a tile") and lines[-1].startswith("estimated cost on it: 542 MFLOP")
    again = tmp_path / "again"
    convert(native, again, to="native")
    assert (again / "model.safetensors").read_bytes() == (native / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="vision_heads=3: the files of .* say that themselves; leave it out"):
        load(native)


@pytest.mark.parametrize("layout", ["stock", "published"])
def test_no_other_layout_is_written(golden, tmp_path, layout):
    with pytest.raises(UsageError, match="convert it to native"):
        convert(golden / "tinygptv" / "checkpoint", tmp_path / "out", to=layout, vision_heads=3)
    assert not (tmp_path / "out").exists()


def test_the_command_line(golden, capsys):
    folder = golden / "tinygptv"
    words = [str(folder / "images" / "scene_c.png"), "[vqa] what is running?", "--max-new-tokens", "2", "-q"]
    with pytest.raises(SystemExit) as left:
        main(["ask", "-m", str(folder / "checkpoint"), "--vision-heads", "3", *words])
    assert left.value.code in (0, None) and capsys.readouterr().out.strip()
    with pytest.raises(SystemExit) as left:
        main(["ask", "-m", str(folder / "checkpoint"), *words])
    assert left.value.code == 2 and "--vision-heads" in capsys.readouterr().err


# -- refused ----------------------------------------------------------------------------------


class Trap:
    """An object whose making would leave a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (self.file,))


def test_the_hub_has_stage_files_alone():
    with pytest.raises(
        CheckpointError, match=r"has stage files alone; .* phi-2/ \(.*eva_vit_g.pth \(.*blip2_pretrained_flant5xxl.pth \("
    ):
        minimonkey.load("Tyrannosaurus/TinyGPT-V")


@pytest.mark.parametrize("name", ["phi-2", TOWER, QFORMER])
def test_a_source_that_isnt_there(folder, name):
    file = folder / name
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    with pytest.raises(CheckpointError, match=rf"holds what was trained alone; put beside it {name}/? \(from"):
        find_folder(folder)


def test_the_engine_is_torch(golden):
    with pytest.raises(UsageError, match="engine='openvino' reads with .*; this language model is tinygptv_text: leave engine out"):
        minimonkey.load(golden / "tinygptv" / "checkpoint", vision_heads=3, engine="openvino")


def test_heads_that_no_file_says(folder):
    with pytest.raises(CheckpointError, match="48 wide, and how many attention heads it has is in no file: say vision_heads="):
        minimonkey.load(folder)
    with pytest.raises(UsageError, match="vision_heads=5: expected a whole number that divides the vision encoder's width, 48"):
        minimonkey.load(folder, vision_heads=5)
    with pytest.raises(UsageError, match="vision_heads=3: the files of"):
        minimonkey.load(vision_heads=3)


@pytest.mark.parametrize("name", [STAGE, TOWER, QFORMER])
def test_objects_are_not_made(folder, tmp_path, name):
    trap = tmp_path / "sprung"
    torch.save({"model": {"llama_proj.weight": Trap(str(trap))}}, folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: holds something else than tensors.*nothing in it was run"):
        find_folder(folder)
    assert not trap.exists()


@pytest.mark.parametrize("name", [STAGE, TOWER, QFORMER])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=f"{name}: .*cut short") as refused:
        find_folder(folder, vision_heads=3)
    assert "\n" not in str(refused.value)


def test_a_shard_cut_short(folder):
    file = folder / "phi-2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors: broken or cut short"):
        find_folder(folder, vision_heads=3)


def test_a_file_before_torch_1_6_is_read(folder, recorded_logits):
    torch.save(read(folder / TOWER), folder / TOWER, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / TOWER)
    assert torch.equal(logits(load(folder)), recorded_logits)


def test_another_stage_than_the_name_says(folder):
    (folder / STAGE).rename(folder / "TinyGPT-V_for_Stage2.pth")
    with pytest.raises(
        CheckpointError, match=r"settings are of another stage \(class 'minigpt_v2', pictures of 448 px\) than by its name"
    ):
        load(folder)


def test_another_models_file(folder):
    torch.save({"model": {"mm_projector.weight": torch.ones(2)}}, folder / STAGE)
    with pytest.raises(CheckpointError, match="has no llama_proj"):
        find_folder(folder)
    torch.save({"epoch": 3}, folder / STAGE)
    with pytest.raises(CheckpointError, match="holds epoch; expected a stage's tensors under 'model'"):
        find_folder(folder)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"llama_proj2.weight": torch.ones(81, 4096)}, r"of another shape \(llama_proj2.weight \[81, 4096\] for \[80, 4096\]\)"),
        ({"llama_proj3.weight": torch.ones(2)}, r"1 not expected \(llama_proj3.weight\)"),
        ({"llama_proj.bias": None}, r"1 missing \(model.multi_modal_projector.linear_1.bias\)"),
        (
            {"llama_model.base_model.model.model.layers.7.input_layernorm.weight": torch.ones(80)},
            r"1 not expected \(llama_model.base_model.model.model.layers.7.input_layernorm.weight\)",
        ),
    ],
)
def test_tensors_that_dont_fit(folder, tensors, message):
    change(folder, **tensors)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_rank_that_the_updates_dont_have(folder):
    change(folder, stage={"config": {"model": {"lora_r": 8}}})
    with pytest.raises(CheckpointError, match="lora_r is 8, but its updates have rank 64"):
        load(folder)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_attention_heads", "4", "num_attention_heads of Phi-2's config.json is '4'; expected a whole number"),
        ("num_attention_heads", 3, "hidden_size is no multiple of its num_attention_heads"),
        ("rope_scaling", {"type": "linear", "factor": 2}, "rope_scaling of Phi-2's config.json is"),
        ("num_hidden_layers", 4, "missing"),
    ],
)
def test_settings_of_phi_2_that_cant_be(folder, setting, value, message):
    file = folder / "phi-2" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {setting: value}))
    with pytest.raises(CheckpointError, match=message):
        load(folder)
