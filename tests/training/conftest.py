"""Configurations and processors of a few steps and tiles; samples of what comes with minimonkey, the same on every machine."""

import json

import pytest

from minimonkey.recipe_file import build


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


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one state a process: the next test may want another number format, or other devices."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tuning(tiny_model, tiny_processor, tmp_path, fresh_accelerate, monkeypatch):
    """Make the recipe of a run over nine rows, with a tiny random model: `tuning(steps=4, packing=...)` takes what differs."""
    from PIL import Image, ImageDraw

    from minimonkey.training.config import TuningRecipe

    monkeypatch.chdir(tmp_path)
    pyramid = {"detail": (1, 4), "adaptive": None}
    tiny_model().save_pretrained("model")
    tiny_processor(**pyramid).save_pretrained("model")
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(9):
        picture = Image.new("RGB", (28 + 14 * number, 40), "white")
        ImageDraw.Draw(picture).text((4, 8), str(number), "black")
        picture.save(tmp_path / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "Which number?"}, {"from": "gpt", "value": "It is " + str(number) * (1 + number)}]
        rows.append({"image": f"{number}.png", "conversations": turns})
    del rows[4]["image"]  # text alone
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes) -> TuningRecipe:
        settings = {
            "name": "tiny",
            "model": "model",
            "data": {"rows": "rows.jsonl", "images": "images"},
            "steps": 6,
            "batch_rows": 2,
            "workers": 0,
            "log_every": 1,
            "optimizer": {"rate": 1e-3},
        }
        return build(TuningRecipe, settings | changes, "test")

    return make
