"""What do several questions about a picture cost in a batch, and what do several workers bring?

    python benchmarks/batch.py [--pictures 8] [--rounds 3] [--workers 2] [--figures docs/performance.json]

The embedded model and drawn receipts, in float32. (1) `run_job` with three questions a picture, 16 new tokens each, against three
runs of one question: loading the model isn't counted, writing the tables is. (2) With `--workers N`, the same job in N processes
with a share of the threads and, where Ray is installed (make test-ray), by N actors of it, against one process with all threads;
loading is part of each. Rounds go through all. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minimonkey.evaluation.speed import alternate
from minimonkey.inference import load
from minimonkey.jobs.answers import Answers, Asker
from minimonkey.jobs.job import Work, run_job
from minimonkey.jobs.sources import Source
from minimonkey.synthetic.document import make_document
from minimonkey.synthetic.material.choice import material
from report import Bar, circumstances, conclude, options, parse

THREE_BAR = 2.0
QUESTIONS = ("What is the total?", "What is the date?", "Read the first line.")
NEW_TOKENS = 16


class Loaded:
    """Work whose model is there already."""

    def __init__(self, asker: Asker) -> None:
        self.settings: dict[str, Any] = {}
        self.open = lambda: asker


class Ways:
    """The ways to run a job over the same receipts."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.folder, self.pictures, self.threads = folder, folder / "receipts", given.threads
        self.pictures.mkdir()
        for seed in range(given.pictures):
            document = make_document(seed, "receipt", **material("package", "train")._asdict())
            document.picture.save(self.pictures / f"{seed}.png")
        settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
        self.here = Loaded(Asker(load(device=given.device, dtype=given.dtype, engine=given.engine), **settings))
        self.anew = Answers(device=given.device, dtype=given.dtype, engine=given.engine, max_new_tokens=NEW_TOKENS)
        self._runs = itertools.count()

    def job(self, work: Work, questions: Sequence[str], **how: Any) -> None:
        run_job(Source(self.pictures, questions), work, self.folder / f"{next(self._runs)}.jsonl", **how)

    def together(self) -> None:
        self.job(self.here, QUESTIONS)

    def apart(self) -> None:
        for question in QUESTIONS:
            self.job(self.here, [question])

    def one(self) -> None:
        self.job(self.anew, QUESTIONS)

    def processes(self, workers: int) -> None:
        self.job(self.anew, QUESTIONS, workers=workers)

    def actors(self, workers: int) -> None:
        self.job(self.anew, QUESTIONS, workers=workers, ray=True)


def measure(given: argparse.Namespace, where: str, folder: Path) -> int:
    ways = Ways(given, folder)
    calls: dict[str, Callable[[], object]] = {"together": ways.together, "apart": ways.apart}
    if given.workers:
        calls |= {"one": ways.one, "processes": partial(ways.processes, given.workers)}
        if importlib.util.find_spec("ray") is not None:
            calls["actors"] = partial(ways.actors, given.workers)
    median = {name: statistics.median(seconds) for name, seconds in alternate(calls, given.rounds).items()}
    for name, seconds in median.items():
        print(f"  {name:<10} {seconds:8.3f} s")
    bars = [Bar("three questions a picture in one run, against three runs of one", median["apart"] / median["together"], THREE_BAR)]
    for name in ("processes", "actors"):
        if name in median:
            bars.append(Bar(f"{given.workers} {name}, against one process with all threads", median["one"] / median[name]))
    return conclude("batch", where, bars, given.figures)


def main() -> int:
    parser = options(__doc__, dtype="float32")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    given = parse(parser)
    del given.layers  # the embedded model is as it is
    where = f"{circumstances(given)}; nano, {given.pictures} receipts, {NEW_TOKENS} new tokens"
    print(f"{where}; rounds alternate after one that warms up, medians")
    with tempfile.TemporaryDirectory() as folder:
        return measure(given, where, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
