"""`minimonkey data ...`: look at training data. Its making is the business of minimonkey.data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from minimonkey.cli.pictures import save_picture

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


class Kind(StrEnum):
    """What `--kind` accepts."""

    LINE = "line"
    REGION = "region"
    TILE = "tile"


@app.callback()
def room() -> None:
    """Look at training data."""


@app.command(no_args_is_help=True)
def synthetic(
    contact_sheet: Annotated[Path, typer.Option("--contact-sheet", metavar="FILE", help="The picture to write.")],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="How many samples to draw.")] = 24,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed draws the same samples.")] = 0,
    kind: Annotated[Kind, typer.Option("--kind", help="One line of text, a short region of several, or a whole tile.")] = Kind.LINE,
    held_out: Annotated[bool, typer.Option("--held-out", help="Typefaces and words that training never sees.")] = False,
    dots: Annotated[bool, typer.Option("--dots", help="Mark the place of every character.")] = False,
) -> None:
    """Draw samples and their texts on one sheet.

    Needs the typefaces and word lists of Debian that training draws from; says which packages are missing.

    \b
    Example:
      minimonkey data synthetic --contact-sheet lines.png --count 24 --seed 7
    """
    from minimonkey.data.synthetic.contact_sheet import contact_sheet as draw

    save_picture(draw(count, seed, kind.value, split="held_out" if held_out else "train", dots=dots), contact_sheet)
