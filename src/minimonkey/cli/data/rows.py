"""`minimonkey data check`, `stats`, `show` and `convert`: files of rows, docs/data-format.md."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minimonkey.cli.options import ModelOption, PlainOption, PyramidOption, pyramid_changes, save_picture
from minimonkey.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

MIXTURES = (".yaml", ".yml")
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Rows: JSONL, a JSON list or Parquet.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="The folder that paths in the rows are relative to.")
]


def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows (JSONL, a JSON list, Parquet), or a mixture of data sets (YAML).")
    ],
    images: ImagesOption = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Also report rows that are longer, as the model counts.")
    ] = None,
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    no_pyramid: PlainOption = False,
) -> None:
    """Read every row and open every picture; report all that is wrong, counted by kind.

    Of a mixture (recipes/data/), say which files and folders are there, which are missing, and where they come from. Exit code 2
    if something can't be trained on.

    \b
    Examples:
      minimonkey data check train.jsonl --images photos/
      minimonkey data check train.jsonl --images photos/ --model OpenGVLab/InternVL2-1B --max-tokens 4096
      minimonkey data check recipes/data/mini-monkey.yaml
    """
    if file.suffix in MIXTURES:
        check_mixture(file)
        return
    from minimonkey.data.check import check as checked

    processor = None if max_tokens is None and model is None else processor_of(model)
    changes = pyramid_changes(pyramid, no_pyramid) or None
    with progress_bar("row") as bar:
        report = checked(
            file,
            images,
            processor=processor,
            pyramid=changes,
            max_tokens=max_tokens,
            progress=lambda done: bar.update(done - bar.n),
        )
    for line in report.lines():
        print(line)
    if report.bad_rows:
        raise typer.Exit(2)


def check_mixture(file: Path) -> None:
    """Which files and folders of a mixture are there."""
    from minimonkey.data.inventory import take_inventory
    from minimonkey.data.mixture_file import read_mixture

    inventory = take_inventory(read_mixture(file))
    for line in inventory.lines():
        print(line)
    if inventory.faults:
        raise typer.Exit(2)


def stats(
    file: FileArgument,
    images: ImagesOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Draw the histograms as a picture, too.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Count the first N rows only.")] = None,
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    no_pyramid: PlainOption = False,
) -> None:
    """Count tokens, tiles, learnt tokens and messages of each row, as a model's processor makes them.

    \b
    Examples:
      minimonkey data stats train.jsonl --images photos/
      minimonkey data stats train.jsonl --images photos/ --model OpenGVLab/InternVL2-2B --out lengths.png
    """
    from minimonkey.data.histogram import Histogram, draw_all
    from minimonkey.data.lengths import lengths
    from minimonkey.data.readers import read_conversations

    processor, changes = processor_of(model), pyramid_changes(pyramid, no_pyramid) or None
    counted, messages = [], []
    with progress_bar("row") as bar:
        for row in itertools.islice(read_conversations(file, images), limit):
            counted.append(lengths(row, processor, changes))
            messages.append(len(row.messages))
            bar.update()
    histograms = [
        Histogram.of("tokens a row", [each.tokens for each in counted]),
        Histogram.of("tiles a row", [each.tiles for each in counted]),
        Histogram.of("learnt tokens a row", [each.learnt for each in counted]),
        Histogram.of("messages a row", messages),
    ]
    print(f"{len(counted)} rows")
    for histogram in histograms:
        print("", *histogram.lines(), sep="\n")
    if out is not None:
        save_picture(draw_all(histograms), out)


def show(
    file: FileArgument,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Which row, counted from 1.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The picture to write.")],
    images: ImagesOption = None,
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    no_pyramid: PlainOption = False,
) -> None:
    """Draw one row as the model learns it: its pictures with their tiles, its text with what is learnt in colour.

    \b
    Examples:
      minimonkey data show train.jsonl 17 --images photos/ --out row.png
    """
    from minimonkey.data.page import draw_page
    from minimonkey.data.readers import read_conversations

    row = next(itertools.islice(read_conversations(file, images), number - 1, None), None)
    if row is None:
        raise UsageError(f"{file} has fewer than {number} rows")
    save_picture(draw_page(row, processor_of(model), pyramid_changes(pyramid, no_pyramid) or None), out)


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Rows: JSONL, a JSON list or Parquet, SynthDoG's too.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The file to write: .jsonl, .json or .parquet.")],
    images: ImagesOption = None,
    form: Annotated[
        Literal["conversations", "messages"],
        typer.Option("--form", help="conversations: human and gpt, as published; messages: user and assistant."),
    ] = "conversations",
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Where pictures go that are inside a Parquet file.")
    ] = None,
) -> None:
    """Write rows in another form. The new file is there whole, or not at all.

    \b
    Examples:
      minimonkey data convert train.jsonl train.parquet --images photos/
      minimonkey data convert synthdog.parquet synthdog.jsonl --pictures synthdog/
    """
    from minimonkey.data.convert import convert_rows

    with progress_bar("row") as bar:
        done = convert_rows(source, destination, form=form, images=images, pictures=pictures, progress=lambda _: bar.update())
    print(f"wrote {destination}: {done.rows} rows" + (f", {done.pictures} pictures beside it" if done.pictures else ""))


def progress_bar(unit: str) -> tqdm:
    """A bar on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(unit=unit, disable=None, leave=False)


def processor_of(model: str | None) -> Any:
    """The processor of a model, without its weights."""
    from minimonkey.checkpoints.folder import find_folder
    from minimonkey.checkpoints.load import load_processor
    from minimonkey.inference import EMBEDDED

    folder = find_folder(EMBEDDED if model is None else model)
    return load_processor(folder, folder.config("native"))
