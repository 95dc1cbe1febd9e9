"""How well does a model read documents? The table of bars, on 600 held-out documents, each figure with a 95 % interval.

    python benchmarks/read_documents.py [--model FOLDER] [--count 600] [--plain] [--errors 20] [--json FILE]

The documents are drawn anew (they need all that `minimonkey data packages` names) and compared with the hashes in
tests/golden/held_out_documents.json. Typefaces, words and one family of layouts of each kind are never in training. All questions
of a document are asked of its open picture, greedy, each as a first turn. Only print whose x-height is 5 px or more in the detail
level counts for the bars; smaller print is reported apart. Intervals resample documents, whose questions have much in common.
`--plain` cuts by plain tiling with as many tiles as the pyramid had. With `--json` readings are kept as they come; the same
command goes on where it was interrupted, or with more documents. Exits with 1 if the embedded model misses a bar.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import minimonkey
from minimonkey.errors import DataError, UsageError
from minimonkey.evaluation.metrics import anls, cer_counts, confidence_interval
from minimonkey.inference.answer import boxes_of
from minimonkey.pyramid import Box, Pyramid, PyramidSpec, Size
from minimonkey.synthetic.document import Document
from minimonkey.synthetic.held_out import digests, held_out_documents
from minimonkey.synthetic.questions import UNANSWERABLE, Question
from reader import exit_code

FROZEN = Path(__file__).parents[1] / "tests" / "golden" / "held_out_documents.json"
SMALLEST_PX = 5.0
"""x-height in the detail level below which print doesn't count for the bars."""
FORMS = ("receipt", "invoice", "form")
MAX_NEW_TOKENS, SHORT_TOKENS = 420, 200
"""Of an answer that is several lines, and of any other: more than any of the 600 documents wants; answers end by themselves."""
SEVERAL_LINES = ("region", "everything")
REFUSALS = 0.1
"""Share of answerable questions that may be refused for the recall of "unanswerable" to count."""


class Reading(NamedTuple):
    """A question, what should have been answered and what was."""

    kind: str
    question: str
    wanted: str
    said: str
    document: str
    lines: int
    x_height_px: float
    size: Size
    boxes: list[Box]
    """Those that were said, in pixels; the text leaves out the marks that tell them."""
    number: int
    """The document's, from 0."""


class Bar(NamedTuple):
    """A row of the table: which readings count, a value and a weight of each, and what is asked for."""

    name: str
    counts: Callable[[Reading], bool]
    score: Callable[[Reading], tuple[float, float]]
    close_at: float
    at_most: bool = False


def overlap(reading: Reading) -> float:
    """Intersection over union of the first box said and the wanted one."""
    if not reading.boxes:
        return 0.0
    one, other = reading.boxes[0], boxes_of(reading.wanted, reading.size)[0]
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    both = max(0, width) * max(0, height)
    areas = sum(max(0, box.right - box.left) * max(0, box.bottom - box.top) for box in (one, other))
    return both / max(1, areas - both)


def edits(reading: Reading) -> tuple[float, float]:
    (count,), (length,) = cer_counts(reading.said, reading.wanted)
    return count, length


def refused(reading: Reading) -> bool:
    return reading.said.strip().casefold().rstrip(".") == UNANSWERABLE


BARS = (
    Bar("single lines, CER", lambda r: r.kind == "line", edits, 0.08, at_most=True),
    Bar("regions of 2-6 lines, CER", lambda r: r.kind == "region", edits, 0.12, at_most=True),
    Bar(
        "fields of receipts, invoices, forms, 5-20 lines, ANLS",
        lambda r: r.kind == "field" and r.document in FORMS and 5 <= r.lines <= 20,
        lambda r: (anls(r.said, r.wanted), 1),
        0.70,
    ),
    Bar(
        "the same, 30-60 lines, ANLS",
        lambda r: r.kind == "field" and r.document in FORMS and 30 <= r.lines <= 60,
        lambda r: (anls(r.said, r.wanted), 1),
        0.50,
    ),
    Bar('"unanswerable", recall', lambda r: r.kind == "unanswerable", lambda r: (refused(r), 1), 0.6),
    Bar("where is X, IoU >= 0.5", lambda r: r.kind == "where", lambda r: (overlap(r) >= 0.5, 1), 0.4),
)


def same_tiles(spec: PyramidSpec, pyramid: Pyramid) -> PyramidSpec:
    """Plain tiling with at most as many tiles as the pyramid had."""
    return dataclasses.replace(spec, detail=(1, max(1, pyramid.tile_count - 1)), adaptive=None)


def smallest_print(document: Document, question: Question, pyramid: Pyramid) -> float:
    """The x-height in the detail level of the smallest print that the answer is read from, or of all lines."""
    return document.smallest_print(question) * (pyramid.detail or next(pyramid.levels)).scale.down


