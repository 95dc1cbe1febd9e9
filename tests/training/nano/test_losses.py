"""Losses reach what they should, and are what they say."""

import math

import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.synthetic.material import words
from minimonkey.training.nano import attention_supervision as supervision
from minimonkey.training.nano import losses as module
from minimonkey.training.nano.batches import Batches
from minimonkey.training.nano.config import AttentionLosses, Source
from minimonkey.training.nano.labels import CLASS_OF, IGNORE, POINTS, SLOTS
from minimonkey.training.nano.losses import Losses, groups
from minimonkey.training.nano.model_edits import insert_layer


@pytest.mark.parametrize("stage", ["characters", "read"])
def test_losses_reach_the_parameters_they_should(recipe, small, tiny_model, stage):
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


def test_the_character_loss_is_of_slots_and_points_alike(recipe, small, tiny_model, monkeypatch):
    losses = Losses(tiny_model("qwen2"), small, recipe(stage="characters"))
    batch = {"characters": torch.zeros(1, 1, SLOTS, dtype=torch.long), "points": torch.zeros(1, 1, POINTS, dtype=torch.long)}
    batch["characters"][0, 0, 0], batch["points"][0, 0, 1] = CLASS_OF["a"], CLASS_OF["b"]
    said = torch.zeros(1, 1, SLOTS + POINTS, len(CLASS_OF) + 1)
    said[0, 0, 0, CLASS_OF["a"]] = said[0, 0, SLOTS + 1, CLASS_OF["b"]] = 30.0
    said[0, 0, [1, 2, SLOTS], 0] = 30.0  # the other slots and point are empty
    monkeypatch.setattr(module.CharactersHead, "forward", lambda self, patches: said)
    loss, figures = losses._characters(torch.zeros(1, 1, 32), batch)
    assert loss < 1e-6 and {key: float(value) for key, value in figures.items()} == {"characters_right": 1, "points_right": 1}
    batch["points"][0, 0, 1] = CLASS_OF["c"]
    loss, figures = losses._characters(torch.zeros(1, 1, 32), batch)
    assert loss > 20 and float(figures["points_right"]) == 0
    batch["points"][0, 0, 1] = IGNORE
    assert losses._characters(torch.zeros(1, 1, 32), batch)[0] < 1e-6


def test_alignment_asks_each_image_token_for_the_characters_it_shows(recipe, small, tiny_model, monkeypatch):
    """One tile of 4 x 4 patches makes 2 x 2 tokens; the head is set so that token 0 says "a", all others nothing in particular."""
    monkeypatch.setattr(module, "ALPHABET", words.ASCII)
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


def test_a_batch_whose_answers_stand_nowhere_teaches_all_the_same(recipe, small, tiny_model):
    """ "unanswerable", "yes": nothing to look at. A mean of nothing would make every weight NaN."""
    model = tiny_model("qwen2", pyramid=None).train()
    insert_layer(model, 1)
    config = recipe(
        mixture=(Source("line", max_tiles=6),),
        attention_losses=AttentionLosses(next_char=1.0, this_char=0.5),
        characters_weight=0.0,
    )
    batch = Batches(config, small, 7)[0]
    batch["next_char_pos"][:] = batch["this_char_pos"][:] = batch["query_word_pos"][:] = -1
    loss, figures = Losses(model, small, config)(batch)
    loss.backward()
    assert figures["next_char_loss"] == figures["this_char_loss"] == 0
    torch.testing.assert_close(loss.detach(), figures["text_loss"])
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_alignment_needs_single_characters(recipe, small, tiny_model):
    with pytest.raises(UsageError, match="alignment_weight needs a tokenizer with a token for each character"):
        Losses(tiny_model("qwen2"), small, recipe(alignment_weight=1.0))


def test_rows_are_grouped_where_least_is_padded():
    assert groups([5, 5, 5], [1, 2, 3]) == [(slice(0, None), slice(0, None), 5)]
    assert groups([2, 3, 9, 10], [1, 1, 4, 5]) == [(slice(2), slice(2), 3), (slice(2, None), slice(2, None), 10)]
    assert groups([7], [2]) == [(slice(0, None), slice(0, None), 7)]


