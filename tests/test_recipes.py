"""Every recipe of recipes/data: it can be read, says where its files come from, and has the published numbers.

recipes/train has its own test, tests/training/test_recipe.py.
"""

from pathlib import Path

import pytest

from minimonkey.data.inventory import take_inventory
from minimonkey.data.mixture_file import MixtureSpec, read_mixture
from minimonkey.data.shares import draws_per_epoch
from minimonkey.data.template import conversation_from

FOLDER = Path(__file__).parents[1] / "recipes" / "data"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def recipe(name: str) -> MixtureSpec:
    return read_mixture(FOLDER / f"{name}.yaml")


def count_of(spec: MixtureSpec, *names: str) -> int:
    return sum(each.row_count or 0 for each in spec.sets if not names or each.name in names)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_where_its_files_come_from(path, tmp_path):
    spec = read_mixture(path, root=str(tmp_path))
    assert spec.name == path.stem
    for each in spec.sets:
        assert each.provenance and each.rows_from and (each.images is None or each.images_from or each.image_folders), each.name
        assert each.row_count is None or each.row_count > 0
    taken = take_inventory(spec)
    assert len(taken.faults) == len(taken.items) >= len(spec.sets)
    assert all(item.source and item.fault == "is missing" for item in taken.items)
    assert len(taken.lines()) == 1 + 2 * len(taken.items)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_drawn_from(path):
    spec = read_mixture(path)
    draws = draws_per_epoch(spec, [each.row_count or 100_000 for each in spec.sets])
    assert all(draws)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_template_words_a_row(path):
    for each in read_mixture(path).sets:
        if each.template is not None:
            row = conversation_from(each.template, {"image": "1.png", "question": "Q", "answer": "A"}, "here")
            human, gpt = (turn["value"] for turn in row["conversations"])
            assert human.startswith("<image>\n") and gpt in ("A", "A.")


def test_all_are_there():
    assert [path.stem for path in RECIPES] == [
        "internvl-1.2-general",
        "mini-internvl-bdd-x",
        "mini-internvl-drivelm",
        "mini-internvl-medical",
        "mini-internvl-remote-sensing",
        "mini-monkey",
        "monkey",
        "tinygpt-v-stage-1",
        "tinygpt-v-stage-2",
        "tinygpt-v-stage-3",
        "tinygpt-v-stage-4",
    ]


def test_mini_monkey_has_the_published_rows():
    spec = recipe("mini-monkey")
    assert len(spec.sets) == 7 and count_of(spec) == 500_736
    assert all(each.repeat == 1 and not each.augment and not each.recalled and not each.rounded for each in spec.sets)
    assert all(each.rows == f"playground/opensource/{each.name}.jsonl" for each in spec.sets)


def test_general_data_has_the_published_rows():
    spec = recipe("internvl-1.2-general")
    assert len(spec.sets) == 10 and all(each.kind == "general" for each in spec.sets)
    assert count_of(spec) - count_of(spec, "all_seeing_v2") == 1_267_819


@pytest.mark.parametrize(("name", "ratio"), [("drivelm", 0.25), ("bdd-x", 1.0), ("medical", 1.0)])
def test_domains_have_their_share_of_general_data(name, ratio):
    spec = recipe(f"mini-internvl-{name}")
    draws = draws_per_epoch(spec, [each.row_count for each in spec.sets])
    by_kind = {
        kind: sum(n for each, n in zip(spec.sets, draws, strict=True) if each.kind == kind) for kind in ("general", "domain")
    }
    assert by_kind["domain"] == {"drivelm": 317_000, "bdd-x": 26_000, "medical": 500_000}[name]
    assert by_kind["general"] == ratio * by_kind["domain"]


def test_remote_sensing_has_a_fifth_of_the_general_data():
    spec = recipe("mini-internvl-remote-sensing")
    assert spec.general_ratio is None
    assert {each.repeat for each in spec.sets if each.kind == "general"} == {0.2}
    assert [each.name for each in spec.sets if each.kind == "domain"][0] == "geochat_instruct"
    assert count_of(spec, "geochat_instruct") == 75_000 + 65_000 + 10_000 + 91_500 + 40_000 + 25_000


def test_monkeys_numbers_are_marked_as_recalled():
    spec = recipe("monkey")
    assert len(spec.sets) == 19 and count_of(spec) == 1_441_000
    assert all(each.recalled and each.template for each in spec.sets)
    captions = {each.name: each.template.removesuffix(": {answer}") for each in spec.sets if "{question}" not in each.template}
    assert captions == {
        "detailed_caption": "Generate the detailed caption in English",
        "coco_caption": "Generate the caption in English",
        "textcaps": "Generate the caption in English",
    }


def test_tinygpt_v_has_four_stages():
    first, second, third, fourth = (recipe(f"tinygpt-v-stage-{number}") for number in range(1, 5))
    assert first.sets == second.sets and [each.weight for each in first.sets] == [115 * 64, 14 * 64]
    assert [each.name for each in third.sets] == ["cc_sbu_align"]
    assert len(fourth.sets) == 20 and sum(each.weight for each in fourth.sets) == 1310
    assert all(each.recalled or each.row_count is None for each in fourth.sets)
