"""Threads that read pictures at once: each gets its own pixels and notes, and other threads don't notice."""

import io
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from minimonkey.documents import load_picture, pillow
from minimonkey.documents.pillow import strict_pillow

DAMAGED_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x0f\x01\x02\0\xff\xff\0\0\x10\0\0\0"


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (150, 200, 3), np.uint8))


def warned_of() -> bytes:
    """A picture that Pillow warns of."""
    return encoded(noise(9), "JPEG", exif=DAMAGED_EXIF)


def look_at_exif() -> None:
    """What other code does with such a picture."""
    Image.open(io.BytesIO(warned_of())).getexif()


@pytest.fixture
def sources() -> list[bytes]:
    """Eight pictures of several kinds, five of which have notes, all different ones."""
    animated = encoded(noise(0), "GIF", save_all=True, append_images=[noise(1)])
    pages = encoded(noise(2), "TIFF", save_all=True, append_images=[noise(3)] * 2)
    stretched = encoded(Image.fromarray(np.array([[-1, 0, 3]], np.float32)), "TIFF")
    further = encoded(Image.fromarray(np.array([[-9, 0, 7]], np.int32)), "TIFF")
    return [animated, pages, stretched, further, warned_of(), *(encoded(noise(seed)) for seed in range(4, 7))]


def read(source: bytes) -> tuple[bytes, list[str]]:
    picture = load_picture(source)
    return picture.tobytes(), picture.info["notes"]


def test_eight_threads_read_what_one_does(sources):
    alone = [read(source) for source in sources]
    assert [len(notes) for _, notes in alone] == [1, 1, 1, 1, len(alone[4][1]), 0, 0, 0] and alone[4][1]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(read, sources)) == alone


def test_pictures_are_decoded_at_the_same_time(monkeypatch):
    """Each of two threads is in the middle of a picture when the other comes there."""
    meeting, turn = threading.Barrier(2), ImageOps.exif_transpose

    def meet(picture):
        meeting.wait(timeout=20)
        return turn(picture)

    monkeypatch.setattr(ImageOps, "exif_transpose", meet)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(read, [encoded(noise(1)), encoded(noise(2))]))) == 2


def test_other_threads_warn_as_ever():
    """Their warnings are neither notes of this thread's pictures nor swallowed, though one of them uses Pillow, too."""
    clean, damaged, ended, said = encoded(noise(1)), warned_of(), threading.Event(), []
    alone = read(damaged)[1]
    assert any("Corrupt EXIF data" in note for note in alone)

    def warn():
        while not ended.wait(0.001):
            warnings.warn("of another thread", stacklevel=1)
            Image.open(io.BytesIO(warned_of())).getexif()
            said.append(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = threading.Thread(target=warn)
        other.start()
        try:
            while len(said) < 20:
                assert read(clean)[1] == []
                assert read(damaged)[1] == alone
        finally:
            ended.set()
            other.join()
    texts = [str(warning.message) for warning in caught]
    assert texts.count("of another thread") == len(said)
    assert sum("Corrupt EXIF data" in text for text in texts) >= len(said)
    assert {warning.filename for warning in caught if "EXIF" in str(warning.message)} == {TiffImagePlugin.__file__}


def test_an_error_of_another_thread_stays_one():
    """Who has made warnings errors gets them outside of our reading."""
    load_picture(encoded(noise(1)))
    with strict_pillow() as notes, ThreadPoolExecutor(1) as pool:
        with pytest.raises(UserWarning, match="Tag data larger than file"):
            pool.submit(look_at_exif).result()
        assert notes == []
    with pytest.raises(UserWarning, match="Tag data larger than file"):
        look_at_exif()


class SlowImage:
    """Pillow's Image, whose setting takes its time: other threads come in the meantime."""

    DecompressionBombWarning = Image.DecompressionBombWarning
    init = staticmethod(Image.init)
    limit: int | None = 100

    @property
    def MAX_IMAGE_PIXELS(self) -> int | None:
        return self.limit

    @MAX_IMAGE_PIXELS.setter
    def MAX_IMAGE_PIXELS(self, limit: int | None) -> None:
        self.limit = limit
        time.sleep(0.02)


def test_settings_are_strict_while_anyone_reads_and_as_before_afterwards(monkeypatch):
    slow, seen = SlowImage(), []
    monkeypatch.setattr(pillow, "Image", slow)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    def look(number: int) -> None:
        time.sleep(0.005 * number)
        with strict_pillow():
            time.sleep(0.01)
            seen.append((slow.limit, ImageFile.LOAD_TRUNCATED_IMAGES))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, range(24)))
    assert seen == [(None, False)] * 24
    assert (slow.limit, ImageFile.LOAD_TRUNCATED_IMAGES) == (100, True)


def test_deprecations_are_no_notes_and_large_pictures_no_warning(monkeypatch):
    with strict_pillow() as notes:
        Image.warnings.warn("of a\n  picture")
        Image.warnings.warn(Image.DecompressionBombWarning("large"))
        with pytest.raises(DeprecationWarning, match="old"):
            Image.warnings.warn("old", DeprecationWarning)
    assert notes == ["of a picture"]
    assert Image.warnings.catch_warnings is warnings.catch_warnings


def test_numbers_that_overflow_are_stretched_without_a_warning():
    extremes = np.array([[-3e38, 0, 3e38]], np.float32)
    assert np.asarray(load_picture(encoded(Image.fromarray(extremes), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
