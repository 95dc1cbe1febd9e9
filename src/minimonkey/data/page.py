"""A conversation as the model learns it, for people: its pictures with their cuts, its text with what is learnt in colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import NOT_LEARNT, ONE_TILE, encode, loaded
from minimonkey.pyramid import PyramidSpec, Size
from minimonkey.visualize import draw_pyramid

WIDTH_PX, MARGIN_PX, FONT_PX, LINE_PX = 1000, 24, 17, 26
MOST_PICTURE_PX = 700
"""The tallest that a picture is drawn."""
INK, MUTED, LEARNT, PICTURE = (32, 33, 36), (110, 112, 118), (196, 232, 204), (214, 224, 245)
GROUNDS = (LEARNT, PICTURE)


class Piece(NamedTuple):
    """A token's text, or that of a run of image tokens."""

    text: str
    learnt: bool
    is_picture: bool = False


def pieces(example: Mapping[str, Any], processor: Any) -> list[Piece]:
    """The text of an example token by token; a run of image tokens is one piece, bytes of one character too."""
    found: list[Piece] = []
    waiting: list[int] = []
    run = 0
    ids, labels = example["input_ids"].tolist(), example["labels"].tolist()
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        learnt = label != NOT_LEARNT
        if token == processor.image_token_id:
            run += 1
            if place + 1 == len(ids) or ids[place + 1] != token:
                found.append(Piece(f"{processor.image_token} x {run}", learnt, is_picture=True))
                run = 0
            continue
        waiting.append(token)
        text = processor.tokenizer.decode(waiting)
        ends = place + 1 == len(ids) or (labels[place + 1] != NOT_LEARNT) != learnt or ids[place + 1] == processor.image_token_id
        if ends or not text.endswith("\ufffd"):
            found.append(Piece(text, learnt))
            waiting = []
    return found


def draw_page(row: Conversation, processor: Any, pyramid: PyramidSpec | Mapping[str, Any] | None = None) -> Image.Image:
    """The page of a conversation.

    Args:
        row: the conversation.
        processor: the model's.
        pyramid: how pictures are cut; None: as the processor does.

    Returns:
        An RGB picture: each picture with the cuts of its pyramid, then the text. What is learnt has a green ground, runs of image
        tokens a blue one. Characters that the typeface lacks are boxes.

    Raises:
        DataError: the row can't be encoded.
    """
    example = encode(row, processor, pyramid=pyramid)
    _, pictures = loaded(row)
    cut = ONE_TILE if any(medium.kind == "video" for medium in row.media) else pyramid
    spec = processor.image_processor.spec_for({"pyramid": cut})
    drawn = [draw_pyramid(picture, spec.plan(Size(picture.height, picture.width))) for picture in pictures]
    return _stacked([_title(row, example), *(_fitted(each) for each in drawn), _text(pieces(example, processor))])


def _title(row: Conversation, example: Mapping[str, Any]) -> Image.Image:
    learnt = int((example["labels"] != NOT_LEARNT).sum())
    tiles = len(example.get("pixel_values", ()))
    title = f"{row.id or row.where}:  {len(example['input_ids'])} tokens, {learnt} of them learnt (green), {tiles} tiles"
    picture = Image.new("RGB", (WIDTH_PX, 2 * LINE_PX), "white")
    ImageDraw.Draw(picture).text((MARGIN_PX, LINE_PX), title, MUTED, ImageFont.load_default(FONT_PX), "lm")
    return picture


def _fitted(picture: Image.Image) -> Image.Image:
    scale = min((WIDTH_PX - 2 * MARGIN_PX) / picture.width, MOST_PICTURE_PX / picture.height, 1)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)


def _text(text: list[Piece]) -> Image.Image:
    """The pieces set in lines, each on its ground."""
    font = ImageFont.load_default(FONT_PX)
    right = WIDTH_PX - MARGIN_PX
    placed: list[tuple[float, int, Piece]] = []
    x, line = float(MARGIN_PX), 0
    for piece in (part for whole in text for part in _lines(whole)):
        width = font.getlength(piece.text)
        if x + width > right and x > MARGIN_PX:
            x, line = float(MARGIN_PX), line + 1
        placed.append((x, line, piece))
        x += width
        if piece.text.endswith("\u00b6"):
            x, line = float(MARGIN_PX), line + 1
    picture = Image.new("RGB", (WIDTH_PX, (line + 2) * LINE_PX), "white")
    pen = ImageDraw.Draw(picture)
    for x, line, piece in placed:
        top = line * LINE_PX
        if piece.learnt or piece.is_picture:
            ground = LEARNT if piece.learnt else PICTURE
            pen.rectangle((x, top + 3, x + font.getlength(piece.text) - 1, top + LINE_PX - 3), ground)
    for x, line, piece in placed:
        pen.text((x, line * LINE_PX + LINE_PX // 2), piece.text, INK, font, "lm")
    return picture


def _lines(piece: Piece) -> Iterator[Piece]:
    """A piece cut behind each newline, which is shown as a pilcrow, and into parts that fit on a line."""
    text = piece.text.replace("\n", "\u00b6\n").replace("\t", "\u00bb   ")
    for line in text.split("\n"):
        for start in range(0, len(line), 60):
            yield piece._replace(text=line[start : start + 60])


def _stacked(parts: list[Image.Image]) -> Image.Image:
    height = sum(part.height + MARGIN_PX for part in parts)
    page = Image.new("RGB", (WIDTH_PX, height), "white")
    top = 0
    for part in parts:
        page.paste(part, ((WIDTH_PX - part.width) // 2, top))
        top += part.height + MARGIN_PX
    return page
