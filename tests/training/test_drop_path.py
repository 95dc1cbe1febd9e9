"""A tile skips a branch now and then, and what is left is scaled so that its expected value stays."""

import pytest
import torch
from torch import nn

from minimonkey.training.drop_path import DropPath, add_drop_path


@pytest.mark.parametrize("wrap", [lambda tensor: tensor, lambda tensor: (tensor, "weights")])
def test_the_expected_value_stays(wrap):
    torch.manual_seed(0)
    module, branch = nn.Identity().train(), torch.ones(20000, 3, 2)
    output = DropPath(0.3)(module, None, wrap(branch))
    dropped = output[0] if isinstance(output, tuple) else output
    kept = dropped[:, 0, 0] > 0
    assert torch.equal(dropped, kept[:, None, None] * branch / 0.7), "a tile as a whole, and all of it"
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01) and dropped.mean().item() == pytest.approx(1, abs=0.015)
    assert not isinstance(output, tuple) or output[1] == "weights"


def test_nothing_is_left_out_when_asked(tiny_model):
    model = tiny_model()
    layers, pixels = model.model.vision_tower.encoder.layer, torch.randn(2, 3, 28, 28)
    expected = model.model.get_image_features(pixels, return_dict=True).pooler_output
    add_drop_path(layers, 0.9)
    assert torch.equal(model.eval().model.get_image_features(pixels, return_dict=True).pooler_output, expected)
    assert not torch.equal(model.train().model.get_image_features(pixels, return_dict=True).pooler_output, expected)


def test_the_rate_grows_with_depth(tiny_model):
    """Of two layers the first has rate 0, the last 0.5: its mean over many draws is what it is without, for its last branch."""
    model = tiny_model().train()
    layer = model.model.vision_tower.encoder.layer[-1]
    add_drop_path(model.model.vision_tower.encoder.layer, 0.5)
    parts = [part for each in model.model.vision_tower.encoder.layer for part in (each.attention, each.mlp)]
    assert [next(iter(part._forward_hooks.values())).rate for part in parts] == [0.0, 0.0, 0.5, 0.5]
    torch.manual_seed(0)
    hidden = torch.randn(1, 5, 32).expand(4000, -1, -1)
    with torch.no_grad():
        expected = layer.attention.eval()(hidden[:1])[0]
        mean = layer.attention.train()(hidden)[0].mean(0)
    assert torch.allclose(mean, expected[0], atol=0.1 * expected.abs().max().item())
