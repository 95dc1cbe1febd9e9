"""What may be dropped and what remains, on small tensors with the whole answer; scm-reference against the published records."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network
from minimonkey.compression.spans import Selection, detail_levels, remaining
from minimonkey.compression.spec import QUERY_SELECTORS, SELECTORS, CompressionSpec
from minimonkey.errors import PyramidError, UsageError
from minimonkey.pyramid import PyramidSpec, Span

IMAGE = 9
REFERENCE = CompressionSpec("scm-reference")

# -- settings ----------------------------------------------------------------------------------------------------------------


def test_settings_survive_json():
    spec = CompressionSpec(keep_ratio=0.25)
    saved = json.loads(json.dumps(dataclasses.asdict(spec)))
    own = {"queries": "all", "positions": "original", "budget": "picture", "seed": 0}
    assert saved == {"selector": "scm", "keep_ratio": 0.25} | own
    assert CompressionSpec.from_dict(saved) == spec
    assert CompressionSpec.from_dict({}) == CompressionSpec() == CompressionSpec("scm", 0.5, "all", "original", "picture", 0)


def test_what_is_not_given_is_the_selectors_own():
    assert CompressionSpec("scm-reference") == CompressionSpec("scm-reference", positions="compact", budget="picture")
    assert CompressionSpec("scm", positions="compact").positions == "compact"
    assert {name: CompressionSpec(name).budget for name in SELECTORS if CompressionSpec(name).budget == "tile"} == {
        "downsample": "tile",
        "cdpruner": "tile",
    }
    assert CompressionSpec("cdpruner", budget="picture").budget == "picture"


def test_what_depends_on_the_question():
    assert {name for name in SELECTORS if CompressionSpec(name).depends_on_question} == set(QUERY_SELECTORS)
    assert not any(CompressionSpec(name, queries="vision").depends_on_question for name in ("scm", "cdpruner", "mmr", "random"))


def test_before_there_is_a_question():
    """Who can do without asks the pictures; who can't is refused."""
    assert CompressionSpec("scm", 0.3).before_questions() == CompressionSpec("scm", 0.3, "vision")
    for spec in (CompressionSpec("scm", queries="vision"), CompressionSpec("random", seed=3)):
        assert spec.before_questions() is spec
    for name in ("scm-reference", "fastv"):
        with pytest.raises(UsageError, match=f"^compression='{name}' asks the question, .*: take scm, random, .*, mmr or none"):
            CompressionSpec(name).before_questions()


@pytest.mark.parametrize(
    ("spec", "dropped"),
    [
        (CompressionSpec("scm", 0.4), 12 - 4),
        (CompressionSpec("scm", 0.4, budget="tile"), 3 * (4 - 1)),
        (CompressionSpec("scm", 0.58, budget="tile"), 3 * (4 - 2)),
        (CompressionSpec("random", 1), 0),
        (CompressionSpec("downsample", 0.75), 3 * (4 - 3)),
    ],
)
def test_dropped(spec, dropped):
    assert spec.dropped(tiles=3, tile_tokens=4) == dropped
    assert spec.dropped(tiles=0, tile_tokens=4) == 0


def test_shares_are_decimal_numbers_rounded_down():
    """As floats 0.29 x 6400 is 1855.9999999999998 and 0.07 x 100 is 7.000000000000001."""
    shares = [(0.29, 6400, 1856), (0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.3, 12, 3), (0.999, 1000, 999), (0.05, 12, 0)]
    assert [CompressionSpec("scm", share).kept(size) for share, size, _ in shares] == [kept for *_, kept in shares]
    assert CompressionSpec("scm", 0.29).dropped(tiles=25, tile_tokens=256) == 6400 - 1856
    assert CompressionSpec("scm", 1).kept(3328) == 3328


