"""`minimonkey inspect`: what a model would make of a picture, without the model's weights: levels, tiles, tokens, arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minimonkey.cli.options import PlainOption, PyramidOption, check_outputs, pyramid_changes, read_picture, save_picture
from minimonkey.evaluation.flops import SHAPES, Shape, readable_flops
from minimonkey.pyramid import Pyramid, PyramidSpec, Size


def inspect(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture file; - for standard input.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The drawing to write; the picture's name with .pyramid.png, here, by default."
        ),
    ] = None,
    tiles: Annotated[
        Path | None, typer.Option("--tiles", metavar="FILE", help="Also write a sheet of the tiles as the model sees them.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help=f"A model folder or one of {', '.join(SHAPES)}; else the embedded model."
        ),
    ] = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
) -> None:
    """Show how a picture is cut, and at what cost.

    Prints levels, tiles, tokens and the estimated arithmetic, and writes a drawing of the cuts. Reads no model weights.

    \b
    Examples:
      minimonkey inspect examples/receipt.png --out receipt.pyramid.png
      minimonkey inspect page.png --model internvl2-2b --pyramid 12-24/3-5 --tiles tiles.png
    """
    changes = pyramid_changes(pyramid, plain)
    drawing = out or Path(f"{'stdin' if picture == '-' else Path(picture).stem}.pyramid.png")
    check_outputs({"--out": drawing} | ({} if tiles is None else {"--tiles": tiles}), [picture])
    from minimonkey import visualize

    source = read_picture(picture)
    spec, shape = model_sizes(model, changes)
    planned = spec.plan(Size(source.height, source.width))
    print(report(planned, shape))
    save_picture(visualize.draw_pyramid(source, planned), drawing)
    if tiles is not None:
        save_picture(visualize.contact_sheet(source, planned), tiles)


def report(pyramid: Pyramid, shape: Shape) -> str:
    """What `inspect` prints, without a line break at its end."""
    tokens = pyramid.tile_count * shape.tokens_per_tile
    vision, text = shape.vision_flops(pyramid.tile_count), shape.text_flops(tokens)
    share = round(100 * vision / (vision + text))
    spans = ", ".join(f"{name} {span.start}-{span.stop - 1}" for name, span in pyramid.spans(shape.tokens_per_tile).items())
    return "\n".join(
        [
            pyramid.describe(),
            f"{tokens} image tokens, {shape.tokens_per_tile} a tile: {spans}",
            f"estimated cost on {shape.name}: {readable_flops(vision + text)} before the first word, "
            f"vision {share} %, language model {100 - share} %",
        ]
    )


def model_sizes(model: str | None, changes: dict) -> tuple[PyramidSpec, Shape]:
    """How a model cuts pictures, with the changes that the user asks for, and its sizes."""
    if model in SHAPES:
        return PyramidSpec(**changes), SHAPES[model]
    from minimonkey.checkpoints.folder import find_folder
    from minimonkey.checkpoints.load import load_processor
    from minimonkey.inference import EMBEDDED

    folder = find_folder(EMBEDDED if model is None else model)
    config = folder.config("native")
    processor = load_processor(folder, config)
    name = "the embedded model" if model is None else model
    return processor.image_processor.spec_for({"pyramid": changes}), Shape.of(name, config)
