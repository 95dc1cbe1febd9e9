"""`minimonkey data synthetic` and `packages`: rendered text. Its making is the business of minimonkey.synthetic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, cast

import typer

from minimonkey.cli.options import save_picture
from minimonkey.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from minimonkey.synthetic.document import Document
    from minimonkey.synthetic.material.typefaces import Split
    from minimonkey.synthetic.rendering.lines import Kind as TextKind


class Kind(StrEnum):
    """What `--kind` accepts."""

    LINE = "line"
    LONG_LINE = "long_line"
    REGION = "region"
    TILE = "tile"
    DOCUMENT = "document"
    RECEIPT = "receipt"
    INVOICE = "invoice"
    FORM = "form"
    LETTER = "letter"
    PAGE = "page"
    LABEL = "label"
    SIGN = "sign"
    SCREEN = "screen"
    CHART = "chart"
    TABLE = "table"


TEXTS = (Kind.LINE, Kind.LONG_LINE, Kind.REGION, Kind.TILE)
"""Kinds that are mere text, without questions."""
MOST_TEXTS = 1000
"""Of mere text on a sheet."""
MOST_DOCUMENTS = 200
"""Of documents on a sheet: more make a picture that few programs open."""
TALLEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Rows of pixels that a format can hold."""


def synthetic(
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", metavar="FILE", help="Draw them all on this one picture.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write documents with their questions as training rows: DIR/rows.jsonl."),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many samples to draw.")] = 24,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed draws the same samples.")] = 0,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--kind",
            help="Mere text (line, long_line, region, tile), any document, or one kind of them. "
            "If not given: line for a sheet, document for rows.",
        ),
    ] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Typefaces, words and layouts that training never sees.")] = False,
    dots: Annotated[bool, typer.Option("--dots", help="Mark the place of every character.")] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="Print each document's text, questions and answers as a line of JSON.")
    ] = False,
) -> None:
    """Draw samples and their texts, or documents and questions about them: on one sheet, or as training rows.

    Says how many typefaces there were to draw with. More are used where Debian's packages are installed: minimonkey data packages
    names them.

    \b
    Examples:
      minimonkey data synthetic --contact-sheet lines.png --count 24 --seed 7
      minimonkey data synthetic --kind receipt --contact-sheet receipts.png --questions
      minimonkey data synthetic --kind document --count 200 --out documents/
    """
    if (contact_sheet is None) == (out is None):
        raise UsageError("name where the samples go: --contact-sheet FILE for one picture, or --out DIR for training rows")
    if out is not None:
        write_rows(out, count, kind or Kind.DOCUMENT, seed, held_out)
        return
    assert contact_sheet is not None
    kind = kind or Kind.LINE
    from minimonkey.synthetic.material.choice import summary

    split: Split = "held_out" if held_out else "train"
    head = summary(split)
    if kind in TEXTS:
        if count > MOST_TEXTS:
            raise UsageError(f"--count is {count}: a sheet holds {MOST_TEXTS} samples at most")
        if questions:
            raise UsageError(f"--questions is for documents, but --kind is {kind.value}; try --kind document")
        from minimonkey.synthetic.contact_sheet import contact_sheet as draw

        save_sheet(draw(count, seed, cast("TextKind", kind.value), split=split, dots=dots, head=head), contact_sheet, head)
        return
    if count > MOST_DOCUMENTS:
        raise UsageError(f"--count is {count}: a sheet holds {MOST_DOCUMENTS} documents at most; see others with --seed")
    from minimonkey.synthetic.contact_sheet import document_sheet
    from minimonkey.synthetic.document import make_document

    def documents() -> Iterator[Document]:
        for number in range(seed, seed + count):
            document = make_document(number, None if kind is Kind.DOCUMENT else kind.value, split=split)
            if questions:
                print(json.dumps(as_json(document, number), ensure_ascii=False))
            yield document

    save_sheet(document_sheet(documents(), dots=dots, head=head), contact_sheet, head, sys.stderr if questions else None)


def write_rows(out: Path, count: int, kind: Kind, seed: int, held_out: bool) -> None:
    """`--out`: documents as training rows."""
    from tqdm import tqdm

    from minimonkey.data.rendered import write_documents
    from minimonkey.synthetic.material.choice import summary

    if kind in TEXTS:
        raise UsageError(f"--out writes documents with questions, but --kind is {kind.value}; try --kind document")
    split: Split = "held_out" if held_out else "train"
    named = None if kind is Kind.DOCUMENT else kind.value
    with tqdm(total=count, unit="document", disable=None) as bar:
        asked = write_documents(out, count, kind=named, seed=seed, split=split, progress=lambda _: bar.update())
    print(f"wrote {out / 'rows.jsonl'}: {count} documents in {out / 'images'}, {asked} questions")
    print(summary(split))


def packages() -> None:
    """Print the names of Debian's packages with typefaces, word lists and texts to draw with.

    What comes with minimonkey is enough to draw and to train. What was published was made of all these; its recipes ask for them.

    \b
    Examples:
      minimonkey data packages
      apt-get install $(minimonkey data packages)
    """
    from minimonkey.synthetic.material.choice import packages as named

    print(*named())


def save_sheet(sheet: Image, path: Path, head: str, say_on: TextIO | None = None) -> None:
    """Write a sheet, and say so and what it's made of. Raises UsageError if it's too tall for its format, or can't be written."""
    most = TALLEST.get(path.suffix.lower(), sheet.height)
    if sheet.height > most:
        raise UsageError(
            f"can't write {path}: the sheet is {sheet.height} pixels high, {path.suffix} holds {most}; "
            f"try {path.stem}.png or a lower --count"
        )
    save_picture(sheet, path, say_on)
    print(head, file=say_on)


def as_json(document: Document, seed: int) -> dict:
    """What `--questions` says of a document."""
    asked = [{"question": each.text, "answer": each.answer, "kind": each.kind} for each in document.questions]
    size = {"width": document.picture.width, "height": document.picture.height}
    return {"seed": seed, "kind": document.kind} | size | {"text": document.text, "questions": asked}
