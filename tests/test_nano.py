"""What the embedded model promises of itself: its size, its budget, and what `make demo` has it say."""

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


@pytest.mark.parametrize(
    ("picture", "question", "answer"),
    [
        ("receipt", "How much is the coffee?", "3.20"),
        ("receipt", "What is the total?", "10.50"),
        ("receipt", "Read the line that begins with Apple.", "Apple cake 4.50"),
        ("page", "What is the title?", "Region -based Segmentation"),
    ],
)
def test_it_says_what_the_readme_shows(nano, picture, question, answer):
    root = Path(__file__).parents[1]
    assert nano.ask(root / "examples" / f"{picture}.png", question, max_new_tokens=80).text == answer
    assert f'"{question}"\n{answer}\n' in (root / "README.md").read_text(encoding="utf-8")
