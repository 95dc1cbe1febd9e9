"""How well does a model read single lines? Character error rate on the 300 held-out lines, with a 95 % interval.

    python benchmarks/read_lines.py [--model FOLDER] [--pyramid 4-12/3-7] [--no-adaptive] [--errors 20] [--tesseract]

The lines (benchmarks/held_out/lines.zip) are in typefaces and words that nano never trained on; docs/log.md says how they were
made. Answers are those of `vlm.batch`, greedy. `--no-adaptive` is plain tiling with the same detail budget. `--tesseract` lets
Tesseract read them too, as single lines of English. Exits with 1 if the embedded model misses its bar, with 2 without Tesseract.
"""

import dataclasses
import sys
import time
from pathlib import Path

import minimonkey
import reader
from minimonkey.evaluation.metrics import cer

LINES = Path(__file__).parent / "held_out" / "lines.zip"
BAR = 0.20
INK_PX = (0, 10, 15, 20, 30, 1000)
"""Bounds of the groups, by the height of a line's ink."""


def main() -> int:
    given = reader.options(__doc__).parse_args()
    rival = reader.tesseract_version() if given.tesseract else None
    vlm = minimonkey.load(given.model)
    spec = reader.pyramid_of(vlm, given)
    pictures, rows = zip(*reader.held_out(LINES), strict=True)
    started = time.perf_counter()
    answers = reader.read(vlm, pictures, spec, given.batch, 160)
    seconds = time.perf_counter() - started
    wanted, said = [row["text"] for row in rows], {"model": [answer.text for answer in answers]}
    print(f"{given.model or 'embedded model'}, pyramid {dataclasses.asdict(spec)}")
    tiles = sum(answer.pyramids[0].tile_count for answer in answers) / len(answers)
    print(f"{len(rows)} lines in {seconds:.1f} s, batches of {given.batch}, {tiles:.1f} tiles a line")
    if rival:
        print(f"{rival}, {' '.join(reader.settings(reader.LINE))}")
        said[rival] = [reader.read_with_tesseract(picture, reader.LINE) for picture in pictures]
    groups = reader.by_size([row["ink_height_px"] for row in rows], INK_PX, "ink {}-{} px high")
    print("\n" + reader.table("lines", wanted, said, groups))
    print(reader.worst(wanted, said, given.errors))
    missed = given.model is None and not given.no_adaptive and cer(said["model"], wanted) > BAR
    return int(missed)


if __name__ == "__main__":
    sys.exit(reader.exit_code(main))
