"""How real.zip and pages.zip were made: lines, regions and whole pages of print that isn't ours, from PDF files of Debian packages.

    python benchmarks/held_out/make_real.py FOLDER [--only DOCUMENT] [--sheets]

Downloads the packages into FOLDER (apt-get, Debian 12), unpacks them there without installing anything, draws pages with pdftoppm
and takes what stands there from pdftotext. Writes FOLDER/real.zip, lines and regions, and FOLDER/pages.zip, one page of each
document with lines that are asked for by how they begin; `--sheets` draws every crop with its truth beneath, to be looked at.
Doesn't know who reads them. The sets are for measuring: nothing of them may ever be trained on.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import statistics
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minimonkey.synthetic.material.words import ALPHABET

SEED = 40_000_000
LINES, REGIONS = 20, 6
"""Of each document."""
DPI = (75, 100, 150, 200)
MEASURED_DPI = 288
PAGES = 12
"""No more pages of a document are looked at."""
PAGE_DPI, PAGE_LINES = 100, 6
"""Of a whole page: its resolution, and how many of its lines are asked for."""
LINE_CHARACTERS, REGION_CHARACTERS = 120, 330
INK = 40
"""How far from the paper's grey a pixel counts as ink."""
LOW = re.compile(r"[acemnorsuvwxz]{2,}")
"""Words as high as an x."""
DIGITS = re.compile(r"\d+")
SPACED = re.compile(r" [;,.]|[\[(] ")
"""Letters that are only set wide."""
LEADERS = re.compile(r"\. ?\. ?\.")
WRONG = {"4 Sep 5 15:43 2010 debian - binary", "README . Debian\nREADME . source", "License :\n[ LICENSE TEXT ]"}
"""Truths with spaces between letters that are only set wide: found by looking at the sheets."""
UNDONE = str.maketrans({"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl", "\u00ad": "-", "\u2010": "-", "\u00a0": " "})
"""What pdftotext writes in one way and print shows as another."""


class Source(NamedTuple):
    """A document, where it comes from, whose it is and what made it."""

    document: str
    package: str
    version: str
    file: str
    language: str
    licence: str
    holder: str
    made_with: str


SOURCES = tuple(Source(**json.loads(row)) for row in Path(__file__).with_name("real_sources.jsonl").read_text().splitlines())


class Box(NamedTuple):
    """Edges in points, or in pixels once it is multiplied."""

    left: float
    top: float
    right: float
    bottom: float

    def times(self, scale: float) -> Box:
        return Box(*(edge * scale for edge in self))


class Word(NamedTuple):
    """A word of a page, in points."""

    text: str
    box: Box

    @property
    def cell_pt(self) -> float:
        """The height of its typeface's cell: words of one typeface and size share it."""
        return round(self.box.bottom - self.box.top, 1)


class Line(NamedTuple):
    """Words side by side, on a page and in a block of it."""

    words: tuple[Word, ...]
    page: int
    block: int

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def cell_pt(self) -> float:
        """That of most of its characters."""
        return Counter(word.cell_pt for word in self.words for _ in word.text).most_common(1)[0][0]

    def gaps(self) -> list[tuple[float, float]]:
        """Where each of its spaces begins and ends."""
        return [(one.box.right, other.box.left) for one, other in zip(self.words, self.words[1:], strict=False)]

    def is_text(self) -> bool:
        """Whether the alphabet has its characters, most are letters or digits, and words stand level and apart.

        Where they don't (a note's raised number, spaced letters), the truth has spaces that print hasn't.
        """
        text = self.text
        solid = text.replace(" ", "")
        known = 3 <= len(text) <= LINE_CHARACTERS and set(text) <= set(ALPHABET) and not LEADERS.search(text)
        level = all(word.cell_pt > 0.8 * self.cell_pt for word in self.words)
        apart = all(right - left > 0.15 * self.cell_pt for left, right in self.gaps())
        return known and level and apart and any(map(str.isalpha, solid)) and sum(map(str.isalnum, solid)) >= 0.6 * len(solid)


class Crop(NamedTuple):
    """A picture of one line or of several."""

    picture: Image.Image
    lines: tuple[Line, ...]
    dpi: int
    x_height_px: float

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


