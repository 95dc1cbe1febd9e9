"""Targets are held against what the model attends to, and against where its tokens are."""

import math

import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.training.nano.attention_supervision import (
    FIRST_HEADS,
    LAST_HEADS,
    MOST_TILES,
    AttentionSupervision,
    PlacesHead,
    TargetLoss,
    attention_loss,
    attention_targets,
    on_first_level,
    weighted_sum,
)
from minimonkey.training.nano.batches import Batches
from minimonkey.training.nano.config import AttentionLosses, Source
from minimonkey.training.nano.labels import IGNORE
from minimonkey.training.nano.losses import Losses, normalise
from minimonkey.training.nano.model_edits import apply_edits, insert_layer


def test_the_loss_is_the_share_of_attention_on_the_next_character(recipe, small, tiny_model):
    """Queries and keys are set so that every position looks evenly at all that it may see."""
    text = tiny_model("qwen2").model.language_model
    (target,) = attention_targets(recipe(attention_losses=AttentionLosses(next_char=1.0)), 2)
    attention = text.layers[target.layer].self_attn
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    seen = torch.randn(1, 8, 32), (torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    next_char_pos = torch.full((1, 8, 3), -1)
    next_char_pos[0, 4], next_char_pos[0, 6] = torch.tensor([1, 3, -1]), torch.tensor([-1, 0, -1])
    said = attention_loss(text, {target.layer: seen}, target, next_char_pos)
    assert said.shape == (2, 2), "two positions, two heads"
    torch.testing.assert_close(said[:, 0], torch.tensor([math.log(5 / 2), math.log(7)]))
    torch.testing.assert_close(said[:, 1], said[:, 0])


@pytest.mark.parametrize(("heads", "which"), [(FIRST_HEADS, [0, 1]), (LAST_HEADS, [2, 3])], ids=["first", "last"])
@pytest.mark.parametrize("text", ["qwen2", "llama"])
def test_the_loss_is_of_the_attention_that_the_model_computes(recipe, small, tiny_model, text, heads, which):
    """Of two of four heads, which share one of two key heads; held against transformers' own maps."""
    model = tiny_model(text)
    supervision = Losses(model, small, recipe(attention_losses=AttentionLosses(next_char=1.0))).supervision
    target = supervision.targets[0]._replace(heads=heads)
    ids = torch.randint(10, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    next_char_pos = torch.full((2, 9, 3), -1)
    next_char_pos[0, 6], next_char_pos[1, 8] = torch.tensor([2, 5, -1]), torch.tensor([0, -1, -1])
    with torch.no_grad():
        with supervision.capture_inputs(model.model.language_model) as seen:
            model(input_ids=ids)
        ours = attention_loss(model.model.language_model, seen, target, next_char_pos)
        model.set_attn_implementation("eager")
        maps = model(input_ids=ids, output_attentions=True).attentions[target.layer][:, which]
    shares = torch.stack((maps[0, :, 6, [2, 5]].sum(-1), maps[1, :, 8, 0]))
    torch.testing.assert_close(ours, -shares.log(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_this_char_is_where_the_latest_character_was_read(recipe, small, tiny_model):
    """What a position looked for is what the next one looks back at, in the layer before."""
    model = tiny_model("qwen2", pyramid=None)
    insert_layer(model, 1)
    config = recipe(
        mixture=(Source("line", max_tiles=6),),
        attention_losses=AttentionLosses(next_char=1.0, this_char=0.5),
        characters_weight=0.0,
    )
    losses = Losses(model, small, config)
    assert [(target.name, target.layer) for target in losses.supervision.targets] == [("next_char", 2), ("this_char", 1)]
    batch = Batches(config, small, 7)[0]
    loss, figures = losses(batch)
    parts = figures["text_loss"] + figures["next_char_loss"] + 0.5 * figures["this_char_loss"]
    torch.testing.assert_close(loss, parts)
    model.set_attn_implementation("eager")
    maps = model(input_ids=batch["input_ids"], pixel_values=normalise(batch["tiles"], small), output_attentions=True).attentions[1]
    shares = [
        maps[row, :2, position + 1, [place for place in places.tolist() if place >= 0]].sum(-1)
        for row, next_char_pos in enumerate(batch["next_char_pos"])
        for position, places in enumerate(next_char_pos[:-1])
        if (places >= 0).any()
    ]
    torch.testing.assert_close(figures["this_char_loss"], -torch.stack(shares).log().mean(), rtol=1e-4, atol=1e-4)


def test_of_three_levels_the_first_that_shows_something_counts():
    places = torch.tensor([[[5, 7, 9], [-1, 7, 9], [-1, -1, 9], [-1, -1, -1], [0, -1, 9]]])
    wanted = torch.tensor([[[5, -1, -1], [-1, 7, -1], [-1, -1, 9], [-1, -1, -1], [0, -1, -1]]])
    assert torch.equal(on_first_level(places), wanted)


def test_what_a_question_finds_and_what_that_leads_to_is_looked_for_on_the_first_level(recipe, small, tiny_model):
    """Attention is even: missing two of three levels costs log 3. The look at the next character may be on any level."""
    model = tiny_model("qwen2", pyramid=None)
    for _ in range(2):
        insert_layer(model, 1)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.q_proj.bias.zero_()
    supervision = Losses(
        model, small, recipe(attention_losses=AttentionLosses(next_char=1.0, this_char=1.0, query_word=1.0))
    ).supervision
    batch = {name: torch.full((1, 9, 3), -1) for name in ("next_char_pos", "this_char_pos", "query_word_pos", "line_start_pos")}
    batch |= {"input_ids": torch.zeros(1, 9, dtype=torch.long)}
    batch["this_char_pos"][0, 5] = batch["next_char_pos"][0, 7] = batch["next_char_pos"][0, 8] = torch.tensor([1, 2, 3])
    batch["query_word_pos"][0, 7, 0] = 5
    with torch.no_grad(), supervision.capture_inputs(model.model.language_model) as seen:
        model(input_ids=torch.full((1, 9), 20))
        parts = {part.name: part.losses.tolist() for part in supervision(model.model.language_model, seen, batch, torch.ones(1, 9))}
    assert parts["this_char"] == pytest.approx([math.log(6)])
    assert parts["query_word"] == pytest.approx([math.log(8)])
    assert parts["found_char"] == pytest.approx([math.log(8)])
    assert parts["next_char"] == pytest.approx([math.log(9 / 3)])


def test_targets_move_with_a_layer_that_is_put_in(recipe, small, tiny_model):
    """Of two layers the second reads, of three the third does: in front of it there is one for `this_char`."""
    config = recipe(attention_losses=AttentionLosses(next_char=1.0), insert_layer=1)
    losses = Losses(tiny_model("qwen2", pyramid=None), small, config)
    assert [(target.name, target.layer) for target in losses.supervision.targets] == [
        ("next_char", 1)
    ] and losses.supervision.reading_layer == 1
    apply_edits(losses, config)
    assert [(target.name, target.layer) for target in losses.supervision.targets] == [
        ("next_char", 2)
    ] and losses.supervision.reading_layer == 2


def test_this_char_needs_a_layer_before(recipe, small, tiny_model):
    with pytest.raises(
        UsageError, match="attention_losses.this_char needs a language model of more layers than the 2 of this one; set it to 0"
    ):
        Losses(tiny_model("qwen2"), small, recipe(attention_losses=AttentionLosses(this_char=1.0)))


@torch.no_grad()
def test_first_characters_attend_to_what_the_question_names(recipe, small, tiny_model):
    """In the last heads of the reading layer; what they name leads the layer behind to the next character, not this one."""
    model = tiny_model("qwen2", pyramid=None)
    for _ in range(2):
        insert_layer(model, 1)
    line = Source("line", max_tiles=6)
    config = recipe(mixture=(line,), attention_losses=AttentionLosses(next_char=1.0, query_word=0.5), characters_weight=0.0)
    losses = Losses(model, small, config)
    assert [(target.name, target.layer) for target in losses.supervision.targets] == [
        ("next_char", 2),
        ("query_word", 2),
        ("found_char", 3),
    ]
    batch = Batches(config, small, 7)[0]
    first = (batch["labels"][0] != IGNORE).int().argmax() - 1
    batch["query_word_pos"][0, first], batch["query_word_pos"][0, first + 1] = torch.tensor([1, 3, -1]), torch.tensor([3, 2, 1])
    loss, figures = losses(batch)
    torch.testing.assert_close(
        loss, figures["text_loss"] + figures["next_char_loss"] + 0.5 * (figures["query_word_loss"] + figures["found_char_loss"])
    )
    model.set_attn_implementation("eager")
    pixel_values = normalise(batch["tiles"], small)
    maps = model(input_ids=batch["input_ids"], pixel_values=pixel_values, output_attentions=True).attentions
    recalled = (batch["query_word_pos"] >= 0).any(-1)
    for name, layer, heads, places in (
        ("query_word", 2, [2, 3], batch["query_word_pos"]),
        ("next_char", 2, [0, 1], batch["next_char_pos"].masked_fill(recalled[..., None], -1)),
        ("found_char", 3, [2, 3], batch["next_char_pos"].masked_fill(~recalled[..., None], -1)),
    ):
        shares = [
            torch.stack([maps[layer][row, head, place, [p for p in places[row, place].tolist() if p >= 0]].sum() for head in heads])
            for row, place in (places >= 0).any(-1).nonzero().tolist()
        ]
        torch.testing.assert_close(figures[f"{name}_loss"], -torch.stack(shares).log().mean(), rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("layers", "fits"), [(2, False), (3, False), (4, True), (5, True)])
def test_query_words_need_a_layer_behind_the_one_that_reads(recipe, layers, fits):
    if fits:
        assert attention_targets(recipe(attention_losses=AttentionLosses(query_word=1.0)), layers)[-1].layer < layers
    else:
        with pytest.raises(
            UsageError, match=f"attention_losses.query_word needs a language model of more layers than the {layers} of this one"
        ):
            attention_targets(recipe(attention_losses=AttentionLosses(query_word=1.0)), layers)


def test_places_are_told_by_tile_row_and_column():
    """A head that says tile 2, row 1, column 3 for sure, in tiles of 4 x 4 tokens."""
    head = PlacesHead(8, side=4)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.zero_()
        head.linear.bias[[2, MOST_TILES + 1, MOST_TILES + 4 + 3]] = 30.0
    hidden = torch.randn(4, 8)
    missed = head(hidden, torch.tensor([39, 35, 7, 100 * 16 + 7]))
    torch.testing.assert_close(missed, torch.tensor([0.0, 30.0, 30.0, 30.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        head(hidden, torch.tensor([7, 6, 0, 23]), tiles_too=False), torch.tensor([0.0, 30.0, 60.0, 0.0]), rtol=1e-4, atol=1e-4
    )


def test_whose_places_are_asked_for_where(recipe, monkeypatch):
    """One row: two tokens of text, a picture of 8 in tiles of 2 x 2, a question whose "Tea" stands at 5, an answer read at 6."""
    asked = []
    monkeypatch.setattr(
        PlacesHead,
        "forward",
        lambda self, hidden, places, tiles_too: asked.append((hidden[:, 0].tolist(), places.tolist(), tiles_too)) or hidden[:, 0],
    )
    supervision = AttentionSupervision(recipe(attention_losses=AttentionLosses(place=0.3)), 4, width=8, side=2, image_token_id=5)
    ids = torch.tensor([[9, 9, *[5] * 8, 20, 21, 22, 23]])
    batch = {"input_ids": ids} | {
        name: torch.full((1, 14, 3), -1) for name in ("next_char_pos", "this_char_pos", "query_word_pos", "line_start_pos")
    }
    batch["line_start_pos"][0, [4, 8], 0] = 4
    batch["this_char_pos"][0, 10] = torch.tensor([-1, 7, -1])
    batch["this_char_pos"][0, 12] = torch.tensor([8, 9, -1])
    batch["query_word_pos"][0, 11] = torch.tensor([10, -1, -1])
    seen = {layer: (100.0 * layer + torch.arange(14.0)[None, :, None].expand(1, 14, 8), None) for layer in range(4)}
    parts = supervision(None, seen, batch, torch.ones(1, 14))
    assert [(part.name, part.weight) for part in parts] == [
        (f"place_{name}", 0.3) for name in ("features", "image_token", "this_char", "query_word")
    ]
    assert asked == [
        ([4.0, 8.0], [2, 6], False),
        ([104.0, 108.0], [2, 6], True),
        ([210.0, 212.0], [5, 6], True),
        ([311.0], [5], True),
    ]


def test_parts_of_a_target_are_one_mean():
    parts = [
        TargetLoss("a", 2.0, torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])),
        TargetLoss("b", 1.0, torch.tensor([]), torch.tensor([])),
        TargetLoss("a", 2.0, torch.tensor([6.0]), torch.tensor([3.0])),
    ]
    loss, figures = weighted_sum(parts)
    assert {name: float(figure) for name, figure in figures.items()} == {"a_loss": 4.5, "b_loss": 0.0}
    assert float(loss) == 9.0
    assert weighted_sum([]) == (0.0, {})


def test_every_target_reaches_the_model(recipe, small, tiny_model):
    """All at once, on rows as they come: a loss of each, and gradients from first to last layer and in the head of places."""
    model = tiny_model("qwen2", pyramid=None).train()
    for _ in range(2):
        insert_layer(model, 1)
    names = ("next_char", "this_char", "line_start", "query_word", "place")
    line = Source("line", max_tiles=6)
    config = recipe(mixture=(line,), characters_weight=0.0, attention_losses=AttentionLosses(**dict.fromkeys(names, 0.5)))
    losses = Losses(model, small, config)
    batch = Batches(config, small, 7)[0]
    first = int((batch["labels"][0] != IGNORE).int().argmax()) - 1
    batch["query_word_pos"][0, first, 0] = int(batch["this_char_pos"][0].amax(-1).argmax())
    loss, figures = losses(batch)
    loss.backward()
    parts = [name for name in figures if name.endswith("_loss") and name != "text_loss"]
    assert len(parts) == 9 and all(figures[name] > 0 for name in parts)
    torch.testing.assert_close(loss.detach(), figures["text_loss"] + 0.5 * sum(figures[name] for name in parts))
    assert losses.heads["places_head"].linear.weight.grad.abs().sum() > 0
    for layer in model.model.language_model.layers:
        assert layer.self_attn.q_proj.weight.grad.abs().sum() > 0
