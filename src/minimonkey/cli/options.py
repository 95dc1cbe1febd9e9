"""Pictures, pyramids and models of the command line: how its arguments name them, and how results are written."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec

if TYPE_CHECKING:
    from PIL.Image import Image

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help="A model folder or a hub id; the embedded model if not given.")
]
PyramidOption = Annotated[
    str | None,
    typer.Option("--pyramid", metavar="TILES", help="Fewest-most tiles of the detail / adaptive level, such as 4-12/3-7."),
]
PlainOption = Annotated[bool, typer.Option("--no-pyramid", help="Plain tiling: leave the adaptive level out.")]

PagesOption = Annotated[
    str | None, typer.Option("--pages", metavar="PAGES", help="Which pages of a PDF or TIFF, as 1-3,7 or 4-; all if not given.")
]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message.")]
MaxNewTokensOption = Annotated[
    int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="The longest answer, in tokens.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda:1, ...; the best there is if not given.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16; what suits the device if not given.")
]
QuantizeOption = Annotated[
    Literal["int8", "int4"] | None,
    typer.Option("--quantize", metavar="BITS", help="int8 or int4: weights in fewer bits, less memory."),
]
VisionHeadsOption = Annotated[
    int | None,
    typer.Option("--vision-heads", metavar="N", min=1, help="Heads of a vision encoder whose files don't say it (TinyGPT-V)."),
]
EngineOption = Annotated[
    Literal["openvino"] | None,
    typer.Option("--engine", metavar="NAME", help="openvino: it computes the encoder and reads prompts, on a CPU."),
]


def pyramid_changes(pyramid: str | None, plain: bool) -> dict:
    """The fields of PyramidSpec that `--pyramid` and `--no-pyramid` change, whatever the model's own settings are."""
    changes: dict = {}
    if pyramid is not None:
        spec = PyramidSpec.parse(pyramid)
        changes = {"detail": spec.detail, "adaptive": spec.adaptive}
    if plain:
        changes["adaptive"] = None
    return changes


def read_picture(source: str) -> Image:
    """The picture of a command-line argument, `-` being standard input; what was done to it goes to standard error."""
    from minimonkey.documents import load_picture

    picture = load_picture(_opened(source))
    _tell_notes([picture])
    return picture


def read_pages(sources: Iterable[str], pages: str | None) -> list[Image]:
    """The pictures of command-line arguments, documents giving one for each of the `pages` that `--pages` names."""
    from minimonkey.documents import load_pages

    pictures = [picture for source in sources for picture in load_pages(_opened(source), pages)]
    _tell_notes(pictures)
    return pictures


def _opened(source: str) -> str | IO[bytes]:
    if source == "-" and sys.stdin is None:
        raise UsageError("standard input (-) is closed: send a picture there, or name a file")
    return sys.stdin.buffer if source == "-" else source


def _tell_notes(pictures: Iterable[Image]) -> None:
    for picture in pictures:
        for note in picture.info["notes"]:
            print(f"minimonkey: {note}", file=sys.stderr)


def check_outputs(outputs: dict[str, Path], sources: Iterable[str]) -> None:
    """Make sure that pictures to be written replace neither what is read nor each other, by whichever name or link.

    Args:
        outputs: the file of each option that writes one.
        sources: pictures, videos and folders that are read; `-` is standard input.

    Raises:
        UsageError: before anything is written.
    """
    read = {_identity(file) for source in sources for file in _files(source)}
    for option, path in outputs.items():
        if path.exists() and _identity(path) in read:
            raise UsageError(f"{option} {path} would replace a picture that is read: name another file")
    for (first, path), (second, other) in itertools.combinations(outputs.items(), 2):
        if _identity(path) == _identity(other):
            raise UsageError(f"{first} {path} and {second} {other} are one file: name two")


def _files(source: str) -> list[int | Path]:
    """What is read of a source: a file, those of a folder, or standard input by its number."""
    path = Path(source)
    return [0] if source == "-" else [*path.iterdir()] if path.is_dir() else [path]


def _identity(file: int | Path) -> tuple[int, int] | str:
    """What the system knows a file by, through all links; of one that isn't there yet, where it would be."""
    try:
        found = os.stat(file)
    except OSError:
        return os.path.realpath(str(file))
    return found.st_dev, found.st_ino


def save_picture(picture: Image, path: Path, say_on: TextIO | None = None) -> None:
    """Write a picture in the format that the name asks for, and say so, on standard output if nothing else is given. Raises
    UsageError if that is impossible."""
    try:
        picture.save(path)
    except ValueError as error:  # an extension that Pillow doesn't know
        raise UsageError(f"can't write {path}: {str(error).rstrip(': ')}; try {path.stem}.png") from error
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror or error}") from error
    print(f"wrote {path}", file=say_on)
