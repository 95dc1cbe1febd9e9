"""Recipes: what they may say, and the one line for what they may not."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from minimonkey.errors import UsageError
from minimonkey.training.nano.config import AttentionLosses, Source, TrainConfig
from minimonkey.training.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "train").glob("*.yaml"))
SMALL = "name: a\nstage: read\nstart: runs/b\nsteps: 5\nmixture: [{kind: line}]\n"


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path):
    config = load_recipe(path)
    assert config.name == path.stem and isinstance(config, TrainConfig)
    assert config.material == "all", "what is published was made of all that Debian has"


def test_the_commands_of_the_card_follow_one_another():
    """From an empty folder: the first begins anew, each other one where the one before it ended."""
    card = (Path(__file__).parents[2] / "src" / "minimonkey" / "nano" / "README.md").read_text()
    commands = [shlex.split(line, comments=True) for line in card.splitlines() if line.startswith("minimonkey train ")]
    configs = [load_recipe(Path(__file__).parents[2] / command[2], command[3:]) for command in commands]
    assert len(configs) >= 10 and configs[0].start is None
    for before, config in pairwise(configs):
        assert config.start == f"runs/{before.name}"
    assert [config.publish for config in configs if config.publish] == ["src/minimonkey/nano"] == [configs[-1].publish]


def test_a_quarter_of_the_newest_recipe_is_cut_by_plain_tiling():
    """So that one model can be asked what the pyramid is worth."""
    newest = max(RECIPES, key=lambda path: int(path.stem.split("-")[1]))
    mixture = load_recipe(newest).mixture
    plain = [source.weight for source in mixture if source.pyramid.get("adaptive", ()) is None]
    assert sum(plain) >= 0.25 * sum(source.weight for source in mixture)


FORMER = """
name: a
stage: read
start: runs/b
steps: 5
looking_weight: 1.0
place_weight: 0.3
mistakes: 0.03
place_codes: 5
optimizer: {scales: {model: 0}}
mixture: [{kind: receipt, leave_out: [where], encoder_rests: true}]
"""


def test_recipes_of_earlier_versions_mean_the_same(recipe):
    config = load_recipe(recipe(FORMER), ["anchor_weight=0.5"])
    assert config.attention_losses == AttentionLosses(next_char=1.0, this_char=0.5, place=0.3)
    assert (config.prefix_noise, config.position_codes, config.optimizer.lr_multipliers) == (0.03, 5, {"model": 0})
    assert config.mixture == (Source("receipt", exclude=("where",), freeze_vision=True),)


@pytest.mark.parametrize(
    ("override", "both"),
    [
        ("prefix_noise=0.1", "mistakes is the former name of prefix_noise, which is there too: leave mistakes out"),
        ("attention_losses={next_char: 1}", "looking_weight is the former name of attention_losses.next_char, which is there too"),
        ("optimizer.lr_multipliers={}", "optimizer.scales is the former name of optimizer.lr_multipliers, which is there too"),
        ("attention_losses=3", "looking_weight, now attention_losses.next_char,': 'attention_losses' has no settings of its own"),
    ],
)
def test_a_key_by_both_names_is_refused(recipe, override, both):
    with pytest.raises(UsageError, match=re.escape(both)):
        load_recipe(recipe(FORMER), [override])


def test_overrides_reach_nested_keys(recipe):
    config = load_recipe(recipe(SMALL), ["steps=7", "optimizer.muon_lr=1e-3", "optimizer.lr_multipliers={model.vision_tower: 0}"])
    assert (config.steps, config.optimizer.muon_lr, config.optimizer.lr_multipliers) == (7, 1e-3, {"model.vision_tower": 0})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (SMALL + "stepps: 3\n", [], "unknown key 'stepps'; the nearest is 'steps', all are name, stage"),
        (SMALL, ["optimizer.muonlr=3"], "unknown key 'muonlr'; the nearest is 'muon_lr', all are muon_lr"),
        (SMALL, ["steps=many"], "steps='many': expected int"),
        (SMALL, ["steps=true"], "steps=True: expected int"),
        (SMALL, ["steps=0"], "steps=0: expected at least 1"),
        (SMALL, ["stage=reed"], "stage='reed': expected one of 'characters', 'read'"),
        (SMALL, ["mixture=[{weight: 2}]"], "missing key 'kind'"),
        (SMALL, ["mixture=[{kind: line, size_px: [9]}]"], "expected a list of 2"),
        (SMALL, ["mixture=[]"], "mixture is empty"),
        (SMALL, ["start=null"], "needs `start`"),
        (SMALL, ["steps"], "expected key=value"),
        (SMALL, ["steps=["], "override 'steps=[' is no valid YAML"),
        (SMALL, ["name=../x"], "name='../x': expected the name of a folder in runs/"),
        (SMALL, ["tiles_per_batch=0"], "tiles_per_batch=0: expected at least 1"),
        (SMALL, ["workers=-1"], "workers=-1: expected 0 or more"),
        (SMALL, ["mixture=[{kind: line, weight: 0}]"], "weight=0.0: expected a positive number"),
        (SMALL, ["mixture=[{kind: tile, zoom: [0, 0]}]"], "expected two factors, smaller first"),
        (SMALL, ["mixture=[{kind: line, size_px: [0, 5]}]"], "size_px=(0.0, 5.0): expected two sizes in pixels, smaller first"),
        (SMALL, ["mixture=[{kind: line, size_px: [9, 5]}]"], "size_px=(9.0, 5.0): expected two sizes"),
        (SMALL, ["mixture=[{kind: page, max_questions: 0}]"], "max_questions=0: expected at least 1"),
        (SMALL, ["mixture=[{kind: page, answer_characters: 0}]"], "answer_characters=0: expected at least 1"),
        (SMALL, ["mixture=[{kind: page, budgets: [4, 2]}]"], "budgets=(4, 2): expected two counts from 1 on, smaller first"),
        (SMALL, ["mixture=[{kind: page, budgets: [4, 5000]}]"], "budgets=(4, 5000): expected at most"),
        (SMALL, ["mixture=[{kind: line, max_tiles: 0}]"], "max_tiles=0: expected at least 1"),
        (SMALL, ["mixture=[{kind: form, lines: [8, 5]}]"], "lines=(8, 5): expected two counts from 1 on, smaller first"),
        (SMALL, ["mixture=[{kind: form, lines: [0, 5]}]"], "lines=(0, 5): expected two counts"),
        (SMALL, ["mixture=[{kind: line, pyramid: {tiles: 3}}]"], "pyramid has no setting 'tiles'"),
        (SMALL, ["optimizer.decay_fraction=3"], "decay_fraction=3.0: expected a fraction"),
        (SMALL, ["optimizer.muon_lr=.nan"], "muon_lr=nan: expected 0 or more"),
        (SMALL, ["attention_losses.query_word=.inf"], "attention_losses.query_word=inf: expected 0 or more"),
        (SMALL, ["attention_losses.line_start=-1"], "attention_losses.line_start=-1.0: expected 0 or more"),
        (SMALL, ["attention_losses.place=.nan"], "attention_losses.place=nan: expected 0 or more"),
        (SMALL, ["end_weight=-0.5"], "end_weight=-0.5: expected 0 or more"),
        (SMALL, ["match_tile_rows=-1"], "match_tile_rows=-1.0: expected 0 or more"),
        (SMALL, ["start=null", "rope={factor: 2.0}"], "rope changes a trained model: name it in `start`, or leave rope out"),
        (SMALL, ["start=null", "position_codes=5"], "position_codes changes a trained model: name it in `start`"),
        (SMALL, ["start=null", "match_tile_rows=0.6"], "match_tile_rows changes a trained model: name it in `start`"),
        (SMALL, ["name.x=3"], "'name' has no settings of its own"),
        ("- 1\n", [], "expected `key: value` lines, got list"),
        ("a: [", [], "is no valid YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(recipe, text, overrides, message):
    with pytest.raises(UsageError) as raised:
        load_recipe(recipe(text), overrides)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_recipe_of_other_bytes_is_one_line(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UsageError, match="gone.yaml: No such file"):
        load_recipe(tmp_path / "gone.yaml")
