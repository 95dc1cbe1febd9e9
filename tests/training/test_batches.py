"""Batches are functions of their number; answers, labels and places to look at belong together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimonkey.errors import UsageError
from minimonkey.training.batches import Batches, with_mistakes
from minimonkey.training.config import Ingredient, TrainConfig
from minimonkey.training.labels import IGNORE


def recipe(**changes):
    mixture = (Ingredient("tile", zoom=(0.5, 1.0)), Ingredient("line", max_tiles=6))
    settings = {"stage": "read", "mixture": mixture, "tiles_per_batch": 6, "characters_weight": 0.5}
    return TrainConfig(name="x", steps=4, start="y", **(settings | changes))


@pytest.fixture
def small(tiny_processor):
    return tiny_processor(detail=(1, 6), adaptive=None, max_upscale=1.0, fit="pad")


def test_a_batch_is_a_function_of_its_number(pillow_text, small):
    batches = Batches(recipe(), small, 7)
    first, again, second = batches[0], Batches(recipe(), small, 7)[0], batches[1]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["input_ids"].shape != second["input_ids"].shape or not torch.equal(first["input_ids"], second["input_ids"])
    assert len(first["tiles"]) >= 6 and first["tiles"].dtype == torch.uint8


def test_sizes_of_print_are_mixed_where_there_are_no_rows_to_pad(pillow_text, small, monkeypatch):
    """In stage "characters" each sample draws its own size and kind; in stage "read" a batch has one."""
    chosen = []
    choose = Batches._choose
    monkeypatch.setattr(Batches, "_choose", lambda self, rng: chosen.append(choose(self, rng)) or chosen[-1])
    for stage in ("characters", "read"):
        chosen.clear()
        Batches(recipe(stage=stage, mixture=(Ingredient("tile"),)), small, 7)[0]
        assert len({ingredient.size_px for ingredient in chosen}) == (6 if stage == "characters" else 1)


def test_answers_are_labelled_and_image_tokens_match_the_tiles(pillow_text, small):
    batch = Batches(recipe(mixture=(Ingredient("line", max_tiles=6),)), small, 7)[3]
    assert (batch["input_ids"] == small.image_token_id).sum() == len(batch["tiles"]) * small.image_seq_length
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        asked = labels != IGNORE
        assert torch.equal(ids[asked], labels[asked])
        answer = small.tokenizer.decode(labels[asked])
        assert answer.endswith("<|im_end|>") and len(answer) > len("<|im_end|>")


def test_max_tiles_keeps_larger_samples_out(pillow_text, small):
    batches = Batches(recipe(mixture=(Ingredient("line", max_tiles=5),), tiles_per_batch=10), small, 7)
    assert all(10 <= len(batches[number]["tiles"]) < 10 + 5 for number in range(3))


def test_a_mixture_that_max_tiles_empties_is_one_line(pillow_text, small):
    config = recipe(mixture=(Ingredient("region", size_px=(40, 40), max_tiles=1),))
    with pytest.raises(UsageError, match="max_tiles=1: no region in 100 is that small"):
        Batches(config, small, 7)[0]


def test_a_batch_says_where_to_look(pillow_text, small):
    batch = Batches(recipe(looking_weight=1.0, mixture=(Ingredient("line", max_tiles=6),)), small, 7)[1]
    asked = (batch["looks"] >= 0).any(-1)
    for row in range(len(asked)):
        for position in asked[row].nonzero()[:, 0].tolist():
            held = batch["looks"][row, position]
            assert (batch["input_ids"][row, held[held >= 0]] == small.image_token_id).all()
            assert batch["labels"][row, position + 1] != IGNORE, "the character that comes next is part of the answer"
    assert asked.sum() > 0.5 * (batch["labels"] != IGNORE).sum()
    assert "looks" not in Batches(recipe(stage="characters"), small, 7)[1]


@given(st.integers(0, 40), st.integers(0, 3), st.floats(0, 1), st.integers(0, 99))
def test_mistakes_are_followed_by_how_the_true_text_goes_on(characters, ends, rate, seed):
    length = characters + ends
    written, asked = with_mistakes(np.random.default_rng(seed), characters, length, rate)
    assert len(written) == len(asked)
    truth = asked[asked >= 0].tolist()
    assert truth == sorted(truth), "in the order of the answer"
    assert written[len(written) - ends :].tolist() == list(range(characters, length)), "the end is never mistaken"
    reached = 0
    for wrote, right in zip(written.tolist(), asked.tolist(), strict=True):
        assert right in (-1, reached), "what is asked is the token after those that were written"
        if wrote < 0 or wrote >= reached:
            reached = max(reached, wrote) + 1
    assert reached == length


def test_without_mistakes_an_answer_stays_as_it_is():
    written, asked = with_mistakes(np.random.default_rng(0), 5, 6, 0.0)
    assert written.tolist() == asked.tolist() == [0, 1, 2, 3, 4, 5]


def test_all_sorts_of_mistakes_are_made():
    written, asked = with_mistakes(np.random.default_rng(0), 1000, 1001, 0.2)
    left_out = set(range(1001)) - set(asked.tolist())
    again = asked == -1
    assert 80 < (written == -1).sum() < 160 and 15 < len(left_out) < 70 and again.sum() > 40


def test_mistakes_change_what_was_written_and_not_what_is_asked(pillow_text, small):
    mixture = (Ingredient("tile", size_px=(9, 10)),)
    clean, wrong = (Batches(recipe(mixture=mixture, mistakes=share), small, 7)[3] for share in (0.0, 0.5))
    texts, slips = [], 0
    for batch in (clean, wrong):
        rows = [labels[labels != IGNORE] for labels in batch["labels"]]
        texts.append(sorted(small.tokenizer.decode(row) for row in rows))
        asked = batch["labels"] != IGNORE
        slips = int((batch["input_ids"] != batch["labels"])[asked].sum())
        looked = (batch["looks"] >= 0).any(-1)
        assert not (looked[:, :-1] & ~asked[:, 1:]).any(), "only what is asked for is looked for"
    assert slips > 5
    assert all(set(asked) <= set(text) for text, asked in zip(*texts, strict=True)) and texts[0] != texts[1]
