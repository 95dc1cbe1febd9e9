"""Parity with the published implementations, through load() and ask(): golden data of tests/golden, float32 on the CPU.

Tolerances are those that came with the data: 1e-4 for features, logits and losses, 1e-3 for gradient norms, integers equal, greedy
ids up to the first step whose two largest logits are less than 0.002 apart.
"""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import minimonkey
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.rules import disk_name, to_published
from minimonkey.checkpoints.tensors import LazyTensor
from minimonkey.compression.spec import CompressionSpec
from minimonkey.processing.image_processor import tiles_uint8
from minimonkey.pyramid import PyramidSpec

MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"
DEMO = {"order": ("adaptive", "detail", "thumbnail")}
TRAIN = {"detail": (1, 8), "adaptive": (1, 4), "exclude": "either"}
SECTIONS = [(MONKEY, "demo", DEMO), (MONKEY, "eval_order", {}), (PLAIN, "plain", {})]
PICTURES = ("wide_receipt", "near_square")


@pytest.fixture(scope="module")
def loaded(golden):
    """Model, golden.json and golden.safetensors of a published folder."""

    def make(name):
        vlm = minimonkey.load(golden / name, device="cpu", dtype="float32")
        return vlm, json.loads((golden / name / "golden.json").read_text()), load_file(golden / name / "golden.safetensors")

    return {name: make(name) for name in (MONKEY, PLAIN)}


@pytest.fixture(scope="module")
def pictures(golden):
    return {name: Image.open(golden / "pixels" / f"{name}.png").convert("RGB") for name in PICTURES}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def same_ids(ours, record, theirs):
    """Greedy ids, the end token included if it was reached, as far as the margins decide them."""
    margins = torch.tensor(record["gen_top2_margins"]).flatten()
    sure = next((step for step, margin in enumerate(margins.tolist()) if margin < 0.002), len(theirs))
    assert ours[:sure] == theirs[:sure]
    assert sure >= 10, "the record decides enough"


def ask(vlm, pictures, record, **settings):
    history = [tuple(turn) for turn in record["history_in"] or []]
    return vlm.ask(pictures, record["question"], history=history, max_new_tokens=24, min_new_tokens=1, **settings)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("name", "section", "pyramid"), SECTIONS)
def test_one_picture(loaded, pictures, name, section, pyramid, picture):
    vlm, records, tensors = loaded[name]
    spec = dataclasses.replace(vlm.processor.image_processor.spec, **pyramid)
    key = f"{picture}/{section}"
    if f"{key}/tiles_u8" in tensors:
        assert torch.equal(torch.from_numpy(tiles_uint8(pictures[picture].convert("RGB"), spec)), tensors[f"{key}/tiles_u8"])
    for turn in ("chat", "turn2"):
        record = records["images"][picture][section].get(turn)
        if not record:
            continue
        history = [tuple(pair) for pair in record["history_in"] or []]
        text = vlm.processor.prompt(record["question"], pictures=1, history=history)
        inputs = vlm.processor(images=[pictures[picture]], text=[text], pyramid=spec, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], tensors[f"{key}/{turn}/input_ids"])
        with torch.no_grad():
            output = vlm.model(**inputs, output_hidden_states=True)
        close(output.logits[0, record["logit_positions"]], tensors[f"{key}/{turn}/logits"])
        if f"{key}/{turn}/hidden_last_pos" in tensors:
            close(torch.stack([hidden[0, -1] for hidden in output.hidden_states]), tensors[f"{key}/{turn}/hidden_last_pos"])
        answer = ask(vlm, pictures[picture], record, pyramid=spec)
        theirs = [token for token in tensors[f"{key}/{turn}/gen_ids"][0].tolist() if token != record["eos_token_id"]]
        same_ids(answer.token_ids, record, theirs)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("name", "section", "pyramid"), [SECTIONS[0], SECTIONS[2]])
def test_vision_features(loaded, pictures, name, section, pyramid, picture):
    vlm, _, tensors = loaded[name]
    pixels = vlm.processor.image_processor(
        images=[pictures[picture]], pyramid=dataclasses.replace(vlm.processor.image_processor.spec, **pyramid), return_tensors="pt"
    )["pixel_values"]
    if f"{picture}/{section}/pixel_values_first2" in tensors:
        assert torch.equal(pixels[:2], tensors[f"{picture}/{section}/pixel_values_first2"])
    with torch.no_grad():
        output = vlm.model.get_image_features(pixel_values=pixels)
        embeddings = vlm.model.model.vision_tower.embeddings(pixels[:1])
    close(output.pooler_output, tensors[f"{picture}/{section}/vit_features"])
    close(output.last_hidden_state[0], tensors[f"{picture}/{section}/vit_last_hidden_tile0"])
    close(embeddings[0] if embeddings.ndim == 3 else embeddings[0][0], tensors[f"{picture}/{section}/vit_embeddings_tile0"])


