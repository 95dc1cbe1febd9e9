"""Batches are functions of their number; labels say which characters a patch shows; losses reach what they should."""

import numpy as np
import pytest
import torch
from PIL import Image

from minimonkey.data.synthetic import lines, words
from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec
from minimonkey.training import stages
from minimonkey.training.config import Ingredient, TrainConfig
from minimonkey.training.stages import CLASS_OF, IGNORE, SLOTS, Batches, Losses, character_labels


def sample_of(*placed, size=(56, 28), height=10.0):
    """A blank picture (width, height) with lines of characters at given centres: (text, [(x, y), ...])."""
    made = [
        lines.Line(text, np.array(centers, np.float32), (0.0, centers[0][1] - height / 2, 1.0, centers[0][1] + height / 2))
        for text, centers in placed
    ]
    return lines.Sample(Image.new("RGB", size), made)


def test_labels_name_characters_in_their_patch():
    spec = PyramidSpec.plain(2, 2, tile_px=28)
    sample = sample_of(("ab c", [(1, 3), (5, 3), (9, 3), (30, 24)]))
    labels = character_labels(sample, spec, patch_px=7)
    assert labels.shape == (3, 16, SLOTS)  # two tiles and the thumbnail, 4 x 4 patches each
    assert labels[0, 0].tolist() == [CLASS_OF["a"], CLASS_OF["b"], 0], (
        "both centres lie in the first patch; the space counts for none"
    )
    assert labels[0, 1].tolist() == [0, 0, 0]
    assert labels[1, 12].tolist() == [CLASS_OF["c"], 0, 0], "x=30 is patch 0 of the second tile, y=24 its last row"
    assert np.count_nonzero(labels[:2]) == 3


def test_print_too_small_to_tell_is_not_held_against_the_encoder():
    labels = character_labels(sample_of(("a", [(1, 3)]), size=(28, 56)), PyramidSpec.plain(2, 2, tile_px=28), 7)
    assert labels[0, 0, 0] == CLASS_OF["a"]
    assert labels[2, 0].tolist() == [IGNORE] * SLOTS, "10 px high in the picture is 5 px in the thumbnail"


def test_a_full_patch_keeps_the_first_characters():
    labels = character_labels(sample_of(("abcd", [(1, 3), (2, 3), (3, 3), (4, 3)])), PyramidSpec.plain(2, 2, tile_px=28), 7)
    assert labels[0, 0].tolist() == [CLASS_OF[c] for c in "abc"]


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
    assert 0 <= float(figures["characters_right"]) <= 1
    assert ("text_loss" in figures) == (stage == "read")


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


def test_alignment_needs_single_characters(small, tiny_model):
    with pytest.raises(UsageError, match="alignment_weight needs a tokenizer with a token for each character"):
        Losses(tiny_model("qwen2"), small, recipe(alignment_weight=1.0))
