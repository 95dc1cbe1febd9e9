"""Every kind of picture file that users have: the right pixels, or one clear line."""

import io
import os
import struct
import sys
import threading
import types
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from minimonkey.documents import frame_indices, frames_prompt, load_frames, load_picture, video
from minimonkey.documents.video import VIDEO_FORMATS
from minimonkey.errors import MissingExtraError, PictureError, UsageError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LOSSLESS = {"WEBP": {"lossless": True}}


def corners(width: int = 40, height: int = 30) -> Image.Image:
    """Red top left, green top right, blue bottom left, black bottom right: each way of turning it looks different."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(BLACK, (width // 2, height // 2, width, height))
    return picture


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def line_of(source, **settings) -> str:
    """The message of the PictureError that the source gives; always one line."""
    with pytest.raises(PictureError) as caught:
        load_picture(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_plain(picture: Image.Image, expected: Image.Image, tolerance: int = 0) -> None:
    assert (picture.mode, picture.size, picture.info) == ("RGB", expected.size, {"notes": []})
    difference = np.abs(np.asarray(picture, int) - np.asarray(expected, int))
    assert difference.max() <= tolerance


# --- sources ---------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    path = tmp_path / "page.png"
    corners().save(path)
    data = path.read_bytes()
    with open(path, "rb") as file, Image.open(path) as opened:
        file.seek(7)  # a file object is read from its beginning
        for source in (path, str(path), data, bytearray(data), file, io.BytesIO(data), opened, np.asarray(corners())):
            assert_plain(load_picture(source), corners())
            assert_plain(load_picture(source, as_published=True), corners())


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(encoded(corners(), "PNG")))
    writer.start()
    assert_plain(load_picture(path), corners())
    writer.join()


def test_the_picture_is_a_copy():
    given = corners()
    for settings in ({}, {"as_published": True}):
        loaded = load_picture(given, **settings)
        loaded.putpixel((0, 0), WHITE)
        assert given.getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000", "ICO"])
def test_lossless_files(kind):
    picture = corners(32, 32)
    assert_plain(load_picture(encoded(picture, kind, **LOSSLESS.get(kind, {}))), picture)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_lossy_files(kind):
    picture = Image.new("RGB", (32, 32), (120, 60, 200))
    assert_plain(load_picture(encoded(picture, kind, quality=95)), picture, tolerance=3)


# --- pixels ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    upright, flip, turn = corners(), Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose
    stored = {
        1: upright,
        2: upright.transpose(flip),
        3: upright.transpose(turn.ROTATE_180),
        4: upright.transpose(turn.FLIP_TOP_BOTTOM),
        5: upright.transpose(turn.TRANSPOSE),
        6: upright.transpose(turn.ROTATE_90),
        7: upright.transpose(turn.TRANSVERSE),
        8: upright.transpose(turn.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, **LOSSLESS.get(kind, {}))
    assert_plain(load_picture(data), upright)
    with Image.open(io.BytesIO(data)) as opened:
        assert_plain(load_picture(opened), upright)
    if kind != "TIFF":  # Pillow itself turns TIFF pictures
        assert_plain(load_picture(data, as_published=True), stored)


def test_alpha_lies_over_white():
    picture = corners().convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 102))  # 40 % black
    loaded = load_picture(encoded(picture, "PNG"))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [WHITE, (153, 153, 153), RED]
    assert load_picture(encoded(picture, "PNG"), as_published=True).getpixel((0, 0)) == BLACK


def test_grey_with_alpha_lies_over_white():
    picture = Image.new("LA", (2, 1), (0, 255))
    picture.putpixel((0, 0), (0, 51))
    loaded = load_picture(encoded(picture, "PNG"))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(204, 204, 204), BLACK]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one index", "alpha of each index"])
def test_palette_with_alpha_lies_over_white(transparency):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([*RED, *BLACK])
    picture.putpixel((1, 0), 1)
    data = encoded(picture, "PNG", transparency=transparency)
    loaded, published = load_picture(data), load_picture(data, as_published=True)
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]
    assert [published.getpixel((x, 0)) for x in range(2)] == [RED, BLACK]


def test_a_transparent_colour_is_white():
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), BLUE)
    loaded = load_picture(encoded(picture, "PNG", transparency=BLUE))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_to_8(kind):
    levels = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    loaded = load_picture(encoded(Image.fromarray(levels), kind))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert np.ptp(np.asarray(loaded), axis=2).max() == 0


def test_big_endian_16_bits():
    picture = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
    assert np.asarray(load_picture(picture))[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255], None),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255], "pixel values from -100 to 100 were stretched"),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 128, 255], "were stretched"),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255], None),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255], None),
        (np.array([[-1, 0, 3]], np.float32), [0, 64, 255], "pixel values from -1 to 3 were stretched"),
    ],
)
def test_32_bit_pixels(values, expected, note):
    loaded = load_picture(encoded(Image.fromarray(values), "TIFF"))
    assert np.asarray(loaded)[0, :, 0].tolist() == expected
    assert note in loaded.info["notes"][0] if note else loaded.info["notes"] == []


def test_float_pixels_that_are_no_numbers():
    assert "not finite" in line_of(encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"))


def test_cmyk_is_converted():
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert_plain(load_picture(encoded(picture, "TIFF")), Image.new("RGB", (16, 16), RED))
    assert_plain(load_picture(encoded(picture, "JPEG", quality=95)), Image.new("RGB", (16, 16), RED), tolerance=4)


def test_bilevel_and_one_pixel():
    assert_plain(load_picture(encoded(Image.new("1", (3, 2), 1), "PNG")), Image.new("RGB", (3, 2), WHITE))
    assert_plain(load_picture(encoded(Image.new("L", (1, 1), 7), "PNG")), Image.new("RGB", (1, 1), (7, 7, 7)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_pictures_with_a_note(tmp_path, kind):
    path = tmp_path / f"frames.{kind.lower()}"
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, BLACK))
    first.save(path, kind, save_all=True, append_images=others, **LOSSLESS.get(kind, {}))
    loaded = load_picture(path)
    assert loaded.getcolors() == [(64, RED)]
    assert loaded.info == {"notes": [f"{path}: a {kind} file of 3 pictures, of which the first is used"]}


# --- arrays ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3, 3), [255, 0, 0], np.uint8), RED),
        (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 4), [0, 0, 0, 102], np.uint8), (153, 153, 153)),
        (np.full((2, 3), 32768, np.uint16), (128, 128, 128)),
        (np.full((2, 3), True), WHITE),
        (np.full((2, 3, 3), [1.0, 0.5, 0.0]), (255, 128, 0)),
        (np.full((3, 2), 7, np.uint8).T, (7, 7, 7)),  # not contiguous
    ],
)
def test_arrays(array, expected):
    assert_plain(load_picture(array), Image.new("RGB", (3, 2), expected))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30)), r"shape [3, 20, 30] and type float64 is no picture: expected [height, width]"),
        (np.zeros(5, np.uint8), "shape [5]"),
        (np.zeros((0, 4), np.uint8), "has no pixels"),
        (np.zeros((4, 4), np.int64), "expected uint8, uint16, bool, or floats from 0 to 1"),
        (np.array([["a"]]), "expected uint8, uint16, bool, or floats from 0 to 1"),
        (np.array([[0.0, 255.0]]), "values from 0 to 255: expected floats from 0 to 1"),
        (np.array([[0.0, np.nan]]), "values from nan to nan"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    assert message in line_of(array)


# --- one clear line --------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path):
    assert line_of(tmp_path / "none.png") == f"can't read {tmp_path / 'none.png'}: there is no such file"
    assert line_of(tmp_path) == f"can't read {tmp_path}: it is a folder, expected a picture file"
    assert line_of("") == "can't read '': there is no such file"
    assert line_of("two\nlines.png") == "can't read 'two\\nlines.png': there is no such file"
    assert "null byte" in line_of("a\0b.png")
    assert "...xxxx" in line_of("x" * 5000) and len(line_of("x" * 5000)) < 300


def test_permission_denied(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert line_of("secret.png") == "can't read secret.png: permission denied"


def test_files_that_are_no_pictures(tmp_path):
    path = tmp_path / "notes.png"
    path.write_bytes(b"")
    assert line_of(path) == f"{path} is empty (0 bytes): expected a picture file"
    path.write_text("Dear reader,\n" * 100)
    assert line_of(path).startswith(f"{path} is not a picture that can be read: expected a complete file of PNG, JPEG")
    assert "is a PDF: PDF pages can't be read yet, convert the page to PNG first" in line_of(b"%PDF-1.7\n%...")
    assert "is an address" in line_of("https://example.org/page.png")
    assert "the picture given as bytes is empty" in line_of(b"")
    assert "open the file in binary mode" in line_of(io.StringIO("text"))
    assert line_of(None).startswith("NoneType is no picture: expected a path")


def test_no_program_is_started_for_postscript():
    data = encoded(Image.new("RGB", (8, 8)), "EPS")
    assert "is not a picture that can be read" in line_of(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_never_half_a_picture(kind, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries do
    for share in (0.02, 0.3, 0.5, 0.9):
        assert "expected a complete" in line_of(data[: int(share * len(data))])
        assert "expected a complete" in line_of(data[: int(share * len(data))], as_published=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_give_a_picture_or_one_line(kind):
    generator = np.random.default_rng(1)
    data = bytearray(encoded(corners(), kind))
    lines = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, min(len(data), 200), 4):
            damaged[place] = generator.integers(256)
        try:
            assert load_picture(bytes(damaged)).mode == "RGB"
        except PictureError as error:
            lines += 1
            assert "\n" not in str(error)
    assert lines > 0


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large, with almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    parts = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for settings in ({}, {"as_published": True}):
        line = line_of(png_header(20000, 20000), **settings)
        assert "has 20000x20000 px, 400 million: the limit is 200 million (max_pixels=200000000)" in line


def test_the_limit_of_pixels_is_a_setting():
    data = encoded(corners(), "PNG")
    assert_plain(load_picture(data, max_pixels=1200), corners())
    for source in (data, corners(), np.asarray(corners())):
        assert "has 40x30 px" in line_of(source, max_pixels=1199)


def test_pillows_own_limit_neither_warns_nor_refuses(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_plain(load_picture(encoded(corners(), "PNG")), corners())
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_of_bytes_is_a_setting(tmp_path):
    path = tmp_path / "page.bmp"
    corners(1000, 1000).save(path)
    size = path.stat().st_size
    assert load_picture(path, max_bytes=size).size == (1000, 1000)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert f"is larger than the limit of 1 MiB (max_bytes={2**20})" in line_of(source, max_bytes=2**20)


def test_what_pillow_warns_of_becomes_a_note():
    damaged_exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x0f\x01\x02\0\xff\xff\0\0\x10\0\0\0"
    loaded = load_picture(encoded(Image.new("RGB", (16, 16), RED), "JPEG", exif=damaged_exif))
    assert loaded.size == (16, 16)
    assert "Corrupt EXIF data" in " ".join(loaded.info["notes"])


def test_threads_leave_pillows_settings_alone():
    kept = Image.MAX_IMAGE_PIXELS
    data, pictures = encoded(corners(), "PNG"), []
    threads = [threading.Thread(target=lambda: pictures.append(load_picture(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pictures) == 8
    assert Image.MAX_IMAGE_PIXELS == kept


# --- frames ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "most", "indices"),
    [
        (0, 8, []),
        (1, 8, [0]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (10, 1, [4]),
        (11, 3, [1, 4, 8]),
        (50, 8, [3, 9, 15, 21, 27, 34, 40, 46]),
        (301, 4, [37, 112, 187, 262]),
        (7, 4, [0, 2, 3, 4]),  # 1.5 and 4.5 are rounded to the even number, as numpy does
    ],
)
def test_frames_are_spread_as_published(count, most, indices):
    assert frame_indices(count, most) == indices


def test_no_frame_is_shown_twice():
    for count in range(1, 200):
        for most in range(1, 41):
            indices = frame_indices(count, most)
            assert len(set(indices)) == len(indices) == min(count, most)
            assert indices == sorted(indices)
            assert 0 <= indices[0] and indices[-1] < count


def test_the_prompt_numbers_the_frames():
    assert frames_prompt(2, "What happens?") == "Frame1: <image>\nFrame2: <image>\nWhat happens?"
    assert frames_prompt(1, "") == "Frame1: <image>\n"


def grey(level: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def levels_of(frames: list[Image.Image]) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in frames]


def test_a_folder_in_natural_order(tmp_path):
    for name, level in (("f10.png", 10), ("f2.PNG", 2), ("F1.bmp", 1), ("f2b.png", 3), ("12.png", 0)):
        grey(level).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "folder.png").mkdir()
    frames = load_frames(tmp_path)
    assert levels_of(frames) == [0, 1, 2, 3, 10]
    assert_plain(frames[0], grey(0))
    assert levels_of(load_frames(str(tmp_path), most=2)) == [1, 3]  # 5 frames in two halves: the second and the fourth
    (tmp_path / "f11.png").write_bytes(b"")
    with pytest.raises(PictureError, match="f11.png is empty"):
        load_frames(tmp_path)


def test_sources_without_frames(tmp_path):
    with pytest.raises(PictureError, match="holds no pictures: expected files such as 1.png, 2.png, or name a video file"):
        load_frames(tmp_path)
    for source in (tmp_path / "none.mp4", "x" * 5000, "a\0b", "https://example.org/clip.mp4"):
        with pytest.raises(PictureError, match="there is no such folder of pictures or video file"):
            load_frames(source)
    for most in (0, 41, -1, 2.0, True):
        with pytest.raises(UsageError, match="frames: expected a whole number from 1 to 40"):
            load_frames(tmp_path, most=most)


class FakeVideo:
    """What PyAV gives of a video whose frames are grey, each a step lighter; `decoded` of its `packets` can be decoded, one frame,
    `grows_at`, has twice the height."""

    def __init__(
        self, packets: int, decoded: int | None = None, rotation: int = 0, size: tuple[int, int] = (6, 4), grows_at: int = -1
    ) -> None:
        self.packets, self.decoded = packets, packets if decoded is None else decoded
        self.rotation, self.size, self.grows_at, self.settings = rotation, size, grows_at, {}
        self.reached = self.counted = 0
        codec = types.SimpleNamespace(width=size[0], height=size[1])
        self.streams = types.SimpleNamespace(video=[types.SimpleNamespace(codec_context=codec)])

    def open(self, file, **settings):
        self.settings = settings
        if file.read() != b"video":
            raise ErrorOfFFmpeg(1094995529, "Invalid data found when processing input")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def demux(self, stream):
        for size in [9] * self.packets + [0]:  # the last one ends the stream
            self.counted += 1
            yield types.SimpleNamespace(size=size)

    def decode(self, stream):
        for index in range(self.decoded):
            self.reached = index
            width, height = self.size[0], self.size[1] * (2 if index == self.grows_at else 1)
            picture = grey(index, (width, height))
            picture.putpixel((0, height - 1), RED)
            yield types.SimpleNamespace(width=width, height=height, rotation=self.rotation, to_image=lambda p=picture: p)


class ErrorOfFFmpeg(Exception):
    """Stands for av.FFmpegError."""

    def __init__(self, code: int, strerror: str) -> None:
        self.strerror = strerror


@pytest.fixture
def film(tmp_path, monkeypatch):
    """Make a video file that PyAV reads: `film(packets=50)` for its path and the FakeVideo."""
    path = tmp_path / "clip.mp4"

    def make(content: bytes = b"video", **settings):
        video = FakeVideo(**{"packets": 50} | settings)
        monkeypatch.setitem(sys.modules, "av", types.SimpleNamespace(open=video.open, FFmpegError=ErrorOfFFmpeg))
        path.write_bytes(content)
        return path, video

    return make


def test_frames_of_a_video(film):
    path, video = film(packets=50)
    frames = load_frames(path, most=8)
    assert levels_of(frames) == [3, 9, 15, 21, 27, 34, 40, 46]
    assert (frames[0].mode, frames[0].size, frames[0].info) == ("RGB", (6, 4), {"notes": []})
    assert video.reached == 46, "nothing is decoded after the last frame that is shown"
    assert video.settings["options"] == {"format_whitelist": VIDEO_FORMATS}
    assert "hls" not in VIDEO_FORMATS and "concat" not in VIDEO_FORMATS
    assert levels_of(load_frames(film(packets=3)[0])) == [0, 1, 2]


def test_frames_of_a_turned_video_are_upright(film):
    (frame,) = load_frames(film(packets=1, rotation=-90)[0])  # a quarter clockwise, as phones write it
    assert frame.size == (4, 6)
    assert frame.getpixel((0, 0)) == RED
    assert frame.getpixel((3, 5)) == (0, 0, 0)


def test_a_video_that_ends_early_has_a_note(film):
    frames = load_frames(film(packets=10, decoded=4)[0], most=5)
    assert levels_of(frames) == [0, 2]
    assert frames[0].info["notes"][0].endswith("clip.mp4: ends early, 2 frames of 5 are used")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"content": b""}, "clip.mp4 is empty (0 bytes): expected a video"),
        ({"content": b"text"}, "clip.mp4 is not a video that can be read (Invalid data found when processing input): expected a"),
        ({"packets": 0}, "clip.mp4 has no frames"),
        ({"decoded": 0}, "clip.mp4 has no frames"),
        ({"size": (20000, 20000)}, "clip.mp4 has 20000x20000 px, 400 million: the limit is 200 million"),
    ],
)
def test_videos_that_cannot_be_read(film, settings, message):
    with pytest.raises(PictureError) as caught:
        load_frames(film(**settings)[0])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def refused(source, **settings) -> str:
    with pytest.raises(PictureError) as caught:
        load_frames(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_pixels_of_all_frames_are_limited(tmp_path, monkeypatch):
    """Ten frames of 24 px; the one that is too many isn't decoded."""
    for number in range(10):
        grey(number).save(tmp_path / f"{number}.png")
    assert len(load_frames(tmp_path, most=3, max_total_pixels=72)) == 3
    assert len(load_frames(tmp_path, max_total_pixels=240)) == 10
    decoded, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self) or load(self))
    line = f"{tmp_path}: its frames have more than 7.1e-05 million px together (max_total_pixels=71); show fewer frames, make"
    assert refused(tmp_path, most=3, max_total_pixels=71).startswith(line)
    assert len(set(map(id, decoded))) == 2
    assert "0.png has 6x4 px" in refused(tmp_path, max_pixels=23) and "max_pixels=23" in refused(tmp_path, max_pixels=23)


