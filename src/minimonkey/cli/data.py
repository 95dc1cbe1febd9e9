"""`minimonkey data ...`: look at training data. Its making is the business of minimonkey.data."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minimonkey.cli.pictures import save_picture
from minimonkey.errors import UsageError

if TYPE_CHECKING:
    from minimonkey.data.synthetic.document import Document

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


class Kind(StrEnum):
    """What `--kind` accepts."""

    LINE = "line"
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


TEXTS = (Kind.LINE, Kind.REGION, Kind.TILE)
"""Kinds that are mere text, without questions."""


@app.callback()
def room() -> None:
    """Look at training data."""


@app.command(no_args_is_help=True)
def synthetic(
    contact_sheet: Annotated[Path, typer.Option("--contact-sheet", metavar="FILE", help="The picture to write.")],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="How many samples to draw.")] = 24,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed draws the same samples.")] = 0,
    kind: Annotated[
        Kind, typer.Option("--kind", help="Mere text (line, region, tile), any document, or one kind of them.")
    ] = Kind.LINE,
    held_out: Annotated[bool, typer.Option("--held-out", help="Typefaces, words and layouts that training never sees.")] = False,
    dots: Annotated[bool, typer.Option("--dots", help="Mark the place of every character.")] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="Print each document's text, questions and answers as a line of JSON.")
    ] = False,
) -> None:
    """Draw samples and their texts, or documents and questions about them, on one sheet.

    Needs the typefaces and word lists of Debian that training draws from; says which packages are missing.

    \b
    Examples:
      minimonkey data synthetic --contact-sheet lines.png --count 24 --seed 7
      minimonkey data synthetic --kind receipt --contact-sheet receipts.png --questions
    """
    split = "held_out" if held_out else "train"
    if kind in TEXTS:
        if questions:
            raise UsageError(f"--questions is for documents, but --kind is {kind.value}; try --kind document")
        from minimonkey.data.synthetic.contact_sheet import contact_sheet as draw

        save_picture(draw(count, seed, kind.value, split=split, dots=dots), contact_sheet)
        return
    from minimonkey.data.synthetic.contact_sheet import document_sheet
    from minimonkey.data.synthetic.document import make_document

    name = None if kind is Kind.DOCUMENT else kind.value
    documents = [make_document(seed + index, name, split=split) for index in range(count)]
    if questions:
        for index, document in enumerate(documents):
            print(json.dumps(as_json(document, seed + index), ensure_ascii=False))
    save_picture(document_sheet(documents, dots=dots), contact_sheet, sys.stderr if questions else None)


def as_json(document: Document, seed: int) -> dict:
    """What `--questions` says of a document."""
    asked = [{"question": each.text, "answer": each.answer, "kind": each.kind} for each in document.questions]
    size = {"width": document.picture.width, "height": document.picture.height}
    return {"seed": seed, "kind": document.kind} | size | {"text": document.text, "questions": asked}
