"""Samples that need nothing installed."""

import pytest


@pytest.fixture
def pillow_text(monkeypatch):
    """Training draws in Pillow's own typeface and in made-up words."""
    from minimonkey.synthetic import document
    from minimonkey.synthetic.material import typefaces, words
    from minimonkey.synthetic.rendering import lines
    from minimonkey.training.nano import batches

    text = "".join(f"\n{a}{b}" for a in "bdgklmnprst" for b in "aeiou") + "\n"

    ours = {"typefaces": [typefaces.PILLOW], "words": words.Vocabulary((text.encode(),), (1.0,), "train"), "split": "train"}
    monkeypatch.setattr(batches, "make_sample", lambda seed, kind, **settings: lines.make_sample(seed, kind, **settings | ours))
    monkeypatch.setattr(
        batches, "make_document", lambda seed, kind, **settings: document.make_document(seed, kind, **settings | ours)
    )


@pytest.fixture
def recipe():
    """Make a configuration of four steps: `recipe(looking_weight=1.0)` takes what differs."""
    from minimonkey.training.nano.config import Ingredient, TrainConfig

    def make(**changes) -> TrainConfig:
        mixture = (Ingredient("tile", zoom=(0.5, 1.0)), Ingredient("line", max_tiles=6))
        settings = {"stage": "read", "mixture": mixture, "tiles_per_batch": 6, "characters_weight": 0.5}
        return TrainConfig(name="x", steps=4, start="y", **(settings | changes))

    return make


@pytest.fixture
def small(tiny_processor):
    """A processor of plain tiling, six tiles at most."""
    return tiny_processor(detail=(1, 6), adaptive=None, max_upscale=1.0, fit="pad")
