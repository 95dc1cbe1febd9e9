"""Pictures, pyramids and models of the command line: how its arguments name them, and how results are written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

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

    if source == "-" and sys.stdin is None:
        raise UsageError("standard input (-) is closed: send a picture there, or name a file")
    picture = load_picture(sys.stdin.buffer if source == "-" else source)
    for note in picture.info["notes"]:
        print(f"minimonkey: {note}", file=sys.stderr)
    return picture


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