def frozen(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents, once each of the first few, and all of them at the end, have turned out to be those that were frozen.

    Raises DataError: other typefaces, word lists or versions of Pillow draw other documents.
    """
    golden = json.loads(FROZEN.read_text(encoding="utf-8"))
    expected = dict(enumerate(golden["first"])) | {golden["count"] - 1: golden["sha256"]}
    seen: list[Document] = []

    def passing() -> Iterator[Document]:
        for document in documents:
            seen.append(document)
            yield document

    for number, digest in enumerate(digests(passing())):
        if expected.get(number, digest) != digest:
            raise DataError(f"document {number} isn't the frozen one: {FROZEN.name} was made with {golden['made_with']}")
        yield seen.pop()


def reader_of(vlm: minimonkey.VisionLanguageModel, plain: bool) -> dict[str, Any]:
    """What readings depend on: the weights, and how pictures are cut."""
    weights = hashlib.sha256()
    for name, values in sorted(vlm.model.state_dict().items()):
        weights.update(name.encode() + values.float().cpu().numpy().tobytes())
    return {"weights": weights.hexdigest(), "plain": plain, "pyramid": dataclasses.asdict(vlm.processor.image_processor.spec)}


def kept(file: Path, reader: dict[str, Any]) -> list[list[Reading]]:
    """The readings of each document that an earlier run has left in a file, which is begun if there is none.

    A document that was cut off is taken out. Raises UsageError for a file of another reader, for any other one, and for one that
    can't be read or written.
    """
    documents: list[list[Reading]] = []
    number = 1
    try:
        first, *lines = (file.read_text(encoding="utf-8") if file.exists() else "").splitlines(keepends=True) or [""]
        if first and json.loads(first) != json.loads(json.dumps(reader)):
            raise UsageError(f"{file}: the readings of other weights, or of another cut; name another file in --json")
        lines = [line for line in lines if line.endswith("\n")]
        for number, line in enumerate(lines, start=2):
            if not isinstance(content := json.loads(line), list):
                raise TypeError("no list")
            readings = [fields | {"size": Size(*fields["size"])} for fields in content]
            documents.append([Reading(**fields | {"boxes": [Box(*box) for box in fields["boxes"]]}) for fields in readings])
            if any(reading.number != number - 2 for reading in documents[-1]):  # two runs at once wrote here
                raise ValueError("of another document")
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(reader) + "\n" + "".join(lines), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise UsageError(f"--json {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file}: line {number} isn't what this benchmark writes; name another file in --json") from error
    return documents


def readings(
    vlm: minimonkey.VisionLanguageModel, documents: Iterator[Document], plain: bool, skip: int = 0
) -> Iterator[list[Reading]]:
    """All readings of one document after the other, without the first `skip`."""
    for number, document in enumerate(documents):
        if number < skip:
            continue
        spec = vlm.processor.image_processor.spec
        size = Size(document.picture.height, document.picture.width)
        pyramid = spec.plan(size)
        used = same_tiles(spec, pyramid) if plain else spec
        with vlm.open(document.picture, pyramid=used) as opened:
            answers = {}
            for longest, several in ((MAX_NEW_TOKENS, True), (SHORT_TOKENS, False)):
                asked = [question for question in document.questions if (question.kind in SEVERAL_LINES) == several]
                texts = [question.text for question in asked]
                answers |= dict(zip(texts, opened.ask_many(texts, max_new_tokens=longest) if asked else [], strict=True))
        rows = []
        for question in document.questions:
            answer = answers[question.text]
            # The pyramid's detail level decides which print counts, whichever way the picture was cut.
            height = smallest_print(document, question, pyramid)
            said = (question.kind, question.text, question.answer, answer.text)
            rows.append(Reading(*said, document.kind, len(document.lines), height, size, answer.boxes, number))
        yield rows


def figure_of(bar: Bar, rows: list[Reading]) -> tuple[float, float, float]:
    """The figure of these readings, and its 95 % interval from resampling documents."""
    sums: dict[int, tuple[float, float]] = {}
    for reading in rows:
        sums[reading.number] = tuple(map(sum, zip(sums.get(reading.number, (0, 0)), bar.score(reading), strict=True)))
    values, weights = zip(*sums.values(), strict=True)
    return (sum(values) / sum(weights), *confidence_interval(values, weights))


def row(bar: Bar, rows: list[Reading]) -> tuple[str, bool]:
    """A line of the table, and whether the bar is met."""
    if not rows:
        return f"| {bar.name} | 0 | - | - | {bar.close_at:.2f} |", False
    figure, low, high = figure_of(bar, rows)
    met = figure <= bar.close_at if bar.at_most else figure >= bar.close_at
    limit = f"{'<=' if bar.at_most else '>='} {bar.close_at:.2f}"
    return f"| {bar.name} | {len(rows)} | {figure:.3f} | {low:.3f}-{high:.3f} | {limit} |", met


def table(rows: list[Reading]) -> tuple[str, bool]:
    """All rows as Markdown, and whether all bars are met: those of large enough print, then those of smaller."""
    lines, all_met = ["| what | questions | figure | 95 % | close at |", "|---|---|---|---|---|"], True
    large = [reading for reading in rows if reading.x_height_px >= SMALLEST_PX]
    for bar in BARS:
        line, met = row(bar, [reading for reading in large if bar.counts(reading)])
        lines.append(line)
        all_met &= met
    answerable = [reading for reading in large if reading.kind != "unanswerable"]
    share = sum(map(refused, answerable)) / max(1, len(answerable))
    lines.append(f"| answerable questions that were refused | {len(answerable)} | {share:.3f} | | <= {REFUSALS:.2f} |")
    all_met &= share <= REFUSALS
    for bar in BARS:
        small = [reading for reading in rows if reading.x_height_px < SMALLEST_PX and bar.counts(reading)]
        if small:
            lines.append(row(bar, small)[0].replace(f"| {bar.name}", f"| smaller print: {bar.name}", 1))
    return "\n".join(lines), all_met


def by_size(rows: list[Reading]) -> str:
    """Every figure by x-height in the detail level, with the number of questions."""
    sizes = ((0, 4), (4, 5), (5, 6), (6, 8), (8, 11), (11, 1000))
    heads = [f"{low}-{high} px" if high < 1000 else f"{low} px and more" for low, high in sizes]
    lines = [f"| x-height in the detail level | {' | '.join(heads)} |", "|---" * (len(sizes) + 1) + "|"]
    for bar in BARS:
        groups = [[r for r in rows if bar.counts(r) and low <= r.x_height_px < high] for low, high in sizes]
        cells = [f"{figure_of(bar, group)[0]:.3f} ({len(group)})" if group else "-" for group in groups]
        lines.append(f"| {bar.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_kind(rows: list[Reading]) -> str:
    """What goes wrong with questions of each kind, where print is large enough: does an answer begin where it should (its first
    four characters tell), is what follows read well, and does it end?"""
    heads = ["kind of question", "questions", "right", "begins rightly", "length said / wanted", "CER as far as wanted"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    large = [reading for reading in rows if reading.x_height_px >= SMALLEST_PX and reading.wanted and reading.kind != "where"]
    for kind in sorted({reading.kind for reading in large}):
        group = [reading for reading in large if reading.kind == kind]
        right = sum(reading.said == reading.wanted for reading in group) / len(group)
        begun = sum(reading.said[:4] == reading.wanted[:4] for reading in group) / len(group)
        wanted = sum(len(reading.wanted) for reading in group)
        missed = sum(edits(reading._replace(said=reading.said[: len(reading.wanted)]))[0] for reading in group)
        length = sum(len(reading.said) for reading in group) / wanted
        lines.append(f"| {kind} | {len(group)} | {right:.2f} | {begun:.2f} | {length:.2f} | {missed / wanted:.3f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder; the embedded model if not given")
    parser.add_argument("--count", type=int, default=600, help="only the first so many documents")
    parser.add_argument("--plain", action="store_true", help="plain tiling with as many tiles")
    parser.add_argument("--errors", type=int, default=0, help="print so many wrong answers")
    parser.add_argument(
        "--json", type=Path, help="keep the readings in this file, a line of JSON for each document, and go on from there"
    )
    options = parser.parse_args()
    vlm = minimonkey.load(options.model)
    started = time.perf_counter()
    done = kept(options.json, reader_of(vlm, options.plain)) if options.json else []
    documents = tqdm(frozen(held_out_documents(options.count)), total=options.count, unit="document")
    for new in readings(vlm, documents, options.plain, skip=len(done)):
        done.append(new)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps([reading._asdict() for reading in new]) + "\n")
    rows = [reading for document in done[: options.count] for reading in document]
    lines, met = table(rows)
    print(f"{options.model or 'embedded model'}, {'plain tiling, equal tiles' if options.plain else vlm!r}")
    print(f"{options.count} documents, {len(rows)} questions, {time.perf_counter() - started:.0f} s")
    print(f"\n{lines}\n\n{by_size(rows)}\n\n{by_kind(rows)}")
    wrong = [reading for reading in rows if reading.said != reading.wanted]
    for reading in wrong[:: max(1, len(wrong) // options.errors)] if options.errors else ():
        print(f"{reading.kind:13} {reading.x_height_px:4.1f} px {reading.question!r}: {reading.wanted!r} -> {reading.said!r}")
    return int(options.model is None and not options.plain and not met)


if __name__ == "__main__":
    sys.exit(exit_code(main))