@pytest.mark.parametrize("name", [MONKEY, PLAIN])
def test_text_alone_and_two_pictures(loaded, pictures, name):
    vlm, records, tensors = loaded[name]
    spec = dataclasses.replace(vlm.processor.image_processor.spec, **(DEMO if name == MONKEY else {}))
    for key, given, record in (
        ("text_only", [], records["text_only"]),
        ("two_images", [pictures[name] for name in PICTURES], records["two_images"]["chat"]),
    ):
        text = vlm.processor.prompt(record["question"], pictures=len(given))
        inputs = vlm.processor(images=given or None, text=[text], pyramid=spec, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], tensors[f"{key}/input_ids"])
        with torch.no_grad():
            close(vlm.model(**inputs).logits[0, record["logit_positions"]], tensors[f"{key}/logits"])
        theirs = [token for token in tensors[f"{key}/gen_ids"][0].tolist() if token != record["eos_token_id"]]
        same_ids(ask(vlm, given, record, pyramid=spec).token_ids, record, theirs)


@pytest.mark.parametrize("name", [MONKEY, PLAIN])
def test_a_batch_padded_on_the_left(loaded, pictures, name):
    vlm, records, tensors = loaded[name]
    record = records["batch"]
    spec = dataclasses.replace(vlm.processor.image_processor.spec, **(DEMO if name == MONKEY else {}))
    given = [pictures[picture] for picture in record["images"]]
    text = [vlm.processor.prompt(question, pictures=1) for question in record["questions"]]
    inputs = vlm.processor(images=given, text=text, pyramid=spec, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], tensors["batch/input_ids"])
    assert torch.equal(inputs["attention_mask"], tensors["batch/attention_mask"])
    sequences = vlm.model.generate(**inputs, max_new_tokens=24, do_sample=False, output_scores=True, return_dict_in_generate=True)
    close(sequences.scores[0], tensors["batch/first_step_scores"])
    answers = vlm.batch(list(zip(given, record["questions"], strict=True)), pyramid=spec, max_new_tokens=24)
    for row, answer in enumerate(answers):
        theirs = tensors["batch/gen_ids"][row].tolist()
        theirs = theirs[: theirs.index(record["eos_token_id"])] if record["eos_token_id"] in theirs else theirs
        same_ids(answer.token_ids, {"gen_top2_margins": record["gen_top2_margins"][row]}, theirs)


@pytest.mark.parametrize("name", [MONKEY, PLAIN])
def test_training_loss_and_gradients(loaded, pictures, golden, name):
    vlm, records, tensors = loaded[name]
    spec = dataclasses.replace(vlm.processor.image_processor.spec, **(TRAIN if name == MONKEY else {}))
    pixels = {}
    for picture in PICTURES:
        pixels[picture] = vlm.processor.image_processor(images=[pictures[picture]], pyramid=spec, return_tensors="pt")[
            "pixel_values"
        ]
        ids, labels = tensors[f"{picture}/train/input_ids"], tensors[f"{picture}/train/labels"]
        check_step(
            vlm.model,
            golden / name,
            records["images"][picture]["train"],
            input_ids=ids,
            pixel_values=pixels[picture],
            labels=labels,
        )
    ids, labels = tensors["train_batch/input_ids"], tensors["train_batch/labels"]
    together = torch.cat([pixels[picture] for picture in PICTURES])
    mask = (ids != 0).long()
    assert mask.sum(1).tolist() == records["train_batch"]["attention_mask_sum"]
    check_step(
        vlm.model, golden / name, records["train_batch"], input_ids=ids, attention_mask=mask, pixel_values=together, labels=labels
    )


def check_step(model, folder, record, **inputs):
    """The loss of a training sample, and the norms of its gradients by the published names of their tensors."""
    model.zero_grad()
    output = model(**inputs)
    close(output.loss, torch.tensor(record["loss"]))
    output.loss.backward()
    gradients = {
        disk_name(name): LazyTensor(tuple(parameter.shape), lambda parameter=parameter: parameter.grad)
        for name, parameter in model.named_parameters()
    }
    published = to_published(gradients, find_folder(folder).published.rules)
    for key, norm in record["grad_norms"].items():
        assert float(published[key][...].norm()) == pytest.approx(norm, rel=1e-3), key
    model.zero_grad()


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("section", "turn"), [("demo", "chat_scm"), ("eval_order", "chat_scm"), ("eval_order", "turn2_scm")])
def test_published_compression_through_ask(loaded, pictures, golden, picture, section, turn):
    vlm, records, tensors = loaded[MONKEY]
    record = records["images"][picture][section][turn]
    spec = dataclasses.replace(vlm.processor.image_processor.spec, **(DEMO if section == "demo" else {}))
    theirs = tensors[f"{picture}/{section}/{turn}/gen_ids"][0].tolist()
    for compression in ({"selector": "scm-reference"}, CompressionSpec(selector="scm-reference", keep_ratio=0.5)):
        answer = ask(vlm, pictures[picture], record, pyramid=spec, compression=compression)
        same_ids(answer.token_ids, record, [token for token in theirs if token != record["eos_token_id"]])
    by_default = minimonkey.load(golden / MONKEY, device="cpu", compression={"selector": "scm-reference"})
    assert ask(by_default, pictures[picture], record, pyramid=spec).token_ids == answer.token_ids