def around(lines: Sequence[Line]) -> Box:
    lefts, tops, rights, bottoms = zip(*(word.box for line in lines for word in line.words), strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


def unpacked(source: Source, folder: Path) -> Path:
    """The document as a file below `folder`; what is there already isn't fetched again."""
    place = folder / source.package
    path = place / source.file.removesuffix(".gz")
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and not packed.exists():
        subprocess.run(["apt-get", "download", "-qq", f"{source.package}={source.version}"], cwd=folder, check=True)
        archive = next(folder.glob(f"{source.package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive, place], check=True)
    if not path.exists():
        subprocess.run(["gunzip", "--keep", packed], check=True)
    return path


def word_of(word: ElementTree.Element) -> Word:
    edges = (float(word.attrib[edge]) for edge in ("xMin", "yMin", "xMax", "yMax"))
    return Word((word.text or "").translate(UNDONE), Box(*edges))


def lines_of(pdf: Path) -> list[Line]:
    """All lines of a document, in pdftotext's order."""
    said = subprocess.run(["pdftotext", "-bbox-layout", pdf, "-"], capture_output=True, check=True).stdout.decode()
    tree = ElementTree.fromstring(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", said))
    found, blocks = [], 0
    for number, page in enumerate(tree.iterfind(".//{*}page"), start=1):
        for block in page.iterfind(".//{*}block"):
            blocks += 1
            for line in block.iterfind("{*}line"):
                words = tuple(word_of(word) for word in line.iterfind("{*}word"))
                found.append(Line(words, number, blocks))
    return found


def drawn(pdf: Path, page: int, dpi: int) -> np.ndarray:
    """A page in grey, uint8 [height, width]."""
    words = ["pdftoppm", "-r", str(dpi), "-gray", "-f", str(page), "-l", str(page), str(pdf)]
    with Image.open(io.BytesIO(subprocess.run(words, capture_output=True, check=True).stdout)) as picture:
        return np.asarray(picture)


def ink_of(page: np.ndarray, box: Box) -> np.ndarray:
    """Where the page differs from the commonest grey inside the box (pixels): bool [height, width]."""
    inside = page[max(0, int(box.top)) : int(box.bottom) + 1, max(0, int(box.left)) : int(box.right) + 1]
    return np.abs(page.astype(int) - np.bincount(inside.ravel(), minlength=256).argmax()) > INK


def x_heights(lines: Sequence[Line], page: Callable[[int, int], np.ndarray]) -> dict[float, float]:
    """For each height of a cell, the height in points of words such as "can": the median."""
    heights: dict[float, list[float]] = {}
    for line in lines:
        for word in line.words:
            if LOW.fullmatch(word.text):
                box = word.box.times(MEASURED_DPI / 72)
                ink = ink_of(page(line.page, MEASURED_DPI), box)
                rows = ink[int(box.top) : int(box.bottom) + 1, int(box.left) + 1 : int(box.right)].any(1)
                heights.setdefault(word.cell_pt, []).append(72 / MEASURED_DPI * int(rows.sum()))
    return {cell: statistics.median(found) for cell, found in heights.items()}


def blank(profile: np.ndarray, near: float, low: float, high: float) -> int | None:
    """The place without ink that is nearest to `near`, from `low` to `high`."""
    places = [at for at in range(max(0, int(low)), min(len(profile), int(high) + 1)) if not profile[at]]
    return min(places, key=lambda at: abs(at - near), default=None)


def widened(profile: np.ndarray, first: int, last: int, margin: int) -> tuple[int, int]:
    """`first` and `last` moved out over blank places, until they are `margin` from the ink between them."""
    inside = np.flatnonzero(profile[first : last + 1]) + first
    while first > max(0, inside[0] - margin) and not profile[first - 1]:
        first -= 1
    while last < min(len(profile) - 1, inside[-1] + margin) and not profile[last + 1]:
        last += 1
    return max(first, inside[0] - margin), min(last, inside[-1] + margin)


def frame(page: np.ndarray, box: Box, cell: float, margin: int) -> tuple[int, int, int, int] | None:
    """Where to cut (left, top, right, bottom, for Image.crop): between the ink in `box` (pixels) and all other.

    `cell` is the height of a line. Cuts run where there is no ink, `margin` from that inside, or less where other print is near;
    None if there is no such place.
    """
    ink = ink_of(page, box)
    rows = ink[:, max(0, int(box.left)) : int(box.right) + 1].any(1)
    top = blank(rows, box.top, box.top - 0.2 * cell, box.top + 0.2 * cell)
    bottom = blank(rows, box.bottom, box.bottom - 0.2 * cell, box.bottom + 0.2 * cell)
    if top is None or bottom is None or not rows[top : bottom + 1].any():
        return None
    columns = ink[top : bottom + 1].any(0)
    left = blank(columns, box.left, box.left - 0.4 * cell, box.left)
    right = blank(columns, box.right, box.right, box.right + 0.4 * cell)
    if left is None or right is None:
        return None
    left, right = widened(columns, left, right, margin)
    top, bottom = widened(ink[:, left : right + 1].any(1), top, bottom, margin)
    edges = ink[top : bottom + 1, left : right + 1]
    if edges[0].any() or edges[-1].any() or edges[:, :2].any() or edges[:, -2:].any():
        return None
    return left, top, right + 1, bottom + 1


class Cutter:
    """Cuts the lines of one document."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.pdf = unpacked(source, folder)
        self.rng = random.Random(f"{SEED} {source.document}")
        lines = lines_of(self.pdf)
        pages = sorted({line.page for line in lines})
        self.pages = set(self.rng.sample(pages, min(PAGES, len(pages))))
        self.lines = [line for line in lines if line.page in self.pages]
        self._drawn: dict[tuple[int, int], np.ndarray] = {}
        self.x_heights_pt = x_heights(self.lines, self.page)
        self.taken: set[str] = set()

    def page(self, number: int, dpi: int) -> np.ndarray:
        if (number, dpi) not in self._drawn:
            self._drawn[number, dpi] = drawn(self.pdf, number, dpi)
        return self._drawn[number, dpi]

    def cut(self, lines: tuple[Line, ...], dpi: int) -> Crop | None:
        """A crop of the lines, or None: not text, seen before (but for its numbers), of unknown height, other print too near."""
        known = all(line.is_text() and line.cell_pt in self.x_heights_pt for line in lines)
        likenesses = {DIGITS.sub("0", line.text) for line in lines}
        if not known or self.taken & likenesses:
            return None
        x_height_px = min(self.x_heights_pt[line.cell_pt] for line in lines) * dpi / 72
        box, page = around(lines).times(dpi / 72), self.page(lines[0].page, dpi)
        margin = max(2, round(self.rng.uniform(0.5, 1.3) * x_height_px))
        cut = frame(page, box, max(line.cell_pt for line in lines) * dpi / 72, margin)
        if cut is None or self._ruled(lines, page, dpi) or any(self._inside(word, cut, dpi) for word in self._others(lines)):
            return None
        self.taken |= likenesses
        return Crop(Image.fromarray(page).crop(cut), lines, dpi, round(x_height_px, 1))

    @staticmethod
    def _ruled(lines: Sequence[Line], page: np.ndarray, dpi: int) -> bool:
        """Whether something is drawn where pdftotext says space: TeX's older typefaces have a rule for "_"."""
        for line in lines:
            box = around([line]).times(dpi / 72)
            ink = ink_of(page, box)[int((box.top + box.bottom) / 2) : int(box.bottom) + 1]
            for left, right in line.gaps():
                middle, third = (left + right) * dpi / 144, (right - left) * dpi / 432
                if ink[:, round(middle - third / 2) : round(middle + third / 2) + 1].any():
                    return True
        return False

    def _others(self, lines: Sequence[Line]) -> Iterator[Word]:
        return (word for line in self.lines if line.page == lines[0].page and line not in lines for word in line.words)

    @staticmethod
    def _inside(word: Word, cut: tuple[int, int, int, int], dpi: int) -> bool:
        box = word.box.times(dpi / 72)
        return box.left < cut[2] and box.right > cut[0] and cut[1] < (box.top + box.bottom) / 2 < cut[3]

    def regions(self) -> list[tuple[Line, ...]]:
        """Two to six lines of a block, one below the other."""
        found = []
        for first, line in enumerate(self.lines):
            count = self.rng.randint(2, 6)
            lines = tuple(self.lines[first : first + count])
            stacked = all(
                one.words[0].box.bottom < other.words[0].box.bottom - 2 for one, other in zip(lines, lines[1:], strict=False)
            )
            together = len(lines) == count and {other.block for other in lines} == {line.block}
            if together and stacked and sum(len(other.text) for other in lines) <= REGION_CHARACTERS:
                found.append(lines)
        return found

    def page_questions(self) -> list[tuple[str, Line]]:
        """Lines of one page, one with many to ask for, and the two words that each alone begins with."""
        rng = random.Random(f"{SEED} page {self.pdf.name}")
        most: list[tuple[str, Line]] = []
        for number in sorted(self.pages):
            lines = [line for line in self.lines if line.page == number]
            begins = Counter(_beginning(line).casefold() for line in lines)
            fit = [line for line in lines if len(line.words) > 3 and line.is_text() and line.cell_pt in self.x_heights_pt]
            fit = [line for line in fit if not SPACED.search(line.text)]
            fit = [line for line in fit if begins[_beginning(line).casefold()] == 1 and not _beside(line, lines)]
            if len(fit) > len(most):
                page = self.page(number, PAGE_DPI)
                most = [(_beginning(line), line) for line in fit if not self._ruled([line], page, PAGE_DPI)]
        return sorted(rng.sample(most, min(PAGE_LINES, len(most))), key=lambda pair: pair[1].words[0].box.top)

    def crops(self, choices: list[tuple[Line, ...]], count: int, first_dpi: int) -> Iterator[Crop]:
        """The first `count` of the shuffled choices that can be cut, at every resolution in turn."""
        self.rng.shuffle(choices)
        done = 0
        for lines in choices:
            if done == count:
                return
            crop = self.cut(lines, DPI[(first_dpi + done) % len(DPI)])
            if crop is not None:
                done += 1
                yield crop


def _beginning(line: Line) -> str:
    return " ".join(word.text for word in line.words[:2])


def _beside(line: Line, lines: Sequence[Line]) -> bool:
    """Whether others share a third of a line's height or more: parts of a table's row, or of two columns."""
    box, others = around([line]), [around([other]) for other in lines if other is not line]
    return any(min(box.bottom, other.bottom) - max(box.top, other.top) > (box.bottom - box.top) / 3 for other in others)


def page_of(source: Source, number: int, cutter: Cutter) -> tuple[Image.Image, list[dict]]:
    """A document's page, and what pages.jsonl says of the lines that are asked for."""
    questions = cutter.page_questions()
    rows = [
        {
            "image": f"{number:03}.png",
            "kind": "page",
            "question": f'Read the line that begins with "{begin}".',
            "text": line.text,
            "x_height_px": round(cutter.x_heights_pt[line.cell_pt] * PAGE_DPI / 72, 1),
            "dpi": PAGE_DPI,
            "page": line.page,
            "document": source.document,
            "language": source.language,
        }
        for begin, line in questions
    ]
    return Image.fromarray(cutter.page(questions[0][1].page, PAGE_DPI)), rows


def rows_of(source: Source, turn: int, cutter: Cutter) -> list[tuple[Crop, dict]]:
    """A document's crops, regions first, and what real.jsonl says of them."""
    crops = [*cutter.crops(cutter.regions(), REGIONS, 2 * turn), *cutter.crops([(line,) for line in cutter.lines], LINES, 0)]
    return [
        (
            crop,
            {
                "kind": "line" if len(crop.lines) == 1 else "region",
                "text": crop.text,
                "x_height_px": crop.x_height_px,
                "dpi": crop.dpi,
                "page": crop.lines[0].page,
                "document": source.document,
                "language": source.language,
            },
        )
        for crop in crops
        if crop.text not in WRONG
    ]


def png(picture: Image.Image) -> bytes:
    picture.save(stored := io.BytesIO(), "PNG", optimize=True)
    return stored.getvalue()


def write(path: Path, rows: Sequence[dict], pictures: Sequence[Image.Image]) -> None:
    """The archive, `image` of a row being the number of its picture: the same bytes for the same rows."""
    with zipfile.ZipFile(path, "w") as archive:

        def add(name: str, content: bytes | str) -> None:
            archive.writestr(zipfile.ZipInfo(name, (2026, 11, 20, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)

        add(f"{path.stem}.jsonl", "".join(json.dumps({"id": i} | row, ensure_ascii=False) + "\n" for i, row in enumerate(rows)))
        add("sources.jsonl", "".join(json.dumps(source._asdict(), ensure_ascii=False) + "\n" for source in SOURCES))
        for number, picture in enumerate(pictures):
            add(f"{number:03}.png", png(picture))


def sheet(rows: Sequence[tuple[Crop, dict]]) -> Image.Image:
    """Crops as they are, each with its truth beneath."""
    font = ImageFont.truetype("DejaVuSans.ttf", 13)
    height = sum(crop.picture.height + 18 * len(crop.lines) + 14 for crop, _ in rows)
    page = Image.new("RGB", (1500, height), "#dde6ee")
    draw, top = ImageDraw.Draw(page), 4
    for crop, row in rows:
        page.paste(crop.picture, (4, top))
        top += crop.picture.height
        for text in row["text"].split("\n"):
            draw.text((4, top), text, "#a00000", font)
            top += 18
        draw.text((1390, top - 18), f"{row['document'][:6]} {row['dpi']} {row['x_height_px']}", "#004080", font)
        top += 10
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=[source.document for source in SOURCES])
    parser.add_argument("--sheets", action="store_true", help="also write FOLDER/sheet-DOCUMENT.png")
    given = parser.parse_args()
    rows, pages = [], []
    for turn, source in enumerate(SOURCES):
        if given.only in (None, source.document):
            cutter = Cutter(source, given.folder)
            found = rows_of(source, turn, cutter)
            picture, asked = page_of(source, len(pages), cutter)
            print(f"{source.document}: {len(found)} crops, {len(asked)} lines of a page")
            rows += found
            pages.append((picture, asked))
            if given.sheets:
                sheet(found).save(given.folder / f"sheet-{source.document}.png")
    rows.sort(key=lambda row: row[1]["kind"])
    named = [{"image": f"{number:03}.png"} | row for number, (_, row) in enumerate(rows)]
    write(given.folder / "real.zip", named, [crop.picture for crop, _ in rows])
    write(given.folder / "pages.zip", [row for _, asked in pages for row in asked], [picture for picture, _ in pages])
    for name in ("real.zip", "pages.zip"):
        print(f"{name}: {(given.folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
