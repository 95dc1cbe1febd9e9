"""Parity with the published implementation of Monkey, through load() and ask(): golden data of tests/golden/monkey, float32.

Tolerances are those that came with the data (its README): pixels 1e-5, vision features 1e-4, hidden states, logits and scores 1e-3,
losses 1e-4, gradient norms 1e-3 relative, integers equal. Greedy margins are 0.04 at least.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import minimonkey
from minimonkey.checkpoints.family import published_shapes
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.rules import disk_name, to_published
from minimonkey.checkpoints.tensors import LazyTensor
from minimonkey.models.monkey.vision import resized

PICTURES = {"vqa_a": "a", "vqa_b": "b", "caption_b": "b", "two_images": "ab", "text_only": ""}
"""Which pictures each prompt of the records has."""
NEW = {"max_new_tokens": 16, "min_new_tokens": 1, "do_sample": False}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "monkey"


@pytest.fixture(scope="module")
def records(folder):
    return json.loads((folder / "golden.json").read_text())


@pytest.fixture(scope="module")
def llm(folder):
    return np.load(folder / "llm.npz")


@pytest.fixture(scope="module")
def vlm(folder):
    return minimonkey.load(folder / "checkpoint", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def changed(folder, tmp_path_factory):
    """Load the checkpoint with other values in its config.json."""

    def make(**settings):
        copy = tmp_path_factory.mktemp("monkey")
        shutil.copytree(folder / "checkpoint", copy, dirs_exist_ok=True)
        known = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(known | settings))
        return minimonkey.load(copy, device="cpu", dtype="float32")

    return make


@pytest.fixture(scope="module")
def pictures(folder):
    return {name: Image.open(folder / "images" / f"scene_{name}.png") for name in "ab"}


def close(ours, theirs, tolerance):
    torch.testing.assert_close(torch.as_tensor(np.asarray(ours)), torch.as_tensor(theirs), rtol=0, atol=tolerance)


def inputs_of(vlm, pictures, records, case):
    given = [pictures[name] for name in PICTURES[case]]
    return vlm.processor(images=given or None, text=[records["prompts"][case]], return_tensors="pt")


@pytest.mark.parametrize("name", "ab")
def test_pixels(vlm, pictures, folder, name):
    record = np.load(folder / f"pixels_{name}.npz")
    inputs = vlm.processor.image_processor(images=[pictures[name]], return_tensors="pt")
    views = inputs["pixel_values"]
    assert (views.shape, inputs["level_tiles"].tolist()) == ((5, 3, 448, 448), [[4, 0, 1]])
    close(views[:, :, ::8, ::8], record["pixels_stride8"], 1e-5)
    close(views[:, :, 440:448, 440:448], record["crop_seam"], 1e-5)
    close(views.double().mean(dim=(2, 3)), record["mean"], 1e-5)
    close(views.double().std(dim=(2, 3)), record["std"], 1e-5)
    close(views.amin(dim=(2, 3)), record["amin"], 1e-5)
    close(views.amax(dim=(2, 3)), record["amax"], 1e-5)


@pytest.mark.parametrize("name", "ab")
def test_features(vlm, pictures, folder, name):
    record = np.load(folder / f"vision_{name}.npz")
    pixels = vlm.processor.image_processor(images=[pictures[name]], return_tensors="pt")
    with torch.no_grad():
        features = vlm.model.get_image_features(
            pixel_values=pixels["pixel_values"], level_tiles=pixels["level_tiles"]
        ).pooler_output
        assumed = vlm.model.get_image_features(pixel_values=pixels["pixel_values"]).pooler_output
        bare = vlm.model.model.encode_tiles(pixels["pixel_values"][:4]).pooler_output
    close(features[:, ::8], record["features_q8"], 1e-4)
    close(features.double().mean(dim=1), record["features_mean"], 1e-4)
    close(features.double().square().mean(dim=1), record["features_sq_mean"], 1e-4)
    close(bare[:, ::32], record["no_lora_q32"], 1e-4)
    assert torch.equal(assumed, features), "without level_tiles, four windows and a global view a picture"


def test_states_within_the_encoder(vlm, pictures, folder):
    record = np.load(folder / "vision_a.npz")
    pixels = vlm.processor.image_processor(images=[pictures["a"]], return_tensors="pt")["pixel_values"]
    model = vlm.model.model
    with torch.no_grad():
        encoded = model.vision_tower(pixels[[1, 4]], torch.tensor([1, 4]), output_hidden_states=True)
        gathered = model.multi_modal_projector.attend(encoded.last_hidden_state)
        normed = model.multi_modal_projector.post_norm(gathered)
    for view, place in (("window_row0_col1", 0), ("global", 1)):
        for state, name in zip(encoded.hidden_states, ("ln_pre", "block0", "block1"), strict=True):
            close(state[place, ::64], record[f"{view}__{name}"], 1e-4)
        close(gathered[place, ::16], record[f"{view}__resampler"], 1e-4)
        close(normed[place, ::16], record[f"{view}__ln_post"], 1e-4)


def test_position_tables(vlm, folder):
    record = np.load(folder / "pos_interp.npz")
    model = vlm.model.model
    close(resized(model.vision_tower.position_embedding, 1024).detach()[::16], record["vit_pos_1024_stride16"], 1e-5)
    close(resized(model.multi_modal_projector.position_embedding, 1024).detach()[::16], record["resampler_pos_1024_stride16"], 1e-5)


@pytest.mark.parametrize("case", PICTURES)
def test_logits_states_and_ids(vlm, pictures, records, llm, case):
    inputs, positions = inputs_of(vlm, pictures, records, case), llm[f"{case}__positions"]
    assert inputs["input_ids"].shape == (1, records["cases"][case]["n_tokens"])
    with torch.no_grad():
        output = vlm.model(**inputs, output_hidden_states=True)
    close(output.logits[0, positions], llm[f"{case}__logits"], 1e-3)
    assert output.logits[0].argmax(dim=-1).tolist() == llm[f"{case}__argmax"].tolist()
    if f"{case}__hidden0" in llm:
        for state, name in zip(output.hidden_states, ("hidden0", "hidden1", "hidden_final"), strict=True):
            close(state[0, positions[::3]], llm[f"{case}__{name}"], 1e-3)
    written = vlm.model.generate(**inputs, **NEW, output_scores=True, return_dict_in_generate=True)
    assert written.sequences[0, inputs["input_ids"].shape[1] :].tolist() == records["cases"][case]["greedy_ids"]
    if f"{case}__step_scores" in llm:
        theirs, ours = torch.from_numpy(llm[f"{case}__step_scores"]), torch.cat(written.scores)
        assert torch.equal(theirs.isinf(), ours.isinf())
        close(ours.nan_to_num(neginf=0), theirs.nan_to_num(neginf=0), 1e-3)


@pytest.mark.parametrize("case", ["vqa_a", "two_images"])
def test_published_ids_with_the_names_of_files(vlm, pictures, records, llm, case):
    """The bytes of a file's name stand among the image tokens, and features take their places."""
    inputs = dict(inputs_of(vlm, pictures, records, case)) | {"input_ids": torch.from_numpy(llm[f"{case}__input_ids"]).long()[None]}
    assert vlm.processor.tokenizer(records["prompts"][case]).input_ids == inputs["input_ids"][0].tolist()
    with torch.no_grad():
        close(vlm.model(**inputs).logits[0, llm[f"{case}__positions"]], llm[f"{case}__logits"], 1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "cases"),
    [
        ("seq_length512", {"seq_length": 512}, ["vqa_a", "text_only"]),
        ("no_ntk_no_logn", {"use_dynamic_ntk": False, "use_logn_attn": False}, ["two_images"]),
    ],
)
def test_beyond_the_length_of_training(changed, pictures, records, llm, name, settings, cases):
    vlm = changed(**settings)
    for case in cases:
        inputs, key = inputs_of(vlm, pictures, records, case), f"{case}@{name}"
        with torch.no_grad():
            logits = vlm.model(**inputs).logits[0]
        close(logits[llm[f"{key}__positions"]], llm[f"{key}__logits"], 1e-3)
        assert logits.argmax(dim=-1).tolist() == llm[f"{key}__argmax"].tolist()
        if "greedy_ids" in records["cases"][key]:
            written = vlm.model.generate(**inputs, **NEW)[0, inputs["input_ids"].shape[1] :].tolist()
            assert written == records["cases"][key]["greedy_ids"]


