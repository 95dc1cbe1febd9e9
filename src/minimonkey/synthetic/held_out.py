"""The held-out lines and documents: what a reader is measured on. Typefaces, words and a layout of each kind are never in training.

The sets never change: tests/golden/held_out_lines.json and held_out_documents.json hold their hashes. So nothing that Debian has
may be missing; of another choice of material the same seeds are other samples, in the same variety.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from PIL import Image

from minimonkey.synthetic.document import Document, make_document
from minimonkey.synthetic.material.choice import Choice, material
from minimonkey.synthetic.rendering.lines import make_sample

FIRST_SEED = 20_000_000
FIRST_DOCUMENT_SEED = 30_000_000
SIZE_PX = (9, 40)
SHORT, LONG = (5, 20), (30, 60)
"""Printed lines of a short and of a long receipt, invoice or form."""
PLAN: tuple[tuple[str, tuple[int, int] | None], ...] = (
    *(("receipt", SHORT), ("page", None), ("invoice", LONG), ("screen", None), ("form", SHORT), ("table", None), ("receipt", LONG)),
    *(("letter", None), ("invoice", SHORT), ("label", None), ("form", LONG), ("chart", None), ("page", None), ("sign", None)),
)
"""The kinds of the held-out documents, in turn, and how many lines about."""


def held_out_lines(count: int = 300, choice: Choice = "all") -> Iterator[tuple[Image.Image, str]]:
    """RGB pictures of one line each, and their text. tests/golden/held_out_lines.json holds the hash of the first 300.

    Raises:
        DataError: typefaces or word lists are not installed; the message names the packages.
    """
    made_of = material(choice, "held_out")._asdict()
    for index in range(count):
        sample = make_sample(FIRST_SEED + index, "line", split="held_out", size_px=SIZE_PX, uniform=True, **made_of)
        yield sample.picture, sample.text


def held_out_documents(count: int = 600, choice: Choice = "all") -> Iterator[Document]:
    """Documents of all kinds in turn, print of 9 to 40 pixels. tests/golden/held_out_documents.json holds the hash of 600.

    Raises:
        DataError: typefaces or word lists are not installed; the message names the packages.
    """
    made_of = material(choice, "held_out")._asdict()
    for index in range(count):
        kind, lines = PLAN[index % len(PLAN)]
        seed = FIRST_DOCUMENT_SEED + index
        yield make_document(seed, kind, split="held_out", size_px=SIZE_PX, lines=lines, uniform=True, **made_of)


def digest(lines: Iterable[tuple[Image.Image, str]]) -> str:
    """The SHA-256 of sizes, pixels and texts, in hexadecimal."""
    total = hashlib.sha256()
    for picture, text in lines:
        total.update(f"{picture.mode} {picture.width}x{picture.height}\n{text}\n".encode())
        total.update(picture.tobytes())
    return total.hexdigest()


def digests(documents: Iterable[Document]) -> Iterator[str]:
    """After each document, the SHA-256 of all so far, in hexadecimal: pixels, lines and boxes, questions and answers."""
    total = hashlib.sha256()
    for document in documents:
        picture = document.picture
        total.update(f"{document.kind} {picture.mode} {picture.width}x{picture.height}\n".encode())
        total.update(picture.tobytes())
        for line in document.lines:
            total.update(f"{line.text} {' '.join(f'{edge:.1f}' for edge in line.box)}\n".encode())
        for question in document.questions:
            total.update(f"{question.kind} {question.text}\n{question.answer}\n{question.sources}\n".encode())
        yield total.hexdigest()
