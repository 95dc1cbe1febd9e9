"""`minimonkey convert`: a model folder in another layout. The layouts are the business of minimonkey.checkpoints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from minimonkey.cli.options import VisionHeadsOption
from minimonkey.errors import UsageError


class Layout(StrEnum):
    """What `--to` accepts."""

    NATIVE = "native"
    STOCK = "stock"
    PUBLISHED = "published"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model folder or a hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Where to write; a new or empty folder.")],
    to: Annotated[
        Layout,
        typer.Option(
            "--to",
            help='"native": ours; "stock": for engines that know transformers\' InternVL but not us; "published": as InternVL and '
            "Mini-Monkey were published, if the folder comes from there.",
        ),
    ] = Layout.NATIVE,
    vision_heads: VisionHeadsOption = None,
) -> None:
    """Write a model folder in another layout.

    Weights are copied bit for bit, a shard at a time. A stock folder loads in transformers' own
    InternVLForConditionalGeneration and gives the same logits; what it can't hold, the pyramid, is left out of it.

    \b
    Examples:
      minimonkey convert mx262/MiniMonkey minimonkey-2b
      minimonkey convert runs/my-run/checkpoint-00002500 my-model-stock --to stock
    """
    from transformers.utils.logging import disable_progress_bar

    from minimonkey.checkpoints.convert import convert as run

    disable_progress_bar()
    try:
        run(source, destination, to=to.value, vision_heads=vision_heads)
    except OSError as error:
        raise UsageError(f"can't write {destination}: {error.strerror or error}") from error
    print(f"wrote {destination}")