def test_a_batch_padded_on_the_left(vlm, pictures, records, llm):
    record = records["cases"]["batch_left_padded"]
    given = [pictures["a"], pictures["b"]]
    inputs = vlm.processor(images=given, text=[records["prompts"][case] for case in record["prompts"]], return_tensors="pt")
    assert inputs["attention_mask"].tolist() == llm["batch__attention_mask"].tolist()
    written = vlm.model.generate(**inputs, **NEW, output_scores=True, return_dict_in_generate=True)
    close(written.scores[0].nan_to_num(neginf=0), np.nan_to_num(llm["batch__first_scores"], neginf=0), 1e-3)
    assert written.sequences[:, inputs["input_ids"].shape[1] :].tolist() == record["greedy_ids"]


def test_ask_and_batch_answer_as_recorded(vlm, pictures, records):
    settings = {"max_new_tokens": 16, "min_new_tokens": 1}
    question = records["prompts"]["vqa_a"].removeprefix("<img>images/scene_a.png</img> ").removesuffix(" Answer: ")
    answer = vlm.ask(pictures["a"].convert("RGB"), question, **settings)
    assert answer.token_ids == records["cases"]["vqa_a"]["greedy_ids"]
    assert answer.text == records["cases"]["vqa_a"]["greedy_text"].strip()
    assert (answer.image_tokens, answer.prompt_tokens) == (1280, 1295)
    (pyramid,) = answer.pyramids
    assert (tuple(pyramid.detail.grid), pyramid.adaptive, pyramid.thumbnail.grid.tiles) == ((2, 2), None, 1)
    rows = [(pictures["a"].convert("RGB"), question), ([], "What is it?")]
    assert vlm.batch(rows, **settings)[0].token_ids == answer.token_ids


