"""Configurations and processors of a few steps and tiles; samples of what comes with minimonkey, the same on every machine."""

import pytest


@pytest.fixture
def recipe():
    """Make a configuration of four steps: `recipe(attention_losses=AttentionLosses(next_char=1.0))` takes what differs."""
    from minimonkey.training.nano.config import Source, TrainConfig

    def make(**changes) -> TrainConfig:
        mixture = (Source("tile", zoom=(0.5, 1.0)), Source("line", max_tiles=6))
        settings = {"stage": "read", "material": "package", "mixture": mixture, "tiles_per_batch": 6, "characters_weight": 0.5}
        return TrainConfig(name="x", steps=4, start="y", **(settings | changes))

    return make


@pytest.fixture
def small(tiny_processor):
    """A processor of plain tiling, six tiles at most."""
    return tiny_processor(detail=(1, 6), adaptive=None, max_upscale=1.0, fit="pad")
