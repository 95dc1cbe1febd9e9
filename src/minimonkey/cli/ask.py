"""`minimonkey ask`: one question about pictures. The answer goes to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimonkey.cli.options import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    MaxNewTokensOption,
    ModelOption,
    PlainOption,
    PyramidOption,
    QuantizeOption,
    SystemOption,
    check_outputs,
    pyramid_changes,
    read_picture,
    save_picture,
)
from minimonkey.errors import UsageError
from minimonkey.pyramid import LEVEL_NAMES

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image

    from minimonkey.compression.spec import CompressionSpec
    from minimonkey.inference import Answer, VisionLanguageModel

CompressionOption = Annotated[
    str | None,
    typer.Option("--compression", metavar="NAME[:SHARE]", help="Drop detail tokens, such as scm:0.5 (keep the half)."),
]
ONE_TILE = {"detail": (1, 1), "adaptive": None}
"""The pyramid of a video's frame, as published."""


def ask(
    words: Annotated[list[str], typer.Argument(metavar="PICTURE... QUESTION", hidden=True)],
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", help="PICTURE is a video or a folder of its frames: show N of them, one tile each."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FILE", help="Write the one picture with the boxes of the answer, if it has any."),
    ] = None,
    compression: CompressionOption = None,
    draw_kept: Annotated[
        Path | None,
        typer.Option("--draw-kept", metavar="FILE", help="Write the first picture with what --compression dropped in grey."),
    ] = None,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
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
      minimonkey ask --model mx262/MiniMonkey page.png "Who wrote this letter?"
      curl -s https://example.org/page.png | minimonkey ask - "Read the text." --json
      minimonkey ask --draw found.png street.jpg "Where is the bus? Answer with <box>."
      minimonkey ask --frames 8 clip.mp4 "What happens?"
      minimonkey ask --compression scm:0.5 --draw-kept kept.png receipt.png "What is the total?"
    """
    sources, question = sources_and_question(words)
    drawings = {option: path for option, path in (("--draw", draw), ("--draw-kept", draw_kept)) if path is not None}
    for option, path in drawings.items():
        check_drawing(option, path, sources)
    check_outputs(drawings, sources)
    selection = compression_spec(compression, draw_kept)
    changes = pyramid_changes(pyramid, plain)
    if frames is None:
        pictures = [read_picture(source) for source in sources]
    elif pyramid is not None:
        raise UsageError(f"--frames shows each frame as one tile: leave --pyramid {pyramid} out")
    else:
        pictures, question, changes = *frames_and_question(sources, question, frames), ONE_TILE

    start = time.perf_counter()
    from transformers.utils.logging import disable_progress_bar

    from minimonkey.inference import load

    disable_progress_bar()  # one bar for each weight file would stand before the answer
    vlm = load(model, device=device, dtype=dtype, quantize=quantize, engine=engine)
    load_seconds = time.perf_counter() - start
    settings: dict[str, Any] = {"system": system, "pyramid": changes or None, "max_new_tokens": max_new_tokens}
    if selection is not None:
        settings["compression"] = selection
    if as_json:
        answer = vlm.ask(pictures, question, **settings)
        print(json.dumps(as_dict(answer, load_seconds), ensure_ascii=False))
    else:
        answer = say(vlm.stream(pictures, question, **settings))
    if draw is not None:
        draw_answer(draw, pictures[0], answer, vlm)
    if draw_kept is not None:
        draw_selection(draw_kept, pictures[0], answer, vlm, selection)
    if not (as_json or quiet):
        if model is not None:
            print(f"{model}: {vlm.processor.image_processor.spec_for({'pyramid': changes or None}).describe()}", file=sys.stderr)
        print(summary(answer, load_seconds), file=sys.stderr)


def sources_and_question(words: list[str]) -> tuple[list[str], str]:
    """The names of pictures and the question, which comes last. Raises UsageError where it isn't one."""
    *sources, question = words
    if names_a_picture(question):
        raise UsageError(f'{question} is a picture without a question: minimonkey ask {question} "What does it say?"')
    if not question.strip():
        raise UsageError('the question is empty: say what to look for, such as "What does it say?"')
    if sources.count("-") > 1:
        raise UsageError("standard input (-) holds one picture; name the others by their files")
    return sources, question


