"""Many samples on one page, to look at: each above its text or its questions, with dots where its characters are said to be.

Above them all stands how many typefaces there were to draw with.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from PIL import Image, ImageDraw, ImageFont

from minimonkey.synthetic.document import Document
from minimonkey.synthetic.material.typefaces import Split
from minimonkey.synthetic.rendering.lines import Kind, Sample, make_sample

GAP = 8
ROW = 14
DOCUMENT = 440
"""Width that documents are shrunk to."""
HEAD = 24
"""Height of the band that says what the samples are made of."""
INK, BAND, PAPER = "#202060", "#c8ccdc", "#dddddd"
CAPTIONS = "Cantarell-Regular.otf"
"""The typeface of texts, questions and answers: the same on every machine, with all letters that samples may hold."""
FINE, LARGE = 11, 14
"""Its size below samples and in the band, in pixels."""
SHOWN = 5
"""Questions below a document."""


def contact_sheet(
    count: int, seed: int, kind: Kind, *, split: Split = "train", dots: bool = False, width: int = 1400, head: str = ""
) -> Image.Image:
    """Samples `seed`, ..., `seed + count - 1` of a kind, left to right and top to bottom, on an RGB page `width` pixels wide."""
    font = _font(FINE)
    samples = [make_sample(seed + index, kind, split=split) for index in range(count)]
    places: list[tuple[int, int]] = []
    x, y, deepest = GAP, _top(head), 0
    for sample in samples:
        across, down = max(sample.picture.width, 200), sample.picture.height + ROW * len(sample.lines) + GAP
        if x > GAP and x + across > width:
            x, y, deepest = GAP, y + deepest + GAP, 0
        places.append((x, y))
        x, deepest = x + across + GAP, max(deepest, down)
    page, pen = _page(width, y + deepest + GAP, head)
    for sample, (left, top) in zip(samples, places, strict=True):
        page.paste(with_dots(sample) if dots else sample.picture, (left, top))
        pen.multiline_text((left, top + sample.picture.height + 1), sample.text, fill=INK, font=font, spacing=2)
    return page


def document_sheet(documents: Iterable[Document], *, dots: bool = False, columns: int = 4, head: str = "") -> Image.Image:
    """Documents of one width in columns on an RGB page, each above some of its questions and answers."""
    font = _font(FINE)
    shown: list[tuple[Image.Image, str]] = []
    for document in documents:
        picture = with_dots(document) if dots else document.picture
        height = max(1, round(picture.height * DOCUMENT / picture.width))
        lines = [f"{question.text}  ->  {question.answer}".replace("\n", " | ") for question in document.questions[:SHOWN]]
        text = "\n".join(line if len(line) < 75 else line[:72] + "..." for line in lines)
        shown.append((picture.resize((DOCUMENT, height), Image.Resampling.LANCZOS), text))
    bottoms = [_top(head)] * columns
    places: list[tuple[int, int]] = []
    for picture, _ in shown:
        column = bottoms.index(min(bottoms))
        places.append((GAP + column * (DOCUMENT + GAP), bottoms[column]))
        bottoms[column] += picture.height + ROW * SHOWN + 2 * GAP
    page, pen = _page(GAP + columns * (DOCUMENT + GAP), max(bottoms), head)
    for (picture, text), (left, top) in zip(shown, places, strict=True):
        page.paste(picture, (left, top))
        pen.multiline_text((left, top + picture.height + 1), text, fill=INK, font=font, spacing=2)
    return page


def _font(px: int) -> ImageFont.FreeTypeFont:
    """The typeface of captions."""
    return ImageFont.truetype(
        str(files("minimonkey.synthetic.material").joinpath("fonts", CAPTIONS)), px, layout_engine=ImageFont.Layout.BASIC
    )


def _top(head: str) -> int:
    """Where samples begin, below the line that says what they are made of, if there is one."""
    return GAP + (HEAD if head else 0)


def _page(width: int, height: int, head: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty page with its head line."""
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    if head:
        pen.rectangle((0, 0, width - 1, HEAD - 1), fill=BAND)
        pen.text((GAP, HEAD // 2), head, fill=INK, font=_font(LARGE), anchor="lm")
    return page, pen


def with_dots(sample: Sample | Document) -> Image.Image:
    """The picture with a red dot at each character's centre (blue for spaces) and a green box about each line."""
    picture = sample.picture.copy()
    pen = ImageDraw.Draw(picture)
    for line in sample.lines:
        pen.rectangle(line.box, outline="#00a000")
        for character, (x, y) in zip(line.text, line.centers, strict=True):
            pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill="#3060ff" if character == " " else "#ff0000")
    return picture
