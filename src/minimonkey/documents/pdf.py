"""Pages of PDF files as pictures, drawn by PDFium (extra `pdf`), bounded in size and in time.

Knows bytes and numbers of pages; no paths, and not what a page is for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image

from minimonkey.errors import MissingExtraError, PictureError
from minimonkey.memory import explain_out_of_memory

DPI = 200
"""Default resolution: an A4 page has 1654 x 2339 px, a letter of 8 points is 22 px high."""
MAX_PAGE_PIXELS = 50_000_000
"""Most pixels of a drawn page, 200 MB while PDFium draws: a larger sheet is drawn at fewer dots per inch."""
MAX_SIDE_PX = 50_000
"""Longest side of a drawn page."""
MAX_PAGE_SECONDS = 60.0
"""Longest that drawing a page may take."""
POINTS_AN_INCH = 72
_LOCK = threading.Lock()
"""PDFium isn't thread-safe: all that calls it, closing included, is done by one thread at a time."""


class DrawnPage(NamedTuple):
    """A page as a picture."""

    picture: Image.Image
    """In mode RGB, on white."""
    dpi: float
    """The resolution that it was drawn at."""


def is_pdf(data: bytes) -> bool:
    """Whether the bytes of a file are a PDF's, which may have a little else before its mark."""
    return b"%PDF-" in data[:1024]


class PdfFile:
    """An open PDF; made by `open_pdf`, for one thread."""

    def __init__(self, document: Any, name: str) -> None:
        self._document, self._name = document, name

    def __len__(self) -> int:
        """The number of pages."""
        return len(self._document)

    def draw(self, number: int, *, dpi: float = DPI, max_pixels: int = MAX_PAGE_PIXELS) -> DrawnPage:
        """Draw a page as it would be printed: annotations and filled form fields are part of it.

        Args:
            number: from 1.
            dpi: dots per inch, unless the page would have too many pixels.
            max_pixels: the most that width x height may be; never above MAX_PAGE_PIXELS.

        Returns:
            The page as a picture, and the resolution.

        Raises:
            PictureError: the page is broken, has no size, or takes too long.
            ShortOfMemoryError: there is no memory for the picture.
        """
        from pypdfium2 import PdfiumError

        what = f"page {number} of {self._name}"
        try:
            page = self._document[number - 1]
        except PdfiumError as error:
            raise PictureError(f"{what} is damaged: expected a page that can be drawn; name others (pages)") from error
        try:
            scale, size = _fitted(page.get_size(), what, dpi, min(max_pixels, MAX_PAGE_PIXELS))
            with explain_out_of_memory(f"drawing {what}", "give a lower dpi"):
                picture = _draw(page, size, what)
        finally:
            page.close()
        return DrawnPage(picture, scale * POINTS_AN_INCH)


@contextmanager
def open_pdf(data: bytes, name: str) -> Iterator[PdfFile]:
    """Open the bytes of a PDF for a `with` block, during which other threads that want one wait.

    Args:
        data: the whole file.
        name: how messages call it.

    Raises:
        PictureError: it is encrypted, broken, or has no pages.
        MissingExtraError: pypdfium2 isn't installed.
    """
    try:
        import pypdfium2
    except ModuleNotFoundError as error:
        raise MissingExtraError("pypdfium2", "pdf", "reading a PDF") from error
    with _LOCK:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise PictureError(f"{name} {_refusal(error)}") from error
        try:
            document.init_forms()
            yield PdfFile(document, name)
        finally:
            document.close()


def _refusal(error: Any) -> str:
    """Why PDFium didn't open a file, for the user."""
    import pypdfium2.raw as pdfium

    if error.err_code == pdfium.FPDF_ERR_PASSWORD:
        return "is encrypted, and passwords aren't asked for: save it without one (qpdf --decrypt) first"
    if error.err_code == pdfium.FPDF_ERR_SECURITY:
        return "is encrypted in a way that can't be read: save it without encryption first"
    if error.err_code == pdfium.FPDF_ERR_SUCCESS:
        return "is a PDF without pages: expected at least one"
    return "is a damaged PDF, or one that is cut short: expected a complete file"


def _fitted(points: tuple[float, float], what: str, dpi: float, max_pixels: int) -> tuple[float, tuple[int, int]]:
    """Pixels a point and the (width, height) in pixels of a page of this (width, height) in points."""
    width, height = points
    if not (math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0):
        raise PictureError(f"{what} measures {width:g} x {height:g} points: expected a page with an area")
    scale = min(dpi / POINTS_AN_INCH, math.sqrt(max_pixels / (width * height)), MAX_SIDE_PX / max(width, height))
    return scale, (max(1, round(width * scale)), max(1, round(height * scale)))


def _draw(page: Any, size: tuple[int, int], what: str) -> Image.Image:
    """PDFium stops between two strokes, now and then, to ask whether it shall go on."""
    import pypdfium2.internal as internal
    import pypdfium2.raw as pdfium
    from pypdfium2 import PdfBitmap

    until = time.monotonic() + MAX_PAGE_SECONDS
    pause = pdfium.IFSDK_PAUSE(version=1)
    internal.set_callback(pause, "NeedToPauseNow", lambda _: time.monotonic() > until)
    bitmap = PdfBitmap.new_native(*size, format=pdfium.FPDFBitmap_BGR, rev_byteorder=True)
    try:
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, *size)
        place = (bitmap, page, 0, 0, *size, 0, pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER)
        status = pdfium.FPDF_RenderPageBitmap_Start(*place, pause)
        pdfium.FPDF_RenderPage_Close(page)
        if status == pdfium.FPDF_RENDER_TOBECONTINUED:
            raise PictureError(f"{what} takes more than {MAX_PAGE_SECONDS:g} s to draw: give a lower dpi, or name other pages")
        if status != pdfium.FPDF_RENDER_DONE:
            raise PictureError(f"{what} can't be drawn: it is damaged")
        if page.formenv:
            pdfium.FPDF_FFLDraw(page.formenv, *place)
        return Image.frombytes("RGB", size, bytes(bitmap.buffer), "raw", "RGB", bitmap.stride)
    finally:
        bitmap.close()
