"""Batches are functions of their number; losses reach what they should."""

import math

import pytest
import torch

from minimonkey.data.synthetic import words
from minimonkey.errors import UsageError
from minimonkey.training import stages
from minimonkey.training.config import Ingredient, TrainConfig
from minimonkey.training.labels import CLASS_OF, IGNORE, POINTS, SLOTS
from minimonkey.training.stages import Batches, Losses


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


@pytest.mark.parametrize("stage", ["characters", "read"])
def test_losses_reach_the_parameters_they_should(pillow_text, small, tiny_model, stage):
    torch.manual_seed(0)
    config = recipe(stage=stage)
    losses = Losses(tiny_model("qwen2", pyramid=None).train(), small, config)
    loss, figures = losses(Batches(config, small, 7)[0])
    loss.backward()
    reached = {
        name for name, parameter in losses.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert "model.model.vision_tower.embeddings.patch_embeddings.projection.weight" in reached
    assert "characters_head.linear.weight" in reached
    assert ("model.lm_head.weight" in reached) == (stage == "read")
    assert 0 <= float(figures["characters_right"]) <= 1 and 0 <= float(figures["points_right"]) <= 1
    assert ("text_loss" in figures) == (stage == "read")


def test_the_character_loss_is_of_slots_and_points_alike(small, tiny_model, monkeypatch):
    losses = Losses(tiny_model("qwen2"), small, recipe(stage="characters"))
    batch = {"characters": torch.zeros(1, 1, SLOTS, dtype=torch.long), "points": torch.zeros(1, 1, POINTS, dtype=torch.long)}
    batch["characters"][0, 0, 0], batch["points"][0, 0, 1] = CLASS_OF["a"], CLASS_OF["b"]
    said = torch.zeros(1, 1, SLOTS + POINTS, len(CLASS_OF) + 1)
    said[0, 0, 0, CLASS_OF["a"]] = said[0, 0, SLOTS + 1, CLASS_OF["b"]] = 30.0
    said[0, 0, [1, 2, SLOTS], 0] = 30.0  # the other slots and point are empty
    monkeypatch.setattr(stages.CharactersHead, "forward", lambda self, patches: said)
    loss, figures = losses._characters(torch.zeros(1, 1, 32), batch)
    assert loss < 1e-6 and {key: float(value) for key, value in figures.items()} == {"characters_right": 1, "points_right": 1}
    batch["points"][0, 0, 1] = CLASS_OF["c"]
    loss, figures = losses._characters(torch.zeros(1, 1, 32), batch)
    assert loss > 20 and float(figures["points_right"]) == 0
    batch["points"][0, 0, 1] = IGNORE
    assert losses._characters(torch.zeros(1, 1, 32), batch)[0] < 1e-6


def test_alignment_asks_each_image_token_for_the_characters_it_shows(small, tiny_model, monkeypatch):
    """One tile of 4 x 4 patches makes 2 x 2 tokens; the head is set so that token 0 says "a", all others nothing in particular."""
    monkeypatch.setattr(stages, "ALPHABET", words.ASCII)
    losses = Losses(tiny_model("qwen2"), small, recipe(alignment_weight=1.0))
    labels = torch.zeros(1, 16, SLOTS, dtype=torch.long)
    labels[0, 5, 0] = CLASS_OF["a"]  # second row, second column: the fourth patch of token 0
    tokens = torch.zeros(1, 4, 32)
    tokens[0, 0, 0] = 1.0
    a = small.tokenizer.convert_tokens_to_ids("a")
    with torch.no_grad():
        losses.model.lm_head.weight.zero_()
        losses.model.lm_head.weight[a, 0] = 20.0
    assert losses._alignment(tokens, labels) < 1e-4
    assert losses._alignment(tokens.roll(1, dims=1), labels) > 3, "the word of another token doesn't count"
    labels[0, 5, 0] = CLASS_OF["b"]
    assert losses._alignment(tokens, labels) > 10


def test_looking_is_the_share_of_attention_on_the_next_character(small, tiny_model):
    """Queries and keys are set so that every position looks evenly at all that it may see."""
    losses = Losses(tiny_model("qwen2"), small, recipe(looking_weight=1.0))
    attention = losses._looking_layer
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    seen = {"hidden_states": torch.randn(1, 8, 32), "position_embeddings": (torch.ones(1, 8, 8), torch.zeros(1, 8, 8))}
    looks = torch.full((1, 8, 3), -1)
    looks[0, 4] = torch.tensor([1, 3, -1])
    mask = torch.ones(1, 8, dtype=torch.long)
    assert losses._looking(seen, looks, mask).item() == pytest.approx(math.log(5 / 2)), "two of the five positions up to its own"
    mask[0, 0] = 0
    assert losses._looking(seen, looks, mask).item() == pytest.approx(math.log(4 / 2)), "padding is not looked at"


def test_a_batch_says_where_to_look(pillow_text, small):
    batch = Batches(recipe(looking_weight=1.0, mixture=(Ingredient("line", max_tiles=6),)), small, 7)[1]
    asked = (batch["looks"] >= 0).any(-1)
    for row in range(len(asked)):
        for position in asked[row].nonzero()[:, 0].tolist():
            held = batch["looks"][row, position]
            assert (batch["input_ids"][row, held[held >= 0]] == small.image_token_id).all()
            assert batch["labels"][row, position + 1] != IGNORE, "the character that comes next is part of the answer"
    assert asked.sum() > 0.5 * (batch["labels"] != IGNORE).sum()
    assert "looks" not in Batches(recipe(), small, 7)[1]


def test_alignment_needs_single_characters(small, tiny_model):
    with pytest.raises(UsageError, match="alignment_weight needs a tokenizer with a token for each character"):
        Losses(tiny_model("qwen2"), small, recipe(alignment_weight=1.0))
