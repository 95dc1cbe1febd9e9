"""Losses reach what they should, and are what they say."""

import math

import pytest
import torch

from minimonkey.data.synthetic import words
from minimonkey.errors import UsageError
from minimonkey.training import losses as module
from minimonkey.training.batches import Batches
from minimonkey.training.config import Ingredient
from minimonkey.training.labels import CLASS_OF, IGNORE, POINTS, SLOTS
from minimonkey.training.losses import FIRST_HEADS, LAST_HEADS, Losses, _first, groups, lessons
from minimonkey.training.run import insert_layer


@pytest.mark.parametrize("stage", ["characters", "read"])
def test_losses_reach_the_parameters_they_should(recipe, pillow_text, small, tiny_model, stage):
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


def test_looking_is_the_share_of_attention_on_the_next_character(recipe, small, tiny_model):
    """Queries and keys are set so that every position looks evenly at all that it may see."""
    losses = Losses(tiny_model("qwen2"), small, recipe(looking_weight=1.0))
    (lesson,) = losses.lessons
    attention = losses.model.model.language_model.layers[lesson.layer].self_attn
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    seen = torch.randn(1, 8, 32), (torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    looks = torch.full((1, 8, 3), -1)
    looks[0, 4], looks[0, 6] = torch.tensor([1, 3, -1]), torch.tensor([-1, 0, -1])
    said = losses._looking({lesson.layer: seen}, lesson, looks)
    assert said.shape == (2, 2), "two positions, two heads"
    torch.testing.assert_close(said[:, 0], torch.tensor([math.log(5 / 2), math.log(7)]))
    torch.testing.assert_close(said[:, 1], said[:, 0])


@pytest.mark.parametrize(("heads", "which"), [(FIRST_HEADS, [0, 1]), (LAST_HEADS, [2, 3])], ids=["first", "last"])
@pytest.mark.parametrize("text", ["qwen2", "llama"])
def test_looking_is_the_attention_that_the_model_computes(recipe, small, tiny_model, text, heads, which):
    """Of two of four heads, which share one of two key heads; held against transformers' own maps."""
    model = tiny_model(text)
    losses = Losses(model, small, recipe(looking_weight=1.0))
    lesson = losses.lessons[0]._replace(heads=heads)
    ids = torch.randint(10, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    looks = torch.full((2, 9, 3), -1)
    looks[0, 6], looks[1, 8] = torch.tensor([2, 5, -1]), torch.tensor([0, -1, -1])
    with torch.no_grad():
        with losses._watched({lesson.layer}) as seen:
            model(input_ids=ids)
        ours = losses._looking(seen, lesson, looks)
        model.set_attn_implementation("eager")
        maps = model(input_ids=ids, output_attentions=True).attentions[lesson.layer][:, which]
    shares = torch.stack((maps[0, :, 6, [2, 5]].sum(-1), maps[1, :, 8, 0]))
    torch.testing.assert_close(ours, -shares.log(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_anchor_is_where_the_latest_character_was_read(pillow_text, recipe, small, tiny_model):
    """What a position looked for is what the next one looks back at, in the layer before."""
    model = tiny_model("qwen2", pyramid=None)
    insert_layer(model, 1)
    config = recipe(mixture=(Ingredient("line", max_tiles=6),), looking_weight=1.0, anchor_weight=0.5, characters_weight=0.0)
    losses = Losses(model, small, config)
    assert [(lesson.name, lesson.layer) for lesson in losses.lessons] == [("looking", 2), ("anchor", 1)]
    batch = Batches(config, small, 7)[0]
    loss, figures = losses(batch)
    parts = figures["text_loss"] + figures["looking_loss"] + 0.5 * figures["anchor_loss"]
    torch.testing.assert_close(loss, parts)
    model.set_attn_implementation("eager")
    maps = model(
        input_ids=batch["input_ids"], pixel_values=module.normalise(batch["tiles"], small), output_attentions=True
    ).attentions[1]
    shares = [
        maps[row, :2, position + 1, [place for place in places.tolist() if place >= 0]].sum(-1)
        for row, looks in enumerate(batch["looks"])
        for position, places in enumerate(looks[:-1])
        if (places >= 0).any()
    ]
    torch.testing.assert_close(figures["anchor_loss"], -torch.stack(shares).log().mean(), rtol=1e-4, atol=1e-4)


def test_a_batch_whose_answers_stand_nowhere_teaches_all_the_same(pillow_text, recipe, small, tiny_model):
    """ "unanswerable", "yes": nothing to look at. A mean of nothing would make every weight NaN."""
    model = tiny_model("qwen2", pyramid=None).train()
    insert_layer(model, 1)
    config = recipe(mixture=(Ingredient("line", max_tiles=6),), looking_weight=1.0, anchor_weight=0.5, characters_weight=0.0)
    batch = Batches(config, small, 7)[0]
    batch["looks"][:] = batch["stands"][:] = batch["recalls"][:] = -1
    loss, figures = Losses(model, small, config)(batch)
    loss.backward()
    assert figures["looking_loss"] == figures["anchor_loss"] == 0
    torch.testing.assert_close(loss.detach(), figures["text_loss"])
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_an_anchor_needs_a_layer_before(recipe, small, tiny_model):
    with pytest.raises(UsageError, match="anchor_weight needs a language model of more layers than the 2 of this one; set it to 0"):
        Losses(tiny_model("qwen2"), small, recipe(anchor_weight=1.0))


@torch.no_grad()
def test_first_characters_recall_what_the_question_names(pillow_text, recipe, small, tiny_model):
    """In the layer that looks, in its last heads; what is recalled tells the layer behind where to look, not this one."""
    model = tiny_model("qwen2", pyramid=None)
    for _ in range(2):
        insert_layer(model, 1)
    line = Ingredient("line", max_tiles=6)
    config = recipe(mixture=(line,), looking_weight=1.0, recall_weight=0.5, characters_weight=0.0)
    losses = Losses(model, small, config)
    assert [(lesson.name, lesson.layer) for lesson in losses.lessons] == [("looking", 2), ("recall", 2), ("again", 3)]
    batch = Batches(config, small, 7)[0]
    first = (batch["labels"][0] != IGNORE).int().argmax() - 1
    batch["recalls"][0, first], batch["recalls"][0, first + 1] = torch.tensor([1, 3, -1]), torch.tensor([3, 2, 1])
    loss, figures = losses(batch)
    torch.testing.assert_close(
        loss, figures["text_loss"] + figures["looking_loss"] + 0.5 * (figures["recall_loss"] + figures["again_loss"])
    )
    model.set_attn_implementation("eager")
    pixel_values = module.normalise(batch["tiles"], small)
    maps = model(input_ids=batch["input_ids"], pixel_values=pixel_values, output_attentions=True).attentions
    recalled = (batch["recalls"] >= 0).any(-1)
    for name, layer, heads, places in (
        ("recall", 2, [2, 3], batch["recalls"]),
        ("looking", 2, [0, 1], batch["looks"].masked_fill(recalled[..., None], -1)),
        ("again", 3, [0, 1], batch["looks"]),
    ):
        shares = [
            torch.stack([maps[layer][row, head, place, [p for p in places[row, place].tolist() if p >= 0]].sum() for head in heads])
            for row, place in (places >= 0).any(-1).nonzero().tolist()
        ]
        torch.testing.assert_close(figures[f"{name}_loss"], -torch.stack(shares).log().mean(), rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("layers", "fits"), [(2, False), (3, False), (4, True), (5, True)])
def test_recalling_needs_a_layer_behind_the_one_that_looks(recipe, layers, fits):
    if fits:
        assert lessons(recipe(recall_weight=1.0), layers)[-1].layer < layers
    else:
        with pytest.raises(UsageError, match=f"recall_weight needs a language model of more layers than the {layers} of this one"):
            lessons(recipe(recall_weight=1.0), layers)


def test_alignment_needs_single_characters(recipe, small, tiny_model):
    with pytest.raises(UsageError, match="alignment_weight needs a tokenizer with a token for each character"):
        Losses(tiny_model("qwen2"), small, recipe(alignment_weight=1.0))


def test_rows_are_grouped_where_least_is_padded():
    assert groups([5, 5, 5], [1, 2, 3]) == [(slice(0, None), slice(0, None), 5)]
    assert groups([2, 3, 9, 10], [1, 1, 4, 5]) == [(slice(2), slice(2), 3), (slice(2, None), slice(2, None), 10)]
    assert groups([7], [2]) == [(slice(0, None), slice(0, None), 7)]


def test_groups_change_no_loss(recipe, pillow_text, small, tiny_model, monkeypatch):
    """The model sees each row as it does among all others, padded: with the mask that the groups do without."""
    config = recipe(mixture=(Ingredient("line", max_tiles=6),), looking_weight=1.0, tiles_per_batch=12)
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
    assert figures.keys() == one_figures.keys() and "looking_loss" in figures
    for name, figure in figures.items():
        torch.testing.assert_close(figure, one_figures[name], msg=name)


def test_an_encoder_that_rests_learns_nothing(pillow_text, recipe, small, tiny_model):
    config = recipe(mixture=(Ingredient("line", max_tiles=6, encoder_rests=True),), alignment_weight=0.0)
    batch = Batches(config, small, 7)[0]
    assert bool(batch["encoder_rests"])
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
    awake, _ = losses(batch | {"encoder_rests": torch.tensor(False)})
    assert awake > loss, "the character loss comes on top"


def test_first_characters_count_more(recipe, small, tiny_model):
    losses = Losses(tiny_model("qwen2"), small, recipe(first_weight=8.0))
    labels = torch.tensor([[IGNORE, 4, 5, IGNORE, IGNORE, 6, 7], [3, IGNORE, IGNORE, 4, 4, 4, IGNORE]])
    first = _first(labels)
    assert first.int().tolist() == [[0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0]]
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
    labels = torch.tensor([[IGNORE, 40, 41, end, IGNORE, end]])
    assert losses._weights(labels, _first(labels)).tolist() == [[0, 8, 1, 4, 0, 4]]


def test_where_to_look_first_counts_more_too(recipe, small, tiny_model, monkeypatch):
    """Of two characters of an answer, the first is looked for with a loss of 1, the second with 3."""
    config = recipe(first_weight=8.0, looking_weight=1.0, characters_weight=0.0)
    losses = Losses(tiny_model("qwen2"), small, config)
    monkeypatch.setattr(losses, "_looking", lambda *_: torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    looks = torch.full((1, 4, 3), -1)
    looks[0, 1:3, 0] = 0
    batch = {
        "tiles": torch.zeros(0, 3, 28, 28, dtype=torch.uint8),
        "input_ids": torch.tensor([[20, 21, 22, 23]]),
        "labels": torch.tensor([[IGNORE, IGNORE, 22, 23]]),
        "looks": looks,
        "stands": looks,
        "recalls": torch.full((1, 4, 3), -1),
        "begins": torch.full((1, 4, 3), -1),
        "lengths": torch.tensor([4]),
        "tile_counts": torch.tensor([0]),
    }
    encoded = losses.model.model.get_image_features(pixel_values=torch.zeros(1, 3, 28, 28))
    monkeypatch.setattr(losses.model, "forward", lambda **_: type("Outputs", (), {"logits": torch.zeros(1, 4, 30)}))
    _, figures = losses._read(batch, encoded)
    torch.testing.assert_close(figures["looking_loss"], torch.tensor((8 * 1 + 3) / 9))
