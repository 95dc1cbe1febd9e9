"""`minimonkey data ...`: look at training data, check it, write it anew."""

from __future__ import annotations

import typer

from minimonkey.cli.data import rows, synthetic

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def room() -> None:
    """Training data: check a file of your own, count it, look at it, convert it, or draw some."""


for command in (rows.check, rows.stats, rows.show, rows.convert, synthetic.synthetic):
    app.command(no_args_is_help=True)(command)
app.command()(synthetic.packages)
