"""What do further questions about a picture cost?

    python benchmarks/questions.py [--dtype bfloat16] [--rounds 3] [--layers 24] [--tiles 13] [--figures docs/performance.json]

Random weights of InternVL2-1B's shape, a page of 12 tiles and a thumbnail, questions of 30 tokens and what the template puts behind
them. (1) `vlm.open()` and the first question to its first token, against the second question to its. (2) Eight questions answered
by `ask_many`, 32 tokens each, opening included, against one fresh `vlm.ask` times eight. (3) The same on the open picture, against
eight `ask` in turn on it. The rivals are our own slower ways; each round goes through all. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import statistics
import sys

import torch

from internvl2_1b import QUESTIONS, pyramid_of, random_vlm
from minimonkey.evaluation.speed import alternate, noise_page
from minimonkey.inference import OpenPicture, VisionLanguageModel
from report import Bar, circumstances, conclude, options, parse

SECOND_BAR, FRESH_BAR, CACHED_BAR = 0.02, 6.0, 2.0
NEW_TOKENS = 32
EIGHT = QUESTIONS[2:10]
LONG = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}


class Ways:
    """The ways to ask, each to be timed alone; those of the open picture need `open` before them."""

    page: OpenPicture

    def __init__(self, vlm: VisionLanguageModel, tiles: int) -> None:
        self.vlm, self.picture, self.pyramid = vlm, noise_page(), pyramid_of(tiles)

    def fresh(self) -> None:
        self.vlm.ask(self.picture, EIGHT[0], pyramid=self.pyramid, **LONG)

    def open(self) -> None:
        self.page = self.vlm.open(self.picture, pyramid=self.pyramid)

    def first(self) -> float:
        """Seconds to the first token, and below."""
        return self.page.ask(QUESTIONS[0], max_new_tokens=1).timings["first_token"]

    def second(self) -> float:
        return self.page.ask(QUESTIONS[1], max_new_tokens=1).timings["first_token"]

    def batch(self) -> None:
        self.page.ask_many(EIGHT, **LONG)

    def in_turn(self) -> None:
        for question in EIGHT:
            self.page.ask(question, **LONG)
        self.page.close()


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--tiles", type=int, default=13)
    given = parse(parser, "tiles")
    where = circumstances(given)
    print(f"{where}; sdpa, greedy, {NEW_TOKENS} new tokens; rounds alternate after one that warms up, medians")
    ways = Ways(random_vlm(getattr(torch, given.dtype), given.device, layers=given.layers, engine=given.engine), given.tiles)
    names = ("fresh", "open", "first", "second", "batch", "in_turn")
    taken = alternate({name: getattr(ways, name) for name in names}, given.rounds)
    for name in names:
        print(f"  {name:<8} {statistics.median(taken[name]):8.3f} s")
    first, eight = ([sum(pair) for pair in zip(taken["open"], taken[name], strict=True)] for name in ("first", "batch"))
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    bars = [
        Bar("second question to its first token, of the first's", median["second"] / statistics.median(first), SECOND_BAR, True),
        Bar("eight questions in one batch, against eight fresh calls", 8 * median["fresh"] / statistics.median(eight), FRESH_BAR),
        Bar("eight questions in one batch, against eight in turn on it", median["in_turn"] / median["batch"], CACHED_BAR),
    ]
    return conclude("questions", where, bars, given.figures)


if __name__ == "__main__":
    sys.exit(main())
