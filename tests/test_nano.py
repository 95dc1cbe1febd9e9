"""What the embedded model promises of itself: size, budget, and what the README's first page shows."""

from pathlib import Path

import pytest

import minimonkey
from minimonkey.pyramid import Size

NANO = Path(minimonkey.__file__).parent / "nano"
A4_AT_200_DPI = Size(height=2339, width=1654)


@pytest.fixture(scope="module")
def nano():
    return minimonkey.load()


def test_it_stays_small(nano):
    assert sum(parameter.numel() for parameter in nano.model.parameters()) <= 8_000_000
    assert (NANO / "model.safetensors").stat().st_size <= 16_000_000


def test_a_page_gets_enough_pixels(nano):
    detail = nano.processor.image_processor.spec.plan(A4_AT_200_DPI).detail
    assert detail.content.right - detail.content.left >= 896 * 0.99
    assert detail.grid.columns * 224 >= 896 and detail.grid.rows * 224 >= 1344
