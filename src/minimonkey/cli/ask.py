"""`minimonkey ask`: one question about pictures. The answer goes to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from minimonkey.cli.pictures import ModelOption, PlainOption, PyramidOption, pyramid_changes, read_picture
from minimonkey.errors import UsageError
from minimonkey.pyramid import LEVEL_NAMES

if TYPE_CHECKING:
    from collections.abc import Generator

    from minimonkey.inference import Answer


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
    if names_a_picture(question):
        raise UsageError(f'{question} is a picture without a question: minimonkey ask {question} "What does it say?"')
    if not question.strip():
        raise UsageError('the question is empty: say what to look for, such as "What does it say?"')
    if sources.count("-") > 1:
        raise UsageError("standard input (-) holds one picture; name the others by their files")
    changes = pyramid_changes(pyramid, plain)
    pictures = [read_picture(source) for source in sources]

    start = time.perf_counter()
    from transformers.utils.logging import disable_progress_bar

    from minimonkey.inference import load

    disable_progress_bar()  # one bar for each weight file would stand before the answer
    vlm = load(model, device=device, dtype=dtype)
    load_seconds = time.perf_counter() - start
    settings = {"system": system, "pyramid": changes or None, "max_new_tokens": max_new_tokens}
    if as_json:
        print(json.dumps(as_dict(vlm.ask(pictures, question, **settings), load_seconds), ensure_ascii=False))
        return
    answer = say(vlm.stream(pictures, question, **settings))
    if not quiet:
        print(summary(answer, load_seconds), file=sys.stderr)


def names_a_picture(word: str) -> bool:
    """Whether a word that stands in the question's place is rather a picture: `-`, something on disk, or named like a file."""
    return word == "-" or os.path.exists(word) or re.fullmatch(r"\S+\.(png|jpe?g|webp|gif|tiff?|bmp)", word, re.I) is not None


def say(stream: Generator[str, None, Answer]) -> Answer:
    """Print the pieces of an answer as they come, and hand the whole back."""
    while True:
        try:
            print(next(stream), end="", flush=True)
        except StopIteration as end:
            print()
            return end.value


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


def summary(answer: Answer, load_seconds: float) -> str:
    """What came in and out, and how long it took: one line, the tiles of all pictures together."""
    tiles = sum(pyramid.tile_count for pyramid in answer.pyramids)
    by_level = [sum(counts) for counts in zip(*(pyramid.level_tiles for pyramid in answer.pyramids), strict=True)]
    parts = " + ".join(f"{count} {name}" for count, name in zip(by_level, LEVEL_NAMES, strict=False) if count)
    seen = f"{tiles} tiles ({parts}), {answer.image_tokens} image tokens; " if parts else ""
    first, total = answer.timings["first_token"], answer.timings["total"]
    took = f"the first after {first:.2f} s, the last after {total:.2f} s; loading took {load_seconds:.2f} s"
    return f"{seen}{len(answer.token_ids)} new tokens, {took}"
