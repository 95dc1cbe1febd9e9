"""Pages of PDF and TIFF files: which are meant, how they look, and what becomes of files that nobody should trust."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from minimonkey.documents import load_pages, load_picture, page_count, pages, pdf
from minimonkey.documents.pages import page_numbers
from minimonkey.errors import MissingExtraError, PictureError, UsageError

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
RC4_WITH_PASSWORD = (
    b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b"> >>"
)  # fits no password, the empty one neither


def pdf_of(*bodies: bytes, size=(72, 36), extra: bytes = b"", trailer: bytes = b"", page: bytes = b"") -> bytes:
    """A PDF written by hand: a page of `size` points for each content stream."""
    kids = b" ".join(b"%d 0 R" % (3 + 2 * index) for index in range(len(bodies)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R %s >>" % extra]
    objects.append(b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(bodies)))
    for index, body in enumerate(bodies):
        box = b"[0 0 %s %s]" % tuple(repr(side).encode() for side in size)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents %d 0 R /Resources << >> %s >>" % (box, 4 + 2 * index, page)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(body), body))
    out, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table
    start = out.index(b"xref\n0 ")
    return out + b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, trailer, start)


def filled(red: int, green: int, blue: int) -> bytes:
    """A content stream that fills the left half of a page."""
    return b"%d %d %d rg 0 0 36 36 re f" % (red, green, blue)


THREE = pdf_of(filled(1, 0, 0), filled(0, 0, 1), filled(0, 1, 0))


def tiff_of(*colours, **settings) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.new("RGB", (20 + 4 * index, 10), colour) for index, colour in enumerate(colours)]
    first.save(file, "TIFF", save_all=True, append_images=rest, **settings)
    return file.getvalue()


def line_of(call, *arguments, error=PictureError, **settings) -> str:
    with pytest.raises(error) as raised:
        call(*arguments, **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def colour_of(picture) -> tuple[int, int, int]:
    return picture.getpixel((picture.width // 4, picture.height // 2))


def test_pages_of_a_pdf_are_drawn_on_white():
    drawn = load_pages(THREE)
    assert [picture.size for picture in drawn] == [(200, 100)] * 3
    assert [colour_of(picture) for picture in drawn] == [RED, BLUE, GREEN]
    assert {picture.getpixel((150, 50)) for picture in drawn} == {(255, 255, 255)}
    assert [(picture.mode, picture.info) for picture in drawn] == [("RGB", {"notes": []})] * 3
    assert load_pages(THREE, 2, dpi=72)[0].size == (72, 36)


def test_pages_of_a_tiff():
    data = tiff_of(RED, BLUE, GREEN, compression="tiff_lzw")
    assert [(picture.width, colour_of(picture)) for picture in load_pages(data)] == [(20, RED), (24, BLUE), (28, GREEN)]
    assert [colour_of(picture) for picture in load_pages(data, "3,1")] == [GREEN, RED]
    assert load_pages(data)[1].info == {"notes": []}
    assert page_count(data) == page_count(THREE) == 3


def test_one_page_of_all_other_pictures(tmp_path):
    picture = Image.new("RGB", (9, 8), RED)
    picture.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", picture, np.asarray(picture)):
        assert [page.tobytes() for page in load_pages(source)] == [picture.tobytes()]
        assert (page_count(source), len(load_pages(source, 1))) == (1, 1)
    assert line_of(load_pages, tmp_path / "a.png", "2") == f"{tmp_path / 'a.png'} has 1 page: there is no page 2 (pages='2')"


def test_load_picture_takes_the_first_page_and_says_so(tmp_path):
    (tmp_path / "report.pdf").write_bytes(THREE)
    loaded = load_picture(tmp_path / "report.pdf")
    assert colour_of(loaded) == RED
    assert loaded.info["notes"] == [f"{tmp_path / 'report.pdf'}: a PDF of 3 pages, of which the first is used"]
    assert load_picture(pdf_of(filled(0, 0, 1))).info == {"notes": []}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, [1, 2, 3, 4, 5]), ("1-3", [1, 2, 3]), (2, [2]), ("4-", [4, 5]), (" 5 , 1 - 2,2", [5, 1, 2]), ("5-5", [5])],
)
def test_page_numbers(text, numbers):
    assert page_numbers(text, 5, "it") == numbers


def test_pages_that_are_not_there():
    assert line_of(page_numbers, "2-6", 5, "it") == "it has 5 pages: there is no page 6 (pages='2-6')"
    assert line_of(page_numbers, "7-", 5, "it") == "it has 5 pages: there is no page 7 (pages='7-')"
    assert page_numbers("4-9,1,7-", 5, "it", strict=False) == [4, 5, 1]
    assert page_numbers("999999999", 5, "it", strict=False) == []


@pytest.mark.parametrize("text", ["", "0", "3-2", "-3", "a", "1;2", "1-2-3", "1,,2", "1" * 10, "①", 0, -1, True, 1.5, [1]])
def test_what_is_no_page(text):
    expected = "expected numbers from 1 and ranges of them, such as '1-3,7' or '4-'"
    assert expected in line_of(load_pages, THREE, text, error=UsageError)


@pytest.mark.parametrize("dpi", [0, -1, 10_000, float("nan"), "200", True, None])
def test_what_is_no_resolution(dpi):
    assert "expected dots per inch, from 1 to 2400" in line_of(load_pages, THREE, dpi=dpi, error=UsageError)


def test_ten_thousand_pages():
    """Counting them is quick; reading all at once is refused, some are read."""
    many = pdf_of(*[filled(1, 0, 0)] * 9_999, filled(0, 0, 1))
    begun = time.monotonic()
    assert page_count(many) == 10_000
    assert line_of(load_pages, many) == (
        "the picture given as bytes: 10000 pages, and at most 40 are read at once; name fewer, as in pages='1-3'"
    )
    assert [colour_of(picture) for picture in load_pages(many, "9999-")] == [RED, BLUE]
    assert time.monotonic() - begun < 10
    frames = tiff_of(*[RED] * 60)
    assert "60 pages, and at most 40 are read at once" in line_of(load_pages, frames)
    assert len(load_pages(frames, "21-")) == 40


def test_a_large_sheet_is_drawn_smaller():
    (drawn,) = load_pages(pdf_of(filled(1, 0, 0), size=(14_400, 14_400)))
    assert drawn.width * drawn.height == pytest.approx(pdf.MAX_PAGE_PIXELS, rel=1e-3)
    assert drawn.info["notes"] == ["the picture given as bytes: page 1 is drawn at 35.4 dpi instead of 200, it is a large sheet"]
    (strip,) = load_pages(pdf_of(filled(1, 0, 0), size=(1_000_000, 1)))
    assert strip.size == (pdf.MAX_SIDE_PX, 1)


def test_limits_of_pixels(monkeypatch):
    assert "200x100 px" in line_of(load_pages, THREE, max_pixels=100)
    assert "its pages have more than 0.05 million px together" in line_of(load_pages, THREE, max_total_pixels=50_000)
    assert "larger than the limit" in line_of(load_pages, THREE, max_bytes=100)


def test_a_page_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(pdf, "MAX_PAGE_SECONDS", -1.0)
    assert "page 1 of the picture given as bytes takes more than -1 s to draw" in line_of(load_pages, THREE)
    monkeypatch.undo()
    assert len(load_pages(THREE)) == 3, "the file was closed"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pdf_of(), "is a PDF without pages: expected at least one"),
        (b"%PDF-1.7\n", "is a damaged PDF, or one that is cut short"),
        (THREE[:150], "is a damaged PDF, or one that is cut short"),
        (pdf_of(filled(1, 0, 0), size=(0, 0)), ""),
        (pdf_of(filled(1, 0, 0), trailer=b"/Encrypt " + RC4_WITH_PASSWORD + b" /ID [<41><41>]"), "is encrypted, and passwords"),
        (pdf_of(filled(1, 0, 0), trailer=b"/Encrypt << /Filter /Other /V 9 >>"), "encrypt"),
        (tiff_of(RED, BLUE)[:-120], "damaged or cut short"),
    ],
    ids=["empty", "head", "cut", "no size", "password", "security", "tiff"],
)
def test_files_that_cannot_be_read(data, message):
    try:
        drawn = load_pages(data)
    except PictureError as error:
        assert message in str(error) and "\n" not in str(error)
    else:
        assert not message and len(drawn) == 1, "PDFium takes a sheet without size for US letter"


def test_no_file_is_read_into_a_crash():
    """Bytes of a PDF changed at random: pages, or one line."""
    dice = np.random.default_rng(5)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(200):
        data = np.frombuffer(THREE, np.uint8).copy()
        data[dice.integers(10, len(data), 12)] = dice.integers(0, 256, 12)
        try:
            load_pages(data.tobytes(), dpi=20)
            outcomes["read"] += 1
        except PictureError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def test_forms_and_annotations_are_part_of_the_page():
    """The content of a filled field is what people look for."""
    look = b"<< /Type /XObject /Subtype /Form /BBox [0 0 36 36] /Length 24 >>\nstream\n1 0 0 rg 0 0 36 36 re f \nendstream"
    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /F 4 /Rect [0 0 36 36] /AP << /N 6 0 R >> >>"
    plain = pdf_of(b" ", extra=b"/AcroForm << /Fields [5 0 R] >>", page=b"/Annots [5 0 R]")
    body, tail = plain[: plain.index(b"xref\n0 ")], plain[plain.index(b"xref\n0 ") :]
    places = tail.splitlines(keepends=True)[2:-4]
    out = body
    for number, content in ((5, field), (6, look)):
        places.append(b"%010d 00000 n \n" % len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 7\n" + b"".join(places) + b"trailer << /Size 7 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start
    assert colour_of(load_pages(out)[0]) == RED


def test_threads_read_at_once():
    expected = [picture.tobytes() for picture in load_pages(THREE)]
    barrier = threading.Barrier(8)

    def read(_):
        barrier.wait()
        return [[picture.tobytes() for picture in load_pages(THREE)] for _ in range(10)]

    with ThreadPoolExecutor(8) as threads:
        assert all(found == [expected] * 10 for found in threads.map(read, range(8)))


def test_without_pypdfium2(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    assert line_of(load_pages, THREE, error=MissingExtraError) == "reading a PDF needs pypdfium2: pip install 'minimonkey[pdf]'"


def test_text_is_sharp_enough_to_read():
    """A letter of 8 points is as high as DPI promises: what a tile gets depends on it."""
    page = Image.new("1", (600, 200), 1)
    ImageDraw.Draw(page).rectangle((100, 50, 102, 72), fill=0)
    file = io.BytesIO()
    page.save(file, "PDF", resolution=200)
    (drawn,) = load_pages(file.getvalue())
    assert drawn.size == (600, 200)
    dark = np.argwhere(np.asarray(drawn.convert("L")) < 128)
    assert (dark.min(0).tolist(), dark.max(0).tolist()) == ([50, 100], [72, 102])


def test_the_module_names_its_limits():
    assert pages.MAX_PAGES * 1654 * 2339 < pages.MAX_PAGES_PIXELS, "as many A4 pages as are allowed have room"