def test_the_pixels_of_all_frames_of_a_video_are_limited(film):
    path, watched = film(packets=50)
    assert len(load_frames(path, most=8, max_total_pixels=8 * 24)) == 8
    assert "more than 0.000191 million px together (max_total_pixels=191)" in refused(path, most=8, max_total_pixels=191)
    assert watched.reached == 46
    assert "(max_total_pixels=23)" in refused(path, most=8, max_total_pixels=23)
    assert watched.reached == 3, "it ends with the first frame that is too many"


def test_a_frame_that_grows_is_refused_though_it_is_not_shown(film):
    path, watched = film(packets=50, grows_at=5)
    assert "clip.mp4 has 6x8 px" in refused(path, most=8, max_pixels=24)
    assert watched.reached == 5
    assert len(load_frames(path, most=8, max_pixels=48)) == 8


def test_the_bytes_of_a_video_are_limited(film):
    path, watched = film(packets=2)
    assert len(load_frames(path, max_bytes=5)) == 2
    watched.counted = 0
    assert refused(path, max_bytes=4).endswith(
        "clip.mp4 has 0 MiB: the limit is 3.8147e-06 MiB (max_bytes=4); cut the video, or raise the limit for a file that you trust"
    )
    assert watched.counted == 0


def test_the_frames_of_a_video_are_limited(film):
    path, watched = film(packets=50)
    assert len(load_frames(path, most=8, max_frames=50)) == 8
    watched.counted = watched.reached = 0
    assert "clip.mp4 has more than 30 frames (max_frames=30); cut the video, or raise" in refused(path, max_frames=30)
    assert (watched.counted, watched.reached) == (31, 0), "neither counted to the end nor decoded"