def test_compression_knows_the_order_of_the_levels(loaded, pictures):
    """With the detail level last or first, `scm` prunes detail tokens alone."""
    vlm, _, _ = loaded[MONKEY]
    settings = {"compression": {"selector": "scm"}, "max_new_tokens": 2}
    ((first,), (last,)) = (vlm.ask(pictures["wide_receipt"], "Read.", pyramid=cut, **settings).selections for cut in ({}, DEMO))
    tokens = last.detail.stop - last.detail.start
    assert first.detail.stop - first.detail.start == tokens == 12 * 4
    assert last.detail.start - first.detail.start == 4 * 4, "the four adaptive tiles come before"


def test_dynamic_rope(loaded, pictures, golden, tmp_path):
    """A prompt longer than the window: the base grows with the length, anew for each prompt."""
    _, records, tensors = loaded[MONKEY]
    record = records["small_rope_window"]["chat"]
    shutil.copytree(golden / MONKEY, tmp_path / MONKEY)
    config = json.loads((tmp_path / MONKEY / "config.json").read_text())
    config["llm_config"]["max_position_embeddings"] = records["small_rope_window"]["max_position_embeddings"]
    (tmp_path / MONKEY / "config.json").write_text(json.dumps(config))
    vlm = minimonkey.load(tmp_path / MONKEY, device="cpu", dtype="float32", pyramid=DEMO)
    chat = records["images"]["wide_receipt"]["demo"]["chat"]
    inputs = vlm.processor(
        images=[pictures["wide_receipt"]], text=[vlm.processor.prompt(chat["question"], pictures=1)], return_tensors="pt"
    )
    for _ in range(2):
        with torch.no_grad():
            close(vlm.model(**inputs).logits[0, record["logit_positions"]], tensors["small_rope_window/logits"])
        answer = vlm.ask(pictures["wide_receipt"], chat["question"], max_new_tokens=24)
        same_ids(answer.token_ids, record, tensors["small_rope_window/gen_ids"][0].tolist())


def test_one_changed_weight_is_seen(loaded, pictures, golden, tmp_path):
    """The comparison can fail: a single value changed in one matrix moves the logits beyond the tolerance."""
    _, records, tensors = loaded[PLAIN]
    shutil.copytree(golden / PLAIN, tmp_path / PLAIN)
    weights = load_file(tmp_path / PLAIN / "model.safetensors")
    weights["vision_model.encoder.layers.1.attn.qkv.weight"][40, 3] += 2.0
    save_file(weights, tmp_path / PLAIN / "model.safetensors", {"format": "pt"})
    vlm = minimonkey.load(tmp_path / PLAIN, device="cpu", dtype="float32")
    record = records["images"]["wide_receipt"]["plain"]["chat"]
    inputs = vlm.processor(
        images=[pictures["wide_receipt"]], text=[vlm.processor.prompt(record["question"], pictures=1)], return_tensors="pt"
    )
    with torch.no_grad(), pytest.raises(AssertionError):
        close(vlm.model(**inputs).logits[0, record["logit_positions"]], tensors["wide_receipt/plain/chat/logits"])


def test_which_pyramid(golden, tmp_path):
    assert minimonkey.load(golden / MONKEY).processor.image_processor.spec == PyramidSpec(tile_px=56)
    plain = PyramidSpec.plain(1, 12, tile_px=56)
    assert minimonkey.load(golden / PLAIN).processor.image_processor.spec == plain
    shutil.copytree(golden / PLAIN, tmp_path / "Mini-Monkey_2B")
    with pytest.warns(UserWarning, match="because of this name alone"):
        named = minimonkey.load(tmp_path / "Mini-Monkey_2B")
    assert named.processor.image_processor.spec == PyramidSpec(tile_px=56), "by its name"
    assert "CIP: 4-12 detail tiles, 3-7 adaptive tiles" in repr(named)
    plugged = minimonkey.load(golden / PLAIN, pyramid={"detail": (4, 12), "adaptive": (3, 7)})
    assert plugged.ask(Image.new("RGB", (300, 200)), "?", max_new_tokens=1).pyramids[0].adaptive is not None