def test_groups_change_no_loss(recipe, small, tiny_model, monkeypatch):
    """The model sees each row as it does among all others, padded: with the mask that the groups do without."""
    config = recipe(mixture=(Source("line", max_tiles=6),), attention_losses=AttentionLosses(next_char=1.0), tiles_per_batch=12)
    model, batch = tiny_model("qwen2").eval(), Batches(config, small, 7)[3]
    losses = Losses(model, small, config)
    with torch.no_grad():
        parts = groups(batch["lengths"].tolist(), batch["tile_counts"].tolist())
        assert len(parts) == 2 and parts[0].length < parts[1].length
        loss, figures = losses(batch)
        whole = [module.Group(slice(None), slice(None), int(batch["lengths"].max()))]
        monkeypatch.setattr(module, "groups", lambda *_: whole)
        one_loss, one_figures = losses(batch)
    torch.testing.assert_close(loss, one_loss)
    assert figures.keys() == one_figures.keys() and "next_char_loss" in figures
    for name, figure in figures.items():
        torch.testing.assert_close(figure, one_figures[name], msg=name)


def test_an_encoder_that_rests_learns_nothing(recipe, small, tiny_model):
    config = recipe(mixture=(Source("line", max_tiles=6, freeze_vision=True),), alignment_weight=0.0)
    batch = Batches(config, small, 7)[0]
    assert bool(batch["freeze_vision"])
    losses = Losses(tiny_model("qwen2", pyramid=None).train(), small, config)
    loss, figures = losses(batch)
    loss.backward()
    reached = {name.rpartition("layers")[0] or name for name, p in losses.model.named_parameters() if p.grad is not None}
    assert reached == {
        "model.language_model.",
        "model.language_model.embed_tokens.weight",
        "model.language_model.norm.weight",
        "lm_head.weight",
    }
    assert losses.characters_head.linear.weight.grad is None and "characters_right" not in figures
    awake, _ = losses(batch | {"freeze_vision": torch.tensor(False)})
    assert awake > loss, "the character loss comes on top"


def test_first_characters_count_more(recipe, small, tiny_model):
    losses = Losses(tiny_model("qwen2"), small, recipe(first_weight=8.0))
    labels = torch.tensor([[IGNORE, 4, 5, IGNORE, IGNORE, 6, 7], [3, IGNORE, IGNORE, 4, 4, 4, IGNORE]])
    first = torch.tensor([[0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0]]).bool()
    weights = losses._weights(labels, first)
    assert weights.tolist() == [[0, 8, 1, 0, 0, 8, 1], [8, 0, 0, 8, 1, 1, 0]]
    logits = torch.zeros(14, 10)
    logits[1, 4] = 50.0  # the first character of the first answer is right, all others are any of ten
    loss, figures = losses._text(logits, labels.flatten(), weights.flatten(), first.flatten())
    torch.testing.assert_close(loss, torch.tensor((36 - 8) / 36 * math.log(10)))
    assert (figures["first_right"], figures["next_right"]) == (0.25, 0.125)


def test_what_ends_an_answer_may_count_more(recipe, small, tiny_model):
    losses = Losses(tiny_model("qwen2"), small, recipe(first_weight=8.0, end_weight=4.0))
    end = small.encode_answer("")[0]
    (newline,) = small.tokenizer("\n", add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[IGNORE, 40, 41, newline, 42, end, IGNORE, end]])
    assert losses._weights(labels, torch.arange(8)[None] == 1).tolist() == [[0, 8, 1, 1, 1, 4, 0, 4]], "a line break once"


def test_where_to_look_first_counts_more_too(recipe, small, tiny_model, monkeypatch):
    """Of two characters of an answer, the first is looked for with a loss of 1, the second with 3."""
    config = recipe(first_weight=8.0, attention_losses=AttentionLosses(next_char=1.0), characters_weight=0.0)
    losses = Losses(tiny_model("qwen2"), small, config)
    monkeypatch.setattr(supervision, "attention_loss", lambda *_: torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    next_char_pos = torch.full((1, 4, 3), -1)
    next_char_pos[0, 1:3, 0] = 0
    batch = {
        "tiles": torch.zeros(0, 3, 28, 28, dtype=torch.uint8),
        "input_ids": torch.tensor([[20, 21, 22, 23]]),
        "labels": torch.tensor([[IGNORE, IGNORE, 22, 23]]),
        "next_char_pos": next_char_pos,
        "this_char_pos": next_char_pos,
        "query_word_pos": torch.full((1, 4, 3), -1),
        "line_start_pos": torch.full((1, 4, 3), -1),
        "is_first": torch.tensor([[False, False, True, False]]),
        "lengths": torch.tensor([4]),
        "tile_counts": torch.tensor([0]),
    }
    encoded = losses.model.model.get_image_features(pixel_values=torch.zeros(1, 3, 28, 28))
    monkeypatch.setattr(losses.model, "forward", lambda **_: type("Outputs", (), {"logits": torch.zeros(1, 4, 30)}))
    _, figures = losses._read(batch, encoded)
    torch.testing.assert_close(figures["next_char_loss"], torch.tensor((8 * 1 + 3) / 9))