def frames_and_question(sources: list[str], question: str, most: int) -> tuple[list[Image], str]:
    """At most so many frames of the one video or folder that `--frames` takes, and the question that numbers them."""
    from minimonkey.documents import frames_prompt, load_frames

    if len(sources) != 1 or sources == ["-"]:
        raise UsageError("--frames takes one video file or one folder of pictures, and then the question")
    pictures = load_frames(sources[0], most=most)
    for picture in pictures:
        for note in picture.info["notes"]:
            print(f"minimonkey: {note}", file=sys.stderr)
    return pictures, frames_prompt(len(pictures), question)


def compression_spec(text: str | None, draw_kept: Path | None) -> CompressionSpec | None:
    """What `--compression` asks for. Raises UsageError if it isn't given where `--draw-kept` is."""
    if text is None and draw_kept is not None:
        raise UsageError("--draw-kept draws what a compression keeps: say which, such as --compression scm:0.5")
    if text is None:
        return None
    from minimonkey.compression.spec import CompressionSpec

    return CompressionSpec.parse(text)


def check_drawing(option: str, path: Path, sources: list[str]) -> None:
    """Raise UsageError at once for a drawing that can't be: the answer may take minutes."""
    from PIL import Image

    if not sources:
        raise UsageError(f"{option} draws on the first picture, and there is none: name one before the question")
    if option == "--draw" and len(sources) > 1:
        raise UsageError("--draw takes one picture: about several, an answer doesn't tell which one a box is of; name one")
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"can't write {path}: its name should end as those of pictures do, try {path.stem or 'boxes'}.png")
    if not path.parent.is_dir():
        raise UsageError(f"can't write {path}: there is no folder {path.parent}")


def draw_answer(path: Path, picture: Image, answer: Answer, vlm: VisionLanguageModel) -> None:
    """Write the picture with the answer's boxes and their `<ref>` texts, or say that there are none."""
    from minimonkey.inference.answer import labels_of
    from minimonkey.visualize import draw_boxes

    if not answer.boxes:
        why = "has no boxes" if len(answer.pyramids) == 1 else "doesn't tell which of several pictures a box is of"
        print(f"minimonkey: the answer {why}, {path} is not written", file=sys.stderr)
        return
    labels = labels_of(vlm.processor.decode(answer.token_ids))
    save_picture(draw_boxes(picture, answer.boxes, labels), path, say_on=sys.stderr)  # standard output is the answer's


def draw_selection(path: Path, picture: Image, answer: Answer, vlm: VisionLanguageModel, spec: CompressionSpec | None) -> None:
    """Write the picture with its dropped detail tokens in grey, or say that it has none, or others were dropped."""
    from minimonkey.visualize import draw_kept

    selected = next((selection.selected.tolist() for selection in answer.selections if selection.picture == 0), None)
    if selected is None:
        print(f"minimonkey: the first picture has no detail level to drop tokens of, {path} is not written", file=sys.stderr)
        return
    first = next(iter(answer.pyramids[0].levels)).name
    if spec is not None and spec.selector == "scm-reference" and first != "detail":
        print(f"minimonkey: scm-reference dropped {first} tokens too, which can't be drawn: {path} is not written", file=sys.stderr)
        return
    drawn = draw_kept(picture, answer.pyramids[0], selected, vlm.processor.image_seq_length)
    save_picture(drawn, path, say_on=sys.stderr)


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
    """What `--json` prints. Sizes are pixels of the source, boxes too; timings are seconds; what compression kept are numbers of
    detail tokens, those of the picture at that place of the pyramids."""
    kept = [{"picture": selection.picture, "selected": selection.selected.tolist()} for selection in answer.selections]
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
        **({"kept": kept} if kept else {}),
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
