"""Which pages of a document, and those as pictures. PDF and TIFF files have pages; any other picture is one page.

"1-3,7" --> page_numbers --> [1, 2, 3, 7] --> load_pages --> four upright RGB pictures
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from PIL import Image

from minimonkey.documents.pdf import DPI, is_pdf, open_pdf
from minimonkey.documents.pictures import (
    BROKEN,
    MAX_BYTES,
    MAX_PIXELS,
    PictureSource,
    check_pixels,
    decoded,
    file_bytes,
    open_picture_file,
    source_name,
)
from minimonkey.documents.pillow import strict_pillow
from minimonkey.errors import PictureError, UsageError, shown

MAX_PAGES = 40
"""Most pages that are read at once; a file may have any number."""
MAX_PAGES_PIXELS = 400_000_000
"""Default limit on the pixels of all pages together: 1.2 GB as RGB, a hundred A4 pages at 200 dpi."""

_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?")


def load_pages(
    source: PictureSource,
    pages: str | int | None = None,
    *,
    dpi: float = DPI,
    max_pages: int = MAX_PAGES,
    max_pixels: int = MAX_PIXELS,
    max_total_pixels: int = MAX_PAGES_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> list[Image.Image]:
    """Pages of a PDF or TIFF file as pictures, in the order that they are named; any other picture is the one page of its own.

    Args:
        source: what `load_picture` takes.
        pages: numbers from 1, as in "1-3,7" or "4-" (to the end). None: all.
        dpi: dots per inch of pages of a PDF, fewer for sheets of more than MAX_PAGE_PIXELS.
        max_pages: the most pages that are read.
        max_pixels: the most that width x height of a page may be.
        max_total_pixels: the most pixels of all pages that are read together.
        max_bytes: the most that a file may have.

    Returns:
        The pages, upright RGB as from `load_picture`, with its notes.

    Raises:
        PictureError: the file can't be read whole, is over a limit, or hasn't got those pages.
        UsageError: `pages` or `dpi` are none.
        MissingExtraError: it is a PDF, and pypdfium2 isn't installed.
    """
    _check(dpi)
    name, total = source_name(source), 0
    given = source if isinstance(source, Image.Image | np.ndarray) else file_bytes(source, name, max_bytes)
    numbers = page_numbers(pages, _count(given, name), name)
    if len(numbers) > max_pages:
        raise PictureError(f"{name}: {len(numbers)} pages, and at most {max_pages} are read at once; name fewer, as in pages='1-3'")

    def admit(size: tuple[int, int], what: str) -> None:
        nonlocal total
        check_pixels(size, what, max_pixels)
        total += size[0] * size[1]
        if total > max_total_pixels:
            raise PictureError(
                f"{name}: its pages have more than {max_total_pixels / 1e6:g} million px together "
                f"(max_total_pixels={max_total_pixels}); name fewer pages, or give a lower dpi"
            )

    if not _has_pages(given):
        return [decoded(given, name, admit)]
    return [decoded(given, name, admit, page=number, dpi=dpi) for number in numbers]


def page_count(source: PictureSource, *, max_bytes: int = MAX_BYTES) -> int:
    """How many pages a file has: 1 for whatever is neither a PDF nor a TIFF. Raises PictureError if it can't be opened."""
    if isinstance(source, Image.Image | np.ndarray):
        return 1
    name = source_name(source)
    return _count(file_bytes(source, name, max_bytes), name)


def page_numbers(pages: str | int | None, count: int, name: str, *, strict: bool = True) -> list[int]:
    """The pages that are meant, each once.

    Args:
        pages: "1-3,7", "4-", a number, or None for all.
        count: how many there are.
        name: the document's, for messages.
        strict: whether a page that isn't there is an error. Else those that are there come back, maybe none.

    Raises:
        UsageError: `pages` aren't numbers and ranges of such.
        PictureError: a page isn't there.
    """
    numbers: dict[int, None] = {}
    for first, last in _ranges(pages):
        last = count if last is None else last
        if strict and max(first, last) > count:
            there = f"{count} page{'s' * (count != 1)}"
            raise PictureError(f"{name} has {there}: there is no page {max(first, last)} (pages={pages!r})")
        numbers |= dict.fromkeys(range(first, min(last, count) + 1))
    return list(numbers)


def check_pages(pages: str | int | None) -> None:
    """Raises UsageError for what can't be page numbers, whatever the document."""
    _ranges(pages)


def _ranges(pages: Any) -> list[tuple[int, int | None]]:
    """Pairs (first, last), both from 1; last None is the end."""
    if pages is None:
        return [(1, None)]
    if type(pages) is int:
        pages = str(pages)
    matches = [_RANGE.fullmatch(part) for part in pages.split(",")] if isinstance(pages, str) else [None]
    ranges = []
    for match in matches:
        if match is None or int(match[1]) < 1 or (match[3] and int(match[3]) < int(match[1])):
            raise UsageError(f"pages={shown(pages)}: expected numbers from 1 and ranges of them, such as '1-3,7' or '4-'")
        first = int(match[1])
        ranges.append((first, int(match[3]) if match[3] else None if match[2] else first))
    return ranges


def _check(dpi: Any) -> None:
    if not (isinstance(dpi, int | float) and not isinstance(dpi, bool) and 1 <= dpi <= 2400):
        raise UsageError(f"dpi={shown(dpi)}: expected dots per inch, from 1 to 2400")


def _has_pages(given: Any) -> bool:
    return isinstance(given, bytes) and (is_pdf(given) or given[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _count(given: Any, name: str) -> int:
    if not _has_pages(given):
        return 1
    if is_pdf(given):
        with open_pdf(given, name) as document:
            return len(document)
    try:
        with strict_pillow(), open_picture_file(io.BytesIO(given), name) as picture:
            return getattr(picture, "n_frames", 1)
    except PictureError:
        raise
    except BROKEN as error:
        raise PictureError(f"{name} is damaged or cut short ({' '.join(str(error).split())}); expected a complete file") from error
