"""Folders of small pictures for jobs."""

import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path):
    """A folder of 40 pictures in three folders, of five sizes."""
    folder = tmp_path / "pictures"
    for number in range(40):
        below = folder / ("" if number % 3 else f"more {number % 2}")
        below.mkdir(parents=True, exist_ok=True)
        size = (30 + 20 * (number % 5), 40)
        Image.linear_gradient("L").resize(size).rotate(number).convert("RGB").save(below / f"{number}.png")
    return folder
