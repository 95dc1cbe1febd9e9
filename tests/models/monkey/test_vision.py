"""Windows and their adapters: each window its own, all in one batch, and the resampler behind them."""

import pytest
import torch

from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models.monkey.configuration import MonkeyVisionConfig
from minimonkey.models.monkey.vision import WindowAdapters, resized


def test_an_adapter_is_the_sum_of_its_definition():
    adapters = WindowAdapters(2, width=3, rank=2, out=4, dropout=0.0)
    torch.manual_seed(0)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(4, 5, 3)
    output = adapters(hidden, torch.tensor([1, 0, 2, 1]))
    for row, number in ((0, 1), (1, 0), (3, 1)):
        down = hidden[row] @ adapters.lora_a[number].T
        torch.testing.assert_close(output[row], down @ adapters.lora_b[number].T * adapters.lora_scale[number])
    assert not output[2].any(), "beyond the last number there is none"


def test_dropout_is_for_training_alone():
    adapters = WindowAdapters(1, width=64, rank=2, out=4, dropout=0.5)
    torch.nn.init.normal_(adapters.lora_a)
    torch.nn.init.normal_(adapters.lora_b)
    hidden, kinds = torch.randn(1, 5, 64), torch.tensor([0])
    assert torch.equal(adapters.eval()(hidden, kinds), adapters(hidden, kinds))
    assert not torch.equal(adapters.train()(hidden, kinds), adapters(hidden, kinds))


def test_a_new_adapter_changes_nothing(tiny_monkey):
    from minimonkey.models.monkey.modeling import MonkeyForConditionalGeneration

    fresh = MonkeyForConditionalGeneration(tiny_monkey().config).eval().model
    tiles = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        bare, adapted = fresh.encode_tiles(tiles), fresh.encode_tiles(tiles, torch.tensor([0, 1]))
    assert torch.equal(bare.pooler_output, adapted.pooler_output)


def test_one_batch_is_window_by_window(tiny_monkey):
    model, tiles = tiny_monkey().model, torch.randn(6, 3, 28, 28)
    level_tiles = torch.tensor([[2, 0, 1], [2, 0, 1]])
    with torch.no_grad():
        together = model.get_image_features(tiles, level_tiles=level_tiles).pooler_output
        kinds = [0, 1, 2, 0, 1, 2]
        alone = [model.encode_tiles(tiles[n : n + 1], torch.tensor([kind])).pooler_output for n, kind in enumerate(kinds)]
    assert together.shape == (6, 4, 32)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_equal_windows_of_other_numbers_differ(tiny_monkey):
    """They are encoded once only if their adapters are the same."""
    model, tile = tiny_monkey().model, torch.randn(1, 3, 28, 28)
    tiles, seen = tile.expand(6, -1, -1, -1).contiguous(), []
    encode = model.encode_tiles
    model.encode_tiles = lambda pixels, kinds, **how: (seen.append(kinds.tolist()), encode(pixels, kinds, **how))[1]
    with torch.no_grad():
        features = model.get_image_features(tiles, level_tiles=torch.tensor([[2, 0, 1], [2, 0, 1]])).pooler_output
    assert seen == [[0, 1, 2]]
    assert torch.equal(features[:3], features[3:])
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize(
    ("level_tiles", "order", "kinds"),
    [
        ([[2, 0, 1]], None, [0, 1, 2]),
        ([[2, 3, 1]], None, [0, 1, 2, 2, 2, 2]),
        ([[2, 2, 1]], ("thumbnail", "adaptive", "detail"), [2, 2, 2, 0, 1]),
        ([[0, 0, 1], [1, 0, 1]], None, [2, 0, 2]),
    ],
)
def test_which_adapter_a_tile_has(tiny_monkey, level_tiles, order, kinds):
    tiles = torch.zeros(len(kinds), 3, 28, 28)
    assert tiny_monkey().model.tile_kinds(tiles, torch.tensor(level_tiles), order).tolist() == kinds


@pytest.mark.parametrize(
    ("tiles", "level_tiles", "message"),
    [
        (4, None, "4 tiles of pictures with 2 windows and a global view each: give level_tiles"),
        (4, [[3, 0, 1]], "a picture has 3 windows, and this model adapters for 2"),
        (4, [[2, 0, 1]], "level_tiles tell of 3 tiles, pixel_values have 4"),
    ],
)
def test_tiles_that_fit_no_adapter(tiny_monkey, tiles, level_tiles, message):
    levels = None if level_tiles is None else torch.tensor(level_tiles)
    with torch.no_grad(), pytest.raises(UsageError, match=message):
        tiny_monkey().model.get_image_features(torch.zeros(tiles, 3, 28, 28), level_tiles=levels)


def test_six_windows(tiny_monkey, prompt):
    """The paper's larger setting, 1344x896: six windows, six adapters."""
    network, tiles = tiny_monkey(adapters=6), torch.randn(7, 3, 28, 28)
    with torch.no_grad():
        output = network(input_ids=prompt(28), pixel_values=tiles, level_tiles=torch.tensor([[6, 0, 1]]))
        other = network(input_ids=prompt(28), pixel_values=tiles[[0, 1, 2, 3, 5, 4, 6]], level_tiles=torch.tensor([[6, 0, 1]]))
    assert output.logits.shape == (1, 35, 64)
    assert not torch.allclose(output.logits, other.logits)


def test_checkpointed_gradients_are_the_same(tiny_monkey, prompt):
    inputs = {"input_ids": prompt(12), "pixel_values": torch.randn(3, 3, 28, 28), "level_tiles": torch.tensor([[2, 0, 1]])}
    found = []
    for checkpointing in (False, True):
        network = tiny_monkey().train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
            enable()  # whichever name the installed transformers has
        network(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*found, strict=True))


def test_tables_of_positions():
    table = torch.arange(8.0).view(4, 2)
    assert resized(table, 4) is table
    assert resized(table.half(), 16).shape == (16, 2)
    with pytest.raises(CheckpointError, match="vision_config.queries is 200; expected a square number"):
        MonkeyVisionConfig(queries=200)


def test_what_the_encoder_has_no_class_token_for(tiny_monkey):
    with torch.no_grad(), pytest.raises(UsageError, match="visionzip watches the encoder's class token, and Monkey's has none"):
        tiny_monkey().model.get_image_features(torch.zeros(3, 3, 28, 28), cls_attention=True)
