"""How well does a model read print that isn't ours? Character error rate on lines and regions of PDF files, with intervals.

    python benchmarks/read_real.py [--kind line] [--model FOLDER] [--pyramid 4-12/3-7] [--no-adaptive] [--errors 20] [--tesseract]

The crops (benchmarks/held_out/real.zip; held_out/make_real.py made them) are of ten documents that Debian packages ship, by
different hands and programs, drawn at 75 to 200 dpi; truth is pdftotext's. They are for measuring: nothing of them may be trained
on. A region's lines are joined by spaces, in truth and answer. `--tesseract` lets Tesseract read the same crops, as English;
the row "in English" leaves out the documents that aren't. Has no bar: exits with 0, or with 2 if Tesseract is missing.
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

REAL = Path(__file__).parent / "held_out" / "real.zip"
KINDS = {"line": (reader.LINE, 160), "region": (reader.BLOCK, 420)}
"""Tesseract's mode and the most tokens of an answer."""
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
    parser.add_argument("--kind", choices=KINDS, help="only these; lines and regions if not given")
    given = parser.parse_args()
    rival = reader.tesseract_version() if given.tesseract else None
    vlm = minimonkey.load(given.model)
    spec = reader.pyramid_of(vlm, given)
    print(f"{given.model or 'embedded model'}, pyramid {dataclasses.asdict(spec)}")
    for kind in [given.kind] if given.kind else KINDS:
        mode, longest = KINDS[kind]
        chosen = [(picture, row) for picture, row in reader.held_out(REAL) if row["kind"] == kind]
        pictures, rows = [picture for picture, _ in chosen], [row for _, row in chosen]
        wanted = [reader.once(row["text"]) for row in rows]
        started = time.perf_counter()
        said = {"model": [reader.once(answer.text) for answer in reader.read(vlm, pictures, spec, given.batch, longest)]}
        seconds = time.perf_counter() - started
        scale = smallest_scale(spec, pictures)
        print(f"\n{len(rows)} {kind}s in {seconds:.1f} s, batches of {given.batch}, seen at a scale of {scale:.2f} or more")
        if rival:
            print(f"{rival}, {' '.join(reader.settings(mode))}")
            said[rival] = [reader.read_with_tesseract(picture, mode) for picture in pictures]
        print("\n" + reader.table(f"{kind}s", wanted, said, groups(rows)))
        print(reader.worst(wanted, said, given.errors))
    return 0


if __name__ == "__main__":
    sys.exit(reader.exit_code(main))
