"""`minimonkey ask`: one question about pictures. The answer goes to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minimonkey.cli.pictures import ModelOption, PlainOption, PyramidOption, pyramid_changes, read_picture
from minimonkey.errors import UsageError
from minimonkey.pyramid import LEVEL_NAMES, Size

if TYPE_CHECKING:
    from PIL.Image import Image

    from minimonkey.inference import Answer, VisionLanguageModel


def ask(
    words: Annotated[list[str], typer.Argument(metavar="PICTURE... QUESTION", hidden=True)],
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="The longest answer, in tokens.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda:1, ...; the best there is if not given.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 or float16; what suits the device if not given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: text, tokens, seconds, pyramids, boxes.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line of tiles, tokens and seconds.")] = False,
) -> None:
    """Ask a question about pictures.

    PICTURE is a file, or - for standard input; the question comes last. Pictures are placed where `<image>` stands in the
    question, else before it. A question alone is one without pictures. The answer appears as it is written.

    \b
    Examples:
      minimonkey ask examples/receipt.png "What is the total?"
      minimonkey ask --pyramid 4-12/3-7 before.png after.png "What has changed?"
      curl -s https://example.org/page.png | minimonkey ask - "Read the text." --json
    """
    *sources, question = words
    if not sources and Path(question).is_file():
        raise UsageError(f'{question} is a picture without a question: minimonkey ask {question} "What does it say?"')
    if sources.count("-") > 1:
        raise UsageError("standard input (-) holds one picture; name the others by their files")
    changes = pyramid_changes(pyramid, plain)
    pictures = [read_picture(source) for source in sources]

    start = time.perf_counter()
    from minimonkey.inference import load

    vlm = load(model, device=device, dtype=dtype)
    loaded = time.perf_counter()
    settings = {"system": system, "pyramid": changes or None, "max_new_tokens": max_new_tokens}
    if as_json:
        answer = vlm.ask(pictures, question, **settings)
        print(json.dumps(as_dict(answer, loaded - start), ensure_ascii=False))
        return
    first = None
    for piece in vlm.stream(pictures, question, **settings):
        first = first or time.perf_counter()
        print(piece, end="", flush=True)
    print()
    if not quiet:
        done = time.perf_counter()
        seen = summary(vlm, pictures, changes)
        took = f"first word after {(first or done) - loaded:.2f} s, all after {done - loaded:.2f} s, loading {loaded - start:.2f} s"
        print(f"{seen}; {took}" if seen else took, file=sys.stderr)


def as_dict(answer: Answer, load_seconds: float) -> dict:
    """What `--json` prints. Sizes are pixels of the source, boxes too; timings are seconds."""
    return {
        "text": answer.text,
        "boxes": answer.boxes,
        "mean_logprob": answer.mean_logprob,
        "tokens": {"prompt": answer.prompt_tokens, "image": answer.image_tokens, "new": len(answer.token_ids)},
        "seconds": {"load": round(load_seconds, 4), **{name: round(seconds, 4) for name, seconds in answer.timings.items()}},
        "pyramids": [
            {
                "source": pyramid.source._asdict(),
                "tiles": pyramid.tile_count,
                "levels": {level.name: level.grid._asdict() for level in pyramid.levels},
            }
            for pyramid in answer.pyramids
        ],
    }


def summary(vlm: VisionLanguageModel, pictures: list[Image], changes: dict) -> str:
    """`11 tiles (6 detail + 4 adaptive + 1 thumbnail), 704 image tokens` of all pictures together; empty for none."""
    spec = vlm.processor.image_processor.spec_for({"pyramid": changes})
    pyramids = [spec.plan(Size(picture.height, picture.width)) for picture in pictures]
    tiles = sum(pyramid.tile_count for pyramid in pyramids)
    by_level = [sum(counts) for counts in zip(*(pyramid.level_tiles for pyramid in pyramids), strict=True)]
    parts = " + ".join(f"{count} {name}" for count, name in zip(by_level, LEVEL_NAMES, strict=False) if count)
    return f"{tiles} tiles ({parts}), {tiles * vlm.processor.image_seq_length} image tokens" if pictures else ""