@pytest.fixture(scope="module")
def sample(folder):
    return {name: torch.from_numpy(tensor).long() for name, tensor in np.load(folder / "training.npz").items()}


def test_losses(vlm, pictures, records, sample):
    """In evaluation mode, the batch and each row alone."""
    record = records["training"]
    images = vlm.processor.image_processor(images=[pictures["a"], pictures["b"]], return_tensors="pt")
    pixels = {name: images[name] for name in ("pixel_values", "level_tiles")}
    with torch.no_grad():
        assert vlm.model(**sample, **pixels).loss.item() == pytest.approx(record["loss_eval_mode"], abs=1e-4)
        for row, theirs in enumerate(record["loss_eval_mode_single"]):
            one = {name: tensor[row : row + 1] for name, tensor in sample.items()}
            views = {
                "pixel_values": pixels["pixel_values"][5 * row : 5 * row + 5],
                "level_tiles": pixels["level_tiles"][row : row + 1],
            }
            assert vlm.model(**one, **views).loss.item() == pytest.approx(theirs, abs=1e-4)


def test_training_samples_are_encoded_as_published(vlm, records, sample):
    processor, end = vlm.processor, vlm.processor.tokenizer.eos_token_id
    for row, turns in enumerate(records["training"]["samples"]):
        asked, answer = turns[0]["value"], turns[1]["value"]
        ids = processor.tokenizer(asked).input_ids
        labels = [-100] * len(ids) + processor.encode_answer(answer)
        ids += processor.encode_answer(answer)
        assert sample["input_ids"][row].tolist() == ids + [end] * (1360 - len(ids))
        assert sample["labels"][row].tolist() == labels + [-100] * (1360 - len(labels))
        question = asked.split("</img> ")[1]
        ours = processor.encode_chat(question.removesuffix(" Answer: "), pictures=[5])
        assert [token if token > 255 else 688 for token in ids[1:1281]] == ours[1:1281]
        assert ours[1281:] == ids[1281 : len(ours)]


def test_gradients(changed, pictures, records, sample):
    """Training mode without dropout, frozen as published: of the encoder only adapters and the resampler's attention learn."""
    vlm = changed()
    record = records["training"]["grad_norm"]
    model = vlm.model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.model.freeze_as_published()
    images = vlm.processor.image_processor(images=[pictures["a"], pictures["b"]], return_tensors="pt")
    loss = model(**sample, pixel_values=images["pixel_values"], level_tiles=images["level_tiles"]).loss
    assert loss.item() == pytest.approx(records["training"]["loss_train_mode_dropout0"], abs=1e-4)
    loss.backward()
    trained = {disk_name(name): tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    lazy = {name: LazyTensor(tuple(t.shape), lambda t=t: t.grad) for name, t in trained.items()}
    norms = {
        name: tensor[...].norm().item()
        for name, tensor in to_published(lazy, find_folder(vlm.model.name_or_path).published.rules).items()
    }
    theirs = {name: norm for name, norm in record.items() if norm is not None}
    assert norms.keys() == theirs.keys()
    assert norms == pytest.approx(theirs, rel=1e-3)


def test_a_wrong_weight_is_noticed(folder, pictures, records, llm):
    vlm = minimonkey.load(folder / "checkpoint", device="cpu", dtype="float32")
    inputs = inputs_of(vlm, pictures, records, "vqa_a")
    with torch.no_grad():
        vlm.model.model.vision_tower.layers[1].mlp_adapters.lora_scale[2] *= 1.5
        logits = vlm.model(**inputs).logits[0, llm["vqa_a__positions"]]
    assert (logits - torch.from_numpy(llm["vqa_a__logits"])).abs().max() > 1e-2


def test_every_tensor_has_its_published_name(vlm, folder):
    shapes = {disk_name(name): tuple(tensor.shape) for name, tensor in vlm.model.state_dict().items()}
    with find_folder(folder / "checkpoint").published.published_tensors() as tensors:
        theirs = {name: tensor.shape for name, tensor in tensors.items()}
    assert published_shapes(shapes, find_folder(folder / "checkpoint").published.rules) == theirs