def test_the_short_form():
    assert CompressionSpec.parse("scm") == CompressionSpec("scm", 0.5)
    assert CompressionSpec.parse(" uniform:0.25 ") == CompressionSpec("uniform", 0.25)
    assert CompressionSpec.parse("mmr:1", queries="vision") == CompressionSpec("mmr", 1.0, "vision")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "no selector 'half'; the nearest is"),
        ("scm:", "compression 'scm:': expected a selector, or a selector and a share such as \"scm:0.5\""),
        ("scm:half", "compression 'scm:half': expected a selector"),
        ("scm:50", "keep_ratio=50.0: expected a number above 0, at most 1"),
        ("scm:nan", "keep_ratio=nan: expected a number above 0, at most 1"),
    ],
)
def test_a_wrong_short_form_is_one_line(text, message):
    with pytest.raises(UsageError) as caught:
        CompressionSpec.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selector": "scm-refrence"}, "no selector 'scm-refrence'; the nearest is 'scm-reference'"),
        ({"selector": 3}, "no selector 3; the nearest is "),
        ({"keep_ratio": 0}, "keep_ratio=0: expected a number above 0, at most 1"),
        ({"keep_ratio": 1.01}, "keep_ratio=1.01: expected a number above 0, at most 1"),
        ({"keep_ratio": True}, "keep_ratio=True: expected a number"),
        ({"keep_ratio": float("nan")}, "keep_ratio=nan: expected a number"),
        ({"queries": "some"}, 'queries=\'some\': expected "all" or "vision"'),
        ({"positions": "new"}, 'positions=\'new\': expected "compact" or "original"'),
        ({"budget": "level"}, 'budget=\'level\': expected "picture" or "tile"'),
        ({"seed": -1}, "seed=-1: expected a whole number, 0 or more"),
        ({"selector": "scm-reference", "queries": "vision"}, "queries='vision': scm-reference is what was published, 'all' only"),
        ({"selector": "scm-reference", "positions": "original"}, "scm-reference is what was published, 'compact' only"),
        ({"selector": "scm-reference", "budget": "tile"}, "scm-reference is what was published, 'picture' only"),
        ({"selector": "fastv", "queries": "vision"}, "queries='vision': fastv asks the last token, 'all' only"),
        ({"selector": "downsample", "budget": "picture"}, "downsample pools each tile by itself, 'tile' only"),
        ({"keep": 0.5}, "no setting 'keep'; the nearest is 'keep_ratio', all are selector, keep_ratio, queries, positions, budget"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message):
    with pytest.raises(UsageError) as caught:
        CompressionSpec.from_dict(settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- where the detail level is, and who is asked -----------------------------------------------------------------------------


def ids(*rows: str) -> torch.Tensor:
    """A prompt for each string: `I` is an image token, `.` padding, the rest text."""
    return torch.tensor([[{"I": IMAGE, ".": 0}.get(letter, 5) for letter in row] for row in rows])


def levels_of(prompts: torch.Tensor, level_tiles, spec=None, order=None) -> list[tuple]:
    """(picture, row, span, tokens a tile, first image token, who is asked) of each detail level."""
    tiles = None if level_tiles is None else torch.tensor(level_tiles)
    found = detail_levels(prompts, (prompts != 0).long(), tiles, IMAGE, spec or CompressionSpec(), order)
    return [
        tuple(getattr(level, field.name) for field in dataclasses.fields(level)[:-1]) + (level.queries.tolist(),) for level in found
    ]


PAIR = ("..aIIIIIIIIb", "aIIIIIIbIIcd")
"""Two tokens a tile. Row 0: 2 padding, 2 + 1 + 1 tiles. Row 1: 2 + 0 + 1 tiles, then a thumbnail alone."""
PAIR_TILES = [[2, 1, 1], [2, 0, 1], [0, 0, 1]]


def test_each_picture_asks_its_own_later_tiles_and_all_later_text():
    assert levels_of(ids(*PAIR), PAIR_TILES) == [
        (0, 0, Span(3, 7), 2, 0, [7, 8, 9, 10, 11]),
        (1, 1, Span(1, 5), 2, 8, [5, 6, 7, 10, 11]),  # not 8 and 9, the next picture
    ]
    assert [level[-1] for level in levels_of(ids(*PAIR), PAIR_TILES, CompressionSpec(queries="vision"))] == [[7, 8, 9, 10], [5, 6]]
    assert [level[-1] for level in levels_of(ids(*PAIR), PAIR_TILES, CompressionSpec("fastv"))] == [[11], [11]]


def test_padding_on_the_right_is_not_asked():
    assert levels_of(ids("aIIIIb.."), [[1, 0, 1]]) == [(0, 0, Span(1, 3), 2, 0, [3, 4, 5])]
    assert levels_of(ids("aIIIIb.."), [[1, 0, 1]], CompressionSpec("fastv"))[0][-1] == [5]


def test_the_order_of_levels_moves_the_detail_level():
    demo = ("adaptive", "detail", "thumbnail")
    assert levels_of(ids("aIIIIb"), [[2, 1, 1]], order=demo) == [(0, 0, Span(2, 4), 1, 1, [4, 5])]
    last = ("thumbnail", "adaptive", "detail")
    assert levels_of(ids("aIIIIb"), [[2, 1, 1]], order=last) == [(0, 0, Span(3, 5), 1, 2, [5])]
    published = CompressionSpec("scm-reference")
    assert levels_of(ids("aIIIIb"), [[2, 1, 1]], published, demo) == [(0, 0, Span(1, 3), 1, 0, [3, 4, 5])]


def test_pictures_without_a_detail_level():
    assert levels_of(ids("aIIb"), [[0, 1, 1]]) == []
    assert levels_of(ids("aIbIIb"), [[0, 0, 1], [1, 0, 1]]) == [(1, 0, Span(3, 4), 1, 1, [4, 5])]


def test_pictures_side_by_side():
    assert levels_of(ids("IIIIb"), [[1, 0, 1], [1, 0, 1]]) == [(0, 0, Span(0, 1), 1, 0, [1, 4]), (1, 0, Span(2, 3), 1, 2, [3, 4])]


def test_who_asks_nobody_needs_no_question():
    for selector in set(SELECTORS) - set(QUERY_SELECTORS):
        assert levels_of(ids("aII"), [[2, 0, 0]], CompressionSpec(selector)) == [(0, 0, Span(1, 3), 1, 0, [])]


@pytest.mark.parametrize(
    ("prompts", "level_tiles", "spec", "message"),
    [
        (("aIb",), None, CompressionSpec(), "needs level_tiles"),
        (("aIIb",), [[1, 0, 0]] * 2, REFERENCE, "one prompt with one picture, as published; got 1 with 2"),
        (("aIb", "aIb"), [[1, 0, 0]] * 2, REFERENCE, "got 2 with 2"),
        ((".aIIb",), [[1, 0, 1]], REFERENCE, "leave padding out"),
        (("aIIIb",), [[1, 0, 1]], CompressionSpec(), "level_tiles has 2 tiles, but the prompt 3 image tokens"),
        (("abc",), [[1, 0, 1]], CompressionSpec(), "level_tiles has 2 tiles, but the prompt 0 image tokens"),
        (("aIb",), [[0, 0, 0]], CompressionSpec(), "level_tiles has 0 tiles, but the prompt 1 image tokens"),
        (("aIbI",), [[1, 0, 1]], CompressionSpec(), "2 tiles for picture 1, whose image tokens aren't in one piece"),
        (("aI", "Ib"), [[1, 0, 1]], CompressionSpec(), "2 tiles for picture 1, whose image tokens aren't in one piece"),
        (("aII",), [[2, 0, 0]], CompressionSpec(), "asks what follows the detail level, and nothing does: end the prompt with"),
        (("aII..",), [[2, 0, 0]], CompressionSpec("mmr"), "nothing does: end the prompt with a question"),
        (("aIIb",), [[2, 0, 0]], CompressionSpec(queries="vision"), "nothing does: put the detail level first, or ask all"),
    ],
)
def test_what_cannot_be_compressed_is_one_line(prompts, level_tiles, spec, message):
    with pytest.raises(UsageError) as caught:
        levels_of(ids(*prompts), level_tiles, spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- what remains ------------------------------------------------------------------------------------------------------------


def chosen(row: int, detail: Span, *selected: int) -> Selection:
    return Selection(0, row, detail, torch.tensor(selected, dtype=torch.long), None)


def test_rows_that_keep_different_numbers_are_padded_on_the_left():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    index, kept = remaining(mask, [chosen(0, Span(3, 6), 1), chosen(1, Span(1, 3), 0), chosen(1, Span(4, 7), 0, 2)])
    assert kept.long().tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert index[0, 2:].tolist() == [2, 4, 6, 7]
    assert index[1].tolist() == [0, 1, 3, 4, 6, 7]


def test_padding_on_the_right_goes_to_the_left():
    index, kept = remaining(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), [chosen(0, Span(0, 2))])
    assert kept.long().tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    assert index[0, 3:].tolist() == [2]


def test_a_token_can_be_lost():
    index, kept = remaining(torch.ones(1, 6), [chosen(0, Span(1, 3), 1)], lost=[3])
    assert (index.tolist(), kept.all()) == ([[0, 2, 4, 5]], True)
    everything, _ = remaining(torch.ones(1, 3), [chosen(0, Span(0, 2), 0, 1)])
    assert everything.tolist() == [[0, 1, 2]]


# -- as published ------------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parents[1] / "golden" / "minimonkey-internlm2-56"
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
    compressed = network.model.compress(REFERENCE, **inputs)
    (selection,) = compressed.selections
    assert_close(selection.scores, expected["scm_scores"], rtol=1e-4, atol=1e-6)
    assert selection.selected.tolist() == expected["scm_selected"].tolist()
    assert compressed.index[0].tolist() == expected["scm_kept"].tolist()
    assert selection.detail == Span(facts["image_start"], facts["dropped_by_offset"])


@torch.no_grad()
def test_scm_reference_gives_the_published_logits(network, recorded):
    inputs, expected, facts = recorded
    output = network(**inputs, compression=REFERENCE, output_hidden_states=True)
    assert output.logits.shape[1] == facts["n_after"]
    assert_close(output.logits[0, facts["logit_positions"]], expected["logits"], rtol=1e-4, atol=1e-4)
    if "hidden_last_pos" in expected:
        hidden = torch.stack([state[0, -1] for state in output.hidden_states])
        assert_close(hidden, expected["hidden_last_pos"], rtol=1e-4, atol=1e-4)


def test_scm_reference_says_the_published_answer(network, recorded):
    inputs, expected, facts = recorded
    new = expected["gen_ids"].shape[1]
    output = network.generate(**inputs, compression=REFERENCE, max_new_tokens=new, do_sample=False)
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
        scores = network.model.compress(REFERENCE, **inputs).selections[0].scores
        weight.copy_(before)
        return not torch.allclose(scores, expected, rtol=1e-4, atol=1e-6)

    assert differs(1)
    assert not differs(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (3, "^{name}: settings are 3, expected a dict of "),
        ("scm", "^{name}: settings are 'scm', expected a dict of "),
        ({"colour": 1}, "^{name} has no setting 'colour'; the nearest is '.*', all are "),
        ({7: 1}, "^{name} has no setting 7; the nearest is "),
        ({"selector": [], "exclude": []}, "^{name}: .*\\[\\].*"),
        ({"keep_ratio": "x" * 500, "detail": "x" * 500}, r"^{name}: \w+='x{{59}}\.\.\.x{{29}}': expected "),
    ],
)
def test_saved_settings_are_refused_in_the_same_words(settings, message):
    """Of a compression and of a pyramid."""
    for spec, name, error in ((CompressionSpec, "compression", UsageError), (PyramidSpec, "pyramid", PyramidError)):
        own = {field.name for field in dataclasses.fields(spec)}
        given = {key: settings[key] for key in settings if key in own} or settings if isinstance(settings, dict) else settings
        with pytest.raises(error, match=message.format(name=name)) as caught:
            spec.from_dict(given)
        assert "\n" not in str(caught.value)
