"""How well does a model read print that isn't ours? Character error rate on lines, regions and pages of PDF files, with intervals.

    python benchmarks/read_real.py [--kind line] [--model FOLDER] [--pyramid 4-12/3-7] [--no-adaptive] [--errors 20] [--tesseract]

The crops (real.zip) and pages (pages.zip; benchmarks/held_out/make_real.py made both) are of ten documents that Debian packages
ship, by different hands and programs, drawn at 75 to 200 dpi, pages at 100; truth is pdftotext's. They are for measuring: nothing
of them may be trained on. A region's lines are joined by spaces, in truth and answer. A page is asked for some of its lines, by the
two words that each begins with. `--tesseract` lets Tesseract read the same crops, as English, not the pages; the row "in English"
leaves out the documents that aren't. Has no bar: exits with 0, or with 2 if Tesseract is missing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from PIL import Image

import minimonkey
import reader
from minimonkey.pyramid import PyramidSpec, Size

HELD_OUT = Path(__file__).parent / "held_out"
KINDS = {
    "line": ("real.zip", reader.LINE, 160),
    "region": ("real.zip", reader.BLOCK, 420),
    "page": ("pages.zip", None, 200),
}
"""Where they are, Tesseract's mode if it can be asked, and the most tokens of an answer."""
X_PX = (0, 5, 6, 8, 11, 1000)
"""Bounds of the groups, by the height of an x in the crop."""


def smallest_scale(spec: PyramidSpec, pictures: list[Image.Image]) -> float:
    """By how much the first level enlarges the crop that it enlarges least; below 1, it shrinks it."""
    scales = []
    for picture in pictures:
        scales.append(next(spec.plan(Size(picture.height, picture.width)).levels).scale.down)
    return min(scales)


def groups(rows: list[dict]) -> dict[str, list[int]]:
    """All, by height of an x, English, and by document."""
    found = reader.by_size([row["x_height_px"] for row in rows], X_PX, "x {}-{} px high")
    found["in English"] = [place for place, row in enumerate(rows) if row["language"] == "en"]
    for row in rows:
        found[row["document"]] = [place for place, other in enumerate(rows) if other["document"] == row["document"]]
    return found


def main() -> int:
    parser = reader.options(__doc__)
    parser.add_argument("--kind", choices=KINDS, help="only these; all if not given")
    given = parser.parse_args()
    rival = reader.tesseract_version() if given.tesseract else None
    vlm = minimonkey.load(given.model)
    spec = reader.pyramid_of(vlm, given)
    print(f"{given.model or 'embedded model'}, pyramid {dataclasses.asdict(spec)}")
    for kind in [given.kind] if given.kind else KINDS:
        archive, mode, longest = KINDS[kind]
        chosen = [(picture, row) for picture, row in reader.held_out(HELD_OUT / archive) if row["kind"] == kind]
        pictures, rows = [picture for picture, _ in chosen], [row for _, row in chosen]
        wanted = [reader.once(row["text"]) for row in rows]
        started = time.perf_counter()
        questions = [row.get("question", reader.QUESTION) for row in rows]
        answers = reader.read(vlm, pictures, spec, given.batch, longest, questions)
        said = {"model": [reader.once(answer.text) for answer in answers]}
        seconds = time.perf_counter() - started
        scale = smallest_scale(spec, pictures)
        right = sum(text == truth for text, truth in zip(said["model"], wanted, strict=True))
        print(f"\n{len(rows)} {kind}s in {seconds:.1f} s, batches of {given.batch}, seen at a scale of {scale:.2f} or more")
        print(f"{right} answers are right to the character")
        if rival and mode is not None:
            print(f"{rival}, {' '.join(reader.settings(mode))}")
            said[rival] = [reader.read_with_tesseract(picture, mode) for picture in pictures]
        print("\n" + reader.table(f"{kind}s", wanted, said, groups(rows)))
        print(reader.worst(wanted, said, given.errors))
    return 0


if __name__ == "__main__":
    sys.exit(reader.exit_code(main))