@pytest.mark.parametrize(("seconds", "counted", "reached"), [(20.5, 21, 0), (60.5, 51, 9)], ids=["counting", "decoding"])
def test_the_time_for_a_video_is_limited(film, monkeypatch, seconds, counted, reached):
    path, watched = film(packets=50)
    clock = iter(range(1000))  # each look at it takes a second
    monkeypatch.setattr(video, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    line = refused(path, most=8, max_seconds=seconds)
    assert f"clip.mp4 takes more than {seconds} s to read (max_seconds={seconds}); cut the video, show fewer frames" in line
    assert (watched.counted, watched.reached) == (counted, reached)


def test_the_time_for_a_folder_is_limited(tmp_path, monkeypatch):
    for number in range(9):
        grey(number).save(tmp_path / f"{number}.png")
    clock = iter(range(100))
    monkeypatch.setattr(video, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    assert "takes more than 3 s to read (max_seconds=3)" in refused(tmp_path, max_seconds=3)


def test_sound_alone_is_no_video(film):
    path, video = film()
    video.streams.video.clear()
    with pytest.raises(PictureError, match="expected a video, not sound alone"):
        load_frames(path)


def test_a_video_needs_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"video")
    with pytest.raises(MissingExtraError, match=r"reading a video file needs PyAV: pip install 'minimonkey\[video\]'"):
        load_frames(tmp_path / "clip.mp4")


# --- pictures from here --------------------------------------------------------------------------------------------------------


def test_what_was_prepared_comes_back_as_it_is(monkeypatch):
    """Under the limits of each call; what somebody gave an alpha channel or an orientation since is prepared anew."""
    prepared = load_picture(corners())
    again = load_picture(prepared)
    assert again is prepared and load_picture(prepared, as_published=True) is prepared
    with pytest.raises(PictureError, match="max_pixels=1"):
        load_picture(prepared, max_pixels=1)
    prepared.putalpha(128)
    assert load_picture(prepared).mode == "RGB"
    turned = load_picture(corners())
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise
    turned.info["exif"] = exif.tobytes()
    assert load_picture(turned).size == turned.size[::-1]


def test_a_picture_that_somebody_else_made_is_left_alone():
    plain = Image.new("RGB", (4, 3), "red")
    assert load_picture(plain) is not plain
    assert plain.info == {}
