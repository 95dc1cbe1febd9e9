"""How does cost grow with tiles, with questions about one picture, and with pictures in a batch?

    python benchmarks/growth.py [--figures docs/performance.json] [--only tiles] [--again]
    python benchmarks/page.py                                     # draws and writes what was measured

Random weights of InternVL2-1B's shape, each point once after a short run that warms up, no bars.

    tiles      one picture of 1 to 40 tiles: vision encoder, and picture to first token
    questions  1 to 32 about one picture of 13 tiles, 16 new tokens each: asked afresh (one measured, times their number), on the
               open picture one by one, on it in one batch; opening included
    batch      1 to 16 pictures of one tile with a question each, 32 new tokens: one by one (one measured, times their number),
               in one batch

Each takes some three minutes on two cores. With `--figures` every point is kept at once with the commit that it was
measured at, and none that the file has is measured again.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from internvl2_1b import QUESTIONS, pyramid_of, random_vlm
from minimonkey.evaluation.speed import noise_page, settle
from minimonkey.inference import VisionLanguageModel
from minimonkey.pyramid import Size
from report import circumstances, commit, options, parse, read, store

TILES = (1, 5, 13, 20, 40)
COUNTS = (1, 2, 4, 8, 16, 32)
BATCHES = (1, 2, 4, 8, 16)
ASKED_TILES = 13
ONE_TILE = Size(448, 448)

Point = tuple[int, dict[str, float]]


def tiles(vlm: VisionLanguageModel, counts: tuple[int, ...]) -> Iterator[Point]:
    """Seconds in the encoder and until the first token."""
    encode, taken = vlm.backend.encode, list[float]()

    def timed(*args: Any, **kwargs: Any) -> Any:
        settle()
        begun = time.perf_counter()
        features = encode(*args, **kwargs)
        settle()
        taken.append(time.perf_counter() - begun)
        return features

    vlm.backend.encode = timed
    for count in counts:
        answer = vlm.ask(noise_page(), QUESTIONS[0], pyramid=pyramid_of(count), max_new_tokens=1)
        assert answer.pyramids[0].tile_count == count
        yield count, {"encoder": taken.pop(), "first_token": answer.timings["first_token"]}
    del vlm.backend.encode


def questions(vlm: VisionLanguageModel, counts: tuple[int, ...]) -> Iterator[Point]:
    """Seconds until so many questions are answered, in three ways."""
    picture, spec = noise_page(), pyramid_of(ASKED_TILES)
    length = {"max_new_tokens": 16, "min_new_tokens": 16}
    fresh = vlm.ask(picture, QUESTIONS[0], pyramid=spec, **length).timings["total"]
    settle()
    begun = time.perf_counter()
    with vlm.open(picture, pyramid=spec) as page:
        settle()
        opened = time.perf_counter() - begun
        each = [page.ask(question, **length).timings["total"] for question in QUESTIONS[: max(counts)]]
        so_far = list(itertools.accumulate(each))
        for count in counts:
            batch = page.ask_many(QUESTIONS[:count], **length)[0].timings["total"]
            yield count, {"fresh": count * fresh, "one_by_one": opened + so_far[count - 1], "in_a_batch": opened + batch}


def batch(vlm: VisionLanguageModel, counts: tuple[int, ...]) -> Iterator[Point]:
    """Seconds until so many questions about as many pictures are answered, one by one (one measured) and all at once."""
    length = {"max_new_tokens": 32, "min_new_tokens": 32}
    rows = [(noise_page(ONE_TILE, seed), question) for seed, question in enumerate(QUESTIONS)]  # equal ones would be encoded once
    one = vlm.ask(*rows[0], pyramid=pyramid_of(1), **length).timings["total"]
    for count in counts:
        taken = vlm.batch(rows[:count], pyramid=pyramid_of(1), **length)[0].timings["total"]
        yield count, {"one_by_one": count * one, "in_a_batch": taken}


PIECES = {"tiles": (tiles, TILES), "questions": (questions, COUNTS), "batch": (batch, BATCHES)}


def begun(kept: dict, where: str, pieces: list[str], again: bool) -> dict:
    """What is gone on from: the points that there are, but for those of another setting or to be measured again."""
    same = kept.get("where", where) == where
    points = {name: kept.get(name, {}) if same and not (again and name in pieces) else {} for name in PIECES}
    return {"where": where, **points}


def main() -> int:
    parser = options(__doc__, rounds=None)
    parser.add_argument("--only", choices=list(PIECES), action="append", help="this piece alone; may be given again")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--most", type=int, default=40, help="no point beyond this one, to try things")
    given = parse(parser)
    where, pieces = circumstances(given), given.only or list(PIECES)
    kept = read(given.figures).get("growth", {}) if given.figures else {}
    if kept.get("where", where) != where and not given.again:
        print(f"{given.figures} has points of another setting ({kept['where']}; now {where}): --again drops them", file=sys.stderr)
        return 2
    found, measured_at = begun(kept, where, pieces, given.again), commit()
    print(where)
    vlm = random_vlm(getattr(torch, given.dtype), given.device, layers=given.layers, engine=given.engine)
    vlm.ask(noise_page(ONE_TILE), "?", pyramid=pyramid_of(1), max_new_tokens=2)
    for name in pieces:
        measure, points = PIECES[name]
        missing = tuple(point for point in points if str(point) not in found[name] and point <= given.most)
        for point, seconds in measure(vlm, missing) if missing else ():
            print(f"{name:<10} {point:>3}  " + ", ".join(f"{what} {taken:.2f} s" for what, taken in seconds.items()), flush=True)
            found[name][str(point)] = {**seconds, "commit": measured_at}
            if given.figures:
                store(given.figures, "growth", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
