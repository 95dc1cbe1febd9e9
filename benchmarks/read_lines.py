"""How well does a model read single lines? Character error rate on the 300 held-out lines, with a 95 % interval.

    python benchmarks/read_lines.py [--model FOLDER] [--pyramid 4-12/3-7] [--no-adaptive] [--errors 20]

The lines (benchmarks/held_out/lines.zip) are in typefaces and words that nano never trained on; docs/log.md says how they were
made. Answers are those of `vlm.batch`, greedy. `--no-adaptive` is plain tiling with the same detail budget. Exits with 1 if the
embedded model misses its bar.
"""

import argparse
import dataclasses
import io
import json
import sys
import time
import zipfile
from pathlib import Path

from PIL import Image

import minimonkey
from minimonkey.evaluation.metrics import cer, cer_counts, confidence_interval
from minimonkey.pyramid import PyramidSpec

LINES = Path(__file__).parent / "held_out" / "lines.zip"
BAR = 0.20
QUESTION = "Read the text."
INK_PX = (0, 10, 15, 20, 30, 1000)
"""Bounds of the groups, by the height of a line's ink."""


def held_out() -> list[tuple[Image.Image, dict]]:
    with zipfile.ZipFile(LINES) as archive:
        rows = [json.loads(row) for row in archive.read("lines.jsonl").decode().splitlines()]
        return [(Image.open(io.BytesIO(archive.read(row["image"]))).convert("RGB"), row) for row in rows]


def row_of(name: str, predictions: list[str], references: list[str]) -> str:
    low, high = confidence_interval(*cer_counts(predictions, references))
    return f"| {name} | {len(references)} | {cer(predictions, references):.3f} | {low:.3f}-{high:.3f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a model folder; the embedded model if not given")
    parser.add_argument("--pyramid", help="tiles of detail/adaptive, e.g. 4-12/3-7")
    parser.add_argument("--no-adaptive", action="store_true")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--errors", type=int, default=0, help="print this many of the worst lines")
    options = parser.parse_args()
    vlm = minimonkey.load(options.model)
    spec = vlm.processor.image_processor.spec
    if options.pyramid:
        given = PyramidSpec.parse(options.pyramid)
        spec = dataclasses.replace(spec, detail=given.detail, adaptive=given.adaptive)
    if options.no_adaptive:
        spec = dataclasses.replace(spec, adaptive=None)
    rows = held_out()
    started = time.perf_counter()
    answers = []
    for start in range(0, len(rows), options.batch):
        requests = [(picture, QUESTION) for picture, _ in rows[start : start + options.batch]]
        answers += vlm.batch(requests, pyramid=spec, max_new_tokens=160)
    seconds = time.perf_counter() - started
    texts, wanted = [answer.text for answer in answers], [row["text"] for _, row in rows]
    print(f"{options.model or 'embedded model'}, pyramid {dataclasses.asdict(spec)}")
    tiles = sum(answer.pyramids[0].tile_count for answer in answers) / len(answers)
    print(f"{len(rows)} lines in {seconds:.1f} s, batches of {options.batch}, {tiles:.1f} tiles a line\n")
    print("| lines | rows | CER | 95 % |\n|---|---|---|---|")
    print(row_of("all", texts, wanted))
    for low, high in zip(INK_PX, INK_PX[1:], strict=False):
        group = [i for i, (_, row) in enumerate(rows) if low <= row["ink_height_px"] < high]
        print(row_of(f"ink {low}-{high} px high", [texts[i] for i in group], [wanted[i] for i in group]))
    worst = sorted(range(len(rows)), key=lambda i: -cer(texts[i], wanted[i]))
    for i in worst[: options.errors]:
        print(f"{i:3} {cer(texts[i], wanted[i]):.2f} {wanted[i]!r} -> {texts[i]!r}")
    missed = options.model is None and not options.no_adaptive and cer(texts, wanted) > BAR
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
