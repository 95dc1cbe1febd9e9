"""Token selection: on small tensors with the whole answer, and scm-reference against what the published code recorded."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network
from minimonkey.compression import CompressionSpec, attention_to, best, detail_span, select_as_published
from minimonkey.errors import UsageError
from minimonkey.pyramid import Span

IMAGE = 9

# -- settings ----------------------------------------------------------------------------------------------------------------


def test_settings_survive_json():
    spec = CompressionSpec(keep_ratio=0.25)
    saved = json.loads(json.dumps(dataclasses.asdict(spec)))
    assert saved == {"selector": "scm-reference", "keep_ratio": 0.25, "queries": "all", "positions": "compact"}
    assert CompressionSpec.from_dict(saved) == spec
    assert CompressionSpec.from_dict({}) == CompressionSpec() == CompressionSpec("scm-reference", 0.5, "all", "compact")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selector": "scm-refrence"}, "no selector 'scm-refrence'; the nearest is 'scm-reference'"),
        ({"selector": 3}, "no selector 3; the nearest is 'scm-reference'"),
        ({"keep_ratio": 0}, "keep_ratio=0: expected a number above 0, at most 1"),
        ({"keep_ratio": 1.01}, "keep_ratio=1.01: expected a number above 0, at most 1"),
        ({"keep_ratio": True}, "keep_ratio=True: expected a number"),
        ({"keep_ratio": float("nan")}, "keep_ratio=nan: expected a number"),
        ({"queries": "some"}, 'queries=\'some\': expected "all" or "vision"'),
        ({"positions": "new"}, 'positions=\'new\': expected "compact" or "original"'),
        ({"queries": "vision"}, "queries='vision': scm-reference is what was published, 'all' only"),
        ({"positions": "original"}, "positions='original': scm-reference is what was published, 'compact' only"),
        ({"keep": 0.5}, "no setting 'keep'; the nearest is 'keep_ratio', all are selector, keep_ratio, queries, positions"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message):
    with pytest.raises(UsageError) as caught:
        CompressionSpec.from_dict(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- where the detail level is -----------------------------------------------------------------------------------------------


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor([tokens])


def test_the_detail_level_begins_with_the_first_image_token():
    prompt = ids(1, 7, *[IMAGE] * 8, 3, 4)  # two tokens a tile
    assert detail_span(prompt, torch.tensor([[2, 1, 1]]), IMAGE) == Span(2, 6)
    assert detail_span(prompt, torch.tensor([[0, 3, 1]]), IMAGE) is None
    assert detail_span(prompt, torch.tensor([[4, 0, 0]]), IMAGE) == Span(2, 10)


@pytest.mark.parametrize(
    ("prompt", "level_tiles", "message"),
    [
        (ids(1, IMAGE, 2), None, "needs level_tiles"),
        (ids(1, IMAGE, IMAGE, 2), [[1, 0, 0], [1, 0, 0]], "one prompt with one picture, as published; got 1 with 2"),
        (ids(1, IMAGE, 2).expand(2, -1), [[1, 0, 0], [1, 0, 0]], "got 2 with 2"),
        (ids(1, IMAGE, IMAGE, IMAGE, 2), [[1, 0, 1]], "level_tiles has 2 tiles, but the prompt 3 image tokens"),
        (ids(1, 2, 3), [[1, 0, 1]], "level_tiles has 2 tiles, but the prompt 0 image tokens"),
        (ids(1, IMAGE, 2), [[0, 0, 0]], "level_tiles has 0 tiles, but the prompt 1 image tokens"),
        (ids(1, IMAGE, IMAGE), [[2, 0, 0]], "asks what follows the detail level, and nothing does"),
    ],
)
def test_what_cannot_be_compressed_is_one_line(prompt, level_tiles, message):
    with pytest.raises(UsageError) as caught:
        detail_span(prompt, level_tiles and torch.tensor(level_tiles), IMAGE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- scores and selection ----------------------------------------------------------------------------------------------------


def test_attention_of_the_last_rows_by_hand():
    """Four positions; the last two ask, positions 1 and 2 are asked for. Keys are logarithms of the weights they should get."""
    keys = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]).log()
    queries = torch.ones(1, 2, 1)
    row_2, row_3 = torch.tensor([2 / 6, 3 / 6]), torch.tensor([2 / 10, 3 / 10])  # of 1+2+3, and of 1+2+3+4
    assert_close(attention_to(queries, keys, Span(1, 3), scale=1.0), (row_2 + row_3) / 2)
    assert_close(attention_to(2 * queries, keys, Span(1, 3), scale=0.5), (row_2 + row_3) / 2)

    near_2, near_3 = torch.tensor([2 / 5, 3 / 5]), torch.tensor([0, 3 / 7])  # each sees two tokens, itself the second
    assert_close(attention_to(queries, keys, Span(1, 3), scale=1.0, window=2), (near_2 + near_3) / 2)


def test_heads_share_keys_in_groups_and_count_alike():
    keys = torch.tensor([[[1.0], [3.0]], [[1.0], [1.0]]]).log()
    queries = torch.tensor([0.0, 1.0, 5.0, 7.0]).view(4, 1, 1)  # two heads to each key head; equal keys make 5 and 7 alike
    expected = torch.tensor([(1 / 2 + 1 / 4 + 1 / 2 + 1 / 2) / 4])
    assert_close(attention_to(queries, keys, Span(0, 1), scale=1.0), expected)


def test_the_best_in_their_order_and_the_first_of_equals():
    assert best(torch.tensor([0.1, 0.4, 0.2, 0.4, 0.3]), 0.6).tolist() == [1, 3, 4]
    assert best(torch.tensor([0.2, 0.3, 0.2, 0.2, 0.2]), 0.5).tolist() == [0, 1]  # rounded down
    assert best(torch.ones(4), 1.0).tolist() == [0, 1, 2, 3]
    assert best(torch.ones(4), 0.2).tolist() == []


def test_the_token_after_the_detail_level_is_lost():
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3])
    selection = select_as_published(scores, Span(2, 6), length=10, keep_ratio=0.5)
    assert selection.selected.tolist() == [1, 3]
    assert selection.kept.tolist() == [0, 1, 3, 5, 7, 8, 9]
    everything = select_as_published(scores, Span(2, 6), length=10, keep_ratio=1)
    assert everything.kept.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]


# -- as published ------------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "minimonkey-internlm2-56"
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PICTURES = ("wide_receipt", "near_square")
RECORDS = [(p, *r) for p in PICTURES for r in (("demo", "chat_scm"), ("eval_order", "chat_scm"), ("eval_order", "turn2_scm"))]


@pytest.fixture(scope="module")
def network():
    folder = find_folder(GOLDEN)
    return load_network(folder, folder.config("native"), dtype=torch.float32)


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="module")
def records():
    return json.loads((GOLDEN / "golden.json").read_text())["images"]


@pytest.fixture(params=RECORDS, ids="/".join)
def recorded(request, tensors, records):
    """One record: what went into the published code, what came out, and the facts about it."""
    picture, section, name = request.param
    tiles = tensors[f"{picture}/demo/tiles_u8"]
    layout = records[picture]["demo"]
    detail, adaptive = layout["n_detail"], layout["n_adaptive"]
    if section == "eval_order":
        tiles = torch.cat((tiles[adaptive:-1], tiles[:adaptive], tiles[-1:]))
    prefix = f"{picture}/{section}/{name}/"
    out = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    inputs = {
        "input_ids": out.pop("input_ids"),
        "pixel_values": (tiles / 255 - MEAN) / DEVIATION,
        "level_tiles": torch.tensor([[detail, adaptive, 1]]),
    }
    return inputs, out, records[picture][section][name]


@torch.no_grad()
def test_scm_reference_keeps_what_the_published_code_keeps(network, recorded):
    inputs, expected, facts = recorded
    _, selection = network.model.compress(CompressionSpec(), **inputs)
    assert_close(selection.scores, expected["scm_scores"], rtol=1e-4, atol=1e-6)
    assert selection.selected.tolist() == expected["scm_selected"].tolist()
    assert selection.kept.tolist() == expected["scm_kept"].tolist()
    assert selection.detail == Span(facts["image_start"], facts["dropped_by_offset"])


@torch.no_grad()
def test_scm_reference_gives_the_published_logits(network, recorded):
    inputs, expected, facts = recorded
    output = network(**inputs, compression=CompressionSpec(), output_hidden_states=True)
    assert output.logits.shape[1] == facts["n_after"]
    assert_close(output.logits[0, facts["logit_positions"]], expected["logits"], rtol=1e-4, atol=1e-4)
    if "hidden_last_pos" in expected:
        hidden = torch.stack([state[0, -1] for state in output.hidden_states])
        assert_close(hidden, expected["hidden_last_pos"], rtol=1e-4, atol=1e-4)


def test_scm_reference_says_the_published_answer(network, recorded):
    inputs, expected, facts = recorded
    new = expected["gen_ids"].shape[1]
    output = network.generate(**inputs, compression=CompressionSpec(), max_new_tokens=new, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output[:, :length], inputs["input_ids"])
    margins = facts["gen_top2_margins"][0]
    certain = next((step for step, margin in enumerate(margins) if margin < 0.002), new)
    assert certain >= 10
    assert output[0, length : length + certain].tolist() == expected["gen_ids"][0, :certain].tolist()


@torch.no_grad()
def test_one_changed_weight_shows(network, tensors, records):
    """The comparison above can fail: a key projection of the second layer decides, one of the last layer doesn't."""
    tiles = tensors["wide_receipt/demo/tiles_u8"]
    inputs = {
        "input_ids": tensors["wide_receipt/demo/chat_scm/input_ids"],
        "pixel_values": (tiles / 255 - MEAN) / DEVIATION,
        "level_tiles": torch.tensor([[12, 4, 1]]),
    }
    expected = tensors["wide_receipt/demo/chat_scm/scm_scores"]

    def differs(layer: int) -> bool:
        weight = network.model.language_model.layers[layer].self_attn.k_proj.weight
        before = weight.clone()
        weight[0] += 1
        scores = network.model.compress(CompressionSpec(), **inputs)[1].scores
        weight.copy_(before)
        return not torch.allclose(scores, expected, rtol=1e-4, atol=1e-6)

    assert differs(1)
    assert not differs(3)
