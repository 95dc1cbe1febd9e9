"""The commands that hand over to a room: `train`, `convert` and `data synthetic`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.synthetic.material.choice import summary


def test_train_hands_over_the_recipe(run, monkeypatch):
    calls = []
    monkeypatch.setattr("minimonkey.training.nano.run.train", lambda *words: calls.append(words) or Path("runs/it/checkpoint-2"))
    result = run("train", "recipe.yaml", "seed=1", "optimizer.clip_norm=0.5")
    assert (result.code, result.out) == (0, "wrote runs/it/checkpoint-2\n")
    assert run("train", "recipe.yaml").code == 0
    assert calls == [(Path("recipe.yaml"), ["seed=1", "optimizer.clip_norm=0.5"]), (Path("recipe.yaml"), [])]


def test_a_missing_recipe_is_one_line(run):
    result = run("train", "no-such-recipe.yaml")
    assert result.code == 2
    assert result.err.startswith("minimonkey: ")
    assert result.err.count("\n") == 1
    assert "no-such-recipe.yaml" in result.err


def test_convert_to_stock_and_back(run, tiny_model, tiny_processor, tmp_path):
    native, stock, back = (tmp_path / name for name in ("native", "stock", "back"))
    tiny_model().save_pretrained(native)
    tiny_processor(detail=(1, 4), adaptive=None).save_pretrained(native)
    result = run("convert", str(native), str(stock), "--to", "stock")
    assert (result.code, result.out, result.err) == (0, f"wrote {stock}\n", "")
    assert run("convert", str(stock), str(back)).code == 0
    kinds = [json.loads((folder / "config.json").read_text())["model_type"] for folder in (native, stock, back)]
    assert kinds == ["minimonkey", "internvl", "minimonkey"]
    again = run("convert", str(native), str(stock), "--to", "stock")
    assert again.code == 2
    assert again.err.startswith(f"minimonkey: {stock}")
    nowhere = run("convert", str(native), "/dev/null/folder")
    assert (nowhere.code, nowhere.err) == (2, "minimonkey: can't write /dev/null/folder: Not a directory\n")


@pytest.mark.parametrize("kind", ["line", "region", "tile"])
def test_contact_sheet(run, tmp_path, kind):
    """The same seed draws the same sheet, another one another."""
    words = ("data", "synthetic", "--count", "2", "--kind", kind, "--contact-sheet")
    sheets = []
    for name, seed in (("a.png", "3"), ("b.png", "3"), ("c.png", "4")):
        result = run(*words, str(tmp_path / name), "--seed", seed)
        assert (result.code, result.out) == (0, f"wrote {tmp_path / name}\n{summary('train')}\n")
        with Image.open(tmp_path / name) as sheet:
            sheets.append(sheet.convert("RGB").tobytes())
    assert sheets[0] == sheets[1] != sheets[2]
