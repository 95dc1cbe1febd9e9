"""`minimonkey batch`: many pictures and their questions or fields, into a table. Standard output stays empty."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from minimonkey.cli.ask import CompressionOption
from minimonkey.cli.extract import FieldsOption, SchemaOption, schema_given
from minimonkey.cli.options import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    MaxNewTokensOption,
    ModelOption,
    PagesOption,
    PlainOption,
    PyramidOption,
    QuantizeOption,
    SystemOption,
    pyramid_changes,
)
from minimonkey.errors import UsageError


def batch(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", hidden=True)],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The table to write: its name ends in .csv, .jsonl or .parquet.")
    ],
    questions: Annotated[
        list[str] | None, typer.Option("--question", metavar="TEXT", help="Asked of each picture; may be given several times.")
    ] = None,
    schema: SchemaOption = None,
    fields: FieldsOption = None,
    model: ModelOption = None,
    pages: PagesOption = None,
    whole: Annotated[bool, typer.Option("--whole", help="A row for each document, not for each of its pages.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a table that was begun, and stopped or killed.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="So many processes, each with a model of its own.")
    ] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="The workers are actors of a Ray cluster, or of this machine.")] = False,
    max_errors: Annotated[
        int | None, typer.Option("--max-errors", metavar="N", min=0, help="Stop once more rows than N have an error.")
    ] = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    compression: CompressionOption = None,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bar, and no summary.")] = False,
) -> None:
    """Ask the same of many pictures: a folder in, a table out.

    INPUT is a folder (with those below), a picture, a PDF, a pattern such as "scans/*.png", or a table: JSONL with lines such as
    {"image": "a.png", "question": "..."}, or Parquet with such columns. The result has a row for each picture and question, in
    order; with --fields or --schema a row for each picture and a column for each field. What can't be read or answered is a row
    with its error. The table is there once it is whole; until then rows are in FILE.job.

    \b
    Examples:
      minimonkey batch receipts/ --question "What is the total?" --out totals.csv
      minimonkey batch receipts/ --fields "total:number, date:date" --out receipts.csv
      minimonkey batch "scans/*.pdf" --pages 1 --question "Who wrote this?" --out letters.jsonl --workers 4
      minimonkey batch questions.jsonl --out answers.jsonl --resume
    """
    from minimonkey.jobs.answers import Answers
    from minimonkey.jobs.job import run_job
    from minimonkey.jobs.sources import Source

    wanted = schema_given(schema, fields)
    if wanted is not None:
        if compression is not None:
            raise UsageError(f"--compression {compression}: fields are read of whole pictures; leave it out")
        if questions and len(questions) > 1:
            raise UsageError("--fields and --schema ask one question of each picture: give one --question, or none")
    work = Answers(
        model=model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        engine=engine,
        pyramid=pyramid_changes(pyramid, plain) or None,
        compression=compression,
        system=system,
        max_new_tokens=max_new_tokens,
        schema=wanted,
    )
    work.check()
    source = Source(inputs, questions or (), pages=pages, whole=whole, must_ask=wanted is None)
    try:
        summary = run_job(source, work, out, resume=resume, workers=workers, ray=ray, max_errors=max_errors, progress=not quiet)
    except KeyboardInterrupt:
        print(f"minimonkey: stopped; the same command with --resume goes on with {out}", file=sys.stderr)
        raise
    if not quiet:
        print(summary, file=sys.stderr)
