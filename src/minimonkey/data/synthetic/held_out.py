"""The held-out lines: what a reader is measured on. Their typefaces and words are never in training; the set never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from PIL import Image

from minimonkey.data.synthetic.lines import make_sample

FIRST_SEED = 20_000_000
SIZE_PX = (9, 40)


def held_out_lines(count: int = 300) -> Iterator[tuple[Image.Image, str]]:
    """RGB pictures of one line each, and their text. tests/golden/held_out_lines.json holds the hash of the first 300.

    Raises:
        DataError: fonts or word lists are not installed.
    """
    for index in range(count):
        sample = make_sample(FIRST_SEED + index, "line", split="held_out", size_px=SIZE_PX, uniform=True)
        yield sample.picture, sample.text


def digest(lines: Iterable[tuple[Image.Image, str]]) -> str:
    """The SHA-256 of sizes, pixels and texts, in hexadecimal."""
    total = hashlib.sha256()
    for picture, text in lines:
        total.update(f"{picture.mode} {picture.width}x{picture.height}\n{text}\n".encode())
        total.update(picture.tobytes())
    return total.hexdigest()
