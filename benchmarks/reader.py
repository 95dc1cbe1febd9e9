"""Who reads held-out print: a model or Tesseract, and with how many mistakes. Knows neither sizes nor bars; the benchmarks do.

Tesseract is a program of its own (Debian: tesseract-ocr, tesseract-ocr-eng). It gets the same pictures, as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

import minimonkey
from minimonkey.errors import DataError, UsageError
from minimonkey.evaluation.metrics import cer, cer_counts, confidence_interval
from minimonkey.inference.answer import Answer
from minimonkey.pyramid import PyramidSpec

QUESTION = "Read the text."
LINE, BLOCK = 7, 6
"""Tesseract's page segmentation modes for a single line and for a block of several."""


def options(page: str) -> argparse.ArgumentParser:
    """The options that benchmarks of reading share; `page` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder; the embedded model if not given")
    parser.add_argument("--pyramid", help="tiles of detail/adaptive, e.g. 4-12/3-7")
    parser.add_argument("--no-adaptive", action="store_true", help="plain tiling with the same detail budget")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--errors", type=int, default=0, help="print so many of the worst answers")
    parser.add_argument("--tesseract", action="store_true", help="let Tesseract read the same pictures")
    return parser


def exit_code(main: Callable[[], int]) -> int:
    """What `main` returns; 2 if a setting is wrong or data is missing, which one line on stderr then says."""
    try:
        return main()
    except (UsageError, DataError) as error:
        print(error, file=sys.stderr)
        return 2


def held_out(archive: Path) -> list[tuple[Image.Image, dict]]:
    """RGB pictures, and the rows that say what stands there, of a zip with a JSONL file of its own name."""
    with zipfile.ZipFile(archive) as opened:
        rows = [json.loads(row) for row in opened.read(f"{archive.stem}.jsonl").decode().splitlines()]
        return [(Image.open(io.BytesIO(opened.read(row["image"]))).convert("RGB"), row) for row in rows]


def pyramid_of(vlm: minimonkey.VisionLanguageModel, given: argparse.Namespace) -> PyramidSpec:
    """The model's pyramid, changed as the options say."""
    spec = vlm.processor.image_processor.spec
    if given.pyramid:
        wanted = PyramidSpec.parse(given.pyramid)
        spec = dataclasses.replace(spec, detail=wanted.detail, adaptive=wanted.adaptive)
    return dataclasses.replace(spec, adaptive=None) if given.no_adaptive else spec


def read(
    vlm: minimonkey.VisionLanguageModel,
    pictures: Sequence[Image.Image],
    spec: PyramidSpec,
    batch: int,
    max_new_tokens: int,
    questions: Sequence[str] | None = None,
) -> list[Answer]:
    """What the model makes of each picture, or says to its question, greedy."""
    answers = []
    requests = list(zip(pictures, questions or [QUESTION] * len(pictures), strict=True))
    for start in range(0, len(pictures), batch):
        answers += vlm.batch(requests[start : start + batch], pyramid=spec, max_new_tokens=max_new_tokens)
    return answers


def tesseract(*words: str, data: bytes = b"") -> str:
    """What the program prints, on one thread.

    Raises:
        UsageError: it isn't installed or says that something is wrong.
    """
    if shutil.which("tesseract") is None:
        raise UsageError("--tesseract: no program 'tesseract' found; apt-get install tesseract-ocr, or leave the option out")
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
    done = subprocess.run(["tesseract", *words], input=data, capture_output=True, env=environment)
    if done.returncode:
        last = (done.stderr.decode().strip().splitlines() or ["nothing"])[-1]
        raise UsageError(f"--tesseract: exit code {done.returncode} from 'tesseract {' '.join(words)}', which says: {last}")
    return done.stdout.decode()


def tesseract_version() -> str:
    """For example "tesseract 5.3.0". Raises UsageError as `tesseract` does."""
    return tesseract("--version").partition("\n")[0]


def settings(mode: int) -> tuple[str, ...]:
    """Tesseract's words after the names of the files."""
    return "--psm", str(mode), "-l", "eng"


def read_with_tesseract(picture: Image.Image, mode: int) -> str:
    """What Tesseract makes of a picture; white space counts once. Raises UsageError as `tesseract` does."""
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    return once(tesseract("-", "-", *settings(mode), data=stored.getvalue()))


def once(text: str) -> str:
    """Text whose spaces and line ends are single spaces."""
    return " ".join(text.split())


def table(what: str, wanted: Sequence[str], said: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[int]]) -> str:
    """Character error rates in Markdown: a row for each group (places in `wanted`) that has any, two columns for each reader."""
    head = [what, "rows"] + [title for reader in said for title in (f"CER, {reader}" if len(said) > 1 else "CER", "95 %")]
    rows = [head, ["---"] * len(head)]
    for name, places in groups.items():
        if not places:
            continue
        row = [name, str(len(places))]
        for texts in said.values():
            pair = [texts[place] for place in places], [wanted[place] for place in places]
            low, high = confidence_interval(*cer_counts(*pair))
            row += [f"{cer(*pair):.3f}", f"{low:.3f}-{high:.3f}"]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def by_size(sizes: Sequence[float], bounds: Sequence[int], name: str) -> dict[str, list[int]]:
    """Groups for `table`: all, then those of each size; `name` has places for the lower and the upper bound."""
    groups = {"all": list(range(len(sizes)))}
    for low, high in zip(bounds, bounds[1:], strict=False):
        groups[name.format(low, high)] = [place for place, size in enumerate(sizes) if low <= size < high]
    return groups


def worst(wanted: Sequence[str], said: Mapping[str, Sequence[str]], count: int) -> str:
    """The answers of the first reader with the most mistakes for their length, and what the others said."""
    first, *others = said.values()
    lines = []
    for place in sorted(range(len(wanted)), key=lambda place: -cer(first[place], wanted[place]))[:count]:
        rest = "".join(f" | {texts[place]!r}" for texts in others)
        lines.append(f"{place:3} {cer(first[place], wanted[place]):.2f} {wanted[place]!r} -> {first[place]!r}{rest}")
    return "\n".join(lines)
