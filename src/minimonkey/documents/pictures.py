"""Users' pictures in: `load_picture` makes an upright RGB picture of whatever it is given, or says in one line why it can't.

Every limit and check on untrusted pictures lives here; the layers above take a PIL picture in mode RGB. Knows no pyramid, no model.

    file, bytes --> limits --> Pillow (known formats only) --> first frame --> EXIF orientation --> 8-bit RGB, alpha over white
    PIL picture, numpy array ----------------------------------^
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from minimonkey.documents.pillow import strict_pillow
from minimonkey.errors import PictureError

MAX_PIXELS = 200_000_000
"""Default limit on width x height: 600 MB as RGB; an A4 page at 1200 dpi has 139 million."""
MAX_BYTES = 256 * 2**20
"""Default limit on the size of a picture file."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "ICO")
"""What is read. Pillow's other readers are rare, or start programs (EPS), or accept nearly any bytes (TGA)."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
"""What Pillow's readers raise for damaged files (its own UnidentifiedImageError is an OSError)."""

PictureSource = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray


def load_picture(
    source: PictureSource,
    *,
    as_published: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Image.Image:
    """A picture of any source, upright and in mode RGB. Any number of threads may read pictures at once.

    EXIF orientation is applied, alpha laid over white, 16-bit and float pixels are scaled to 8 bits, CMYK is converted; of an
    animation or a file of several pages the first picture is taken, with a note. What this function made before comes back as it
    is, without a copy.

    Args:
        source: a path, the bytes of a file, a binary file object, a PIL image, or a numpy array [height, width] or [height, width,
            channels] with 1, 3 or 4 channels: uint8, uint16, bool, or float from 0 to 1.
        as_published: do no more than the published code, `Image.open(source).convert("RGB")`; limits hold all the same.
        max_pixels: the most that width x height may be; checked before pixels are decoded.
        max_bytes: the most that a file may have.

    Returns:
        A PIL image in mode RGB; `info["notes"]` is a list of remarks for the user (str), mostly empty: ours, and what Pillow
        warns of while it reads this picture.

    Raises:
        PictureError: one line, for all that can't be read whole: missing, unreadable, empty, truncated, no picture, over limits.
    """
    return read_picture(source, lambda size, name: check_pixels(size, name, max_pixels), as_published, max_bytes)


def read_picture(
    source: PictureSource, admit: Callable[[tuple[int, int], str], None], as_published: bool = False, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """`load_picture` with a limit of its own: `admit` gets (width, height) and the source's name before pixels are decoded, and
    raises PictureError if they are too many."""
    name = source_name(source)
    if isinstance(source, Image.Image) and _is_prepared(source):
        admit(source.size, name)
        return source
    given = source if isinstance(source, Image.Image | np.ndarray) else _read(source, name, max_bytes)
    notes: list[str] = []
    try:
        with strict_pillow() as warned:
            if isinstance(given, bytes):
                picture = _open(given, name, notes)
            else:
                picture = _picture_of_array(given) if isinstance(given, np.ndarray) else given
            admit(picture.size, name)
            picture.load()
            rgb = picture.convert("RGB") if as_published else _to_rgb(ImageOps.exif_transpose(picture), name, notes)
    except PictureError:  # a ValueError itself
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split())
        raise PictureError(f"{name} is damaged or cut short ({reason}); expected a complete picture file") from error
    rgb.info = {"notes": notes + [f"{name}: {warning}" for warning in warned]}
    return rgb


def _is_prepared(picture: Image.Image) -> bool:
    """Whether a picture comes from here: RGB pixels, and nothing but our notes beside them, so neither an orientation nor alpha."""
    return picture.mode == "RGB" and picture.info.keys() == {"notes"}


def source_name(source: PictureSource) -> str:
    """How messages call the source."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        text = text if len(text) <= 200 else f"{text[:100]}...{text[-90:]}"
        return text if text.isprintable() and text else repr(text)
    if isinstance(source, bytes | bytearray | memoryview):
        return "the picture given as bytes"
    if isinstance(source, np.ndarray):
        return "the picture given as array"
    name = str(getattr(source, "filename", None) or getattr(source, "name", None) or "the picture")
    return "standard input" if name == "<stdin>" else name


def _read(source: Any, name: str, max_bytes: int) -> bytes:
    """The bytes of a file; never reads more than the limit."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source[: max_bytes + 1])
    elif isinstance(source, str | os.PathLike):
        if re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(source), re.IGNORECASE):
            raise PictureError(f"{name} is an address: addresses can't be read yet, save the picture to a file first")
        data = _read_file(source, name, max_bytes)
    elif hasattr(source, "read"):
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        data = source.read(max_bytes + 1)
    else:
        raise PictureError(f"{type(source).__name__} is no picture: expected a path, bytes, a file object, a PIL image or an array")
    if not isinstance(data, bytes):
        raise PictureError(f"{name} gives {type(data).__name__}: expected bytes, open the file in binary mode")
    if not data:
        raise PictureError(f"{name} is empty (0 bytes): expected a picture file")
    if len(data) > max_bytes:
        raise PictureError(f"{name} is larger than the limit of {max_bytes / 2**20:g} MiB (max_bytes={max_bytes})")
    return data


def _read_file(path: str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a folder, expected a picture file"
    except PermissionError:
        if Path(path).is_dir():  # what Windows says of folders
            reason = "it is a folder, expected a picture file"
        else:
            reason = "permission denied"
    except (OSError, ValueError) as error:  # a name too long, or with a null character
        reason = getattr(error, "strerror", None) or str(error)
    raise PictureError(f"can't read {name}: {reason}")


def _open(data: bytes, name: str, notes: list[str]) -> Image.Image:
    """The first picture of a file, its pixels not decoded yet."""
    if b"%PDF-" in data[:1024]:
        raise PictureError(f"{name} is a PDF: PDF pages can't be read yet, convert the page to PNG first")
    Image.init()
    try:
        picture = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, GIF, TIFF, BMP, PPM, JPEG 2000, AVIF, ICO"
        raise PictureError(f"{name} is not a picture that can be read: expected a complete file of {kinds}") from error
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # phones keep a second, auxiliary picture in MPO files
        notes.append(f"{name}: a {picture.format} file of {frames} pictures, of which the first is used")
    return picture


def check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name} has {width}x{height} px: expected at least one pixel")
    if width * height > max_pixels:
        raise PictureError(
            f"{name} has {width}x{height} px, {width * height / 1e6:.0f} million: the limit is {max_pixels / 1e6:g} million "
            f"(max_pixels={max_pixels}); make it smaller, or raise the limit for a file that you trust"
        )


def _picture_of_array(array: np.ndarray) -> Image.Image:
    """uint8 [height, width] or [height, width, 3 or 4] of any array that `load_picture` accepts."""
    what = f"an array of shape {list(array.shape)} and type {array.dtype}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise PictureError(f"{what} is no picture: expected [height, width] or [height, width, channels] with 1, 3 or 4 channels")
    if 0 in array.shape:
        raise PictureError(f"{what} has no pixels")
    if array.dtype == np.uint16:
        array = _halved(array)
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise PictureError(f"{what} has values from {array.min():g} to {array.max():g}: expected floats from 0 to 1, or uint8")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(f"{what} is no picture: expected uint8, uint16, bool, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(picture: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """8-bit RGB of a picture in any of Pillow's modes, transparent parts over white."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(_halved(np.asarray(picture))).convert("RGB")
    if picture.mode in ("I", "F"):
        return Image.fromarray(_scaled(np.asarray(picture), name, notes)).convert("RGB")
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return picture.convert("RGB")


def _halved(pixels: np.ndarray) -> np.ndarray:
    """16 bits to 8, rounded: 65535 is 255."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scaled(pixels: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    """32-bit whole or float pixels to uint8. Their range isn't stored in files, so it is told from the values."""
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{name} has float pixels that are not finite: expected numbers only")
    white = 1.0 if pixels.dtype.kind == "f" and high <= 1 else 255.0 if pixels.dtype.kind == "f" else 65535.0
    if low < 0 or high > white:
        notes.append(f"{name}: pixel values from {low:g} to {high:g} were stretched to black and white")
        return np.rint((pixels.astype(np.float64) - low) * 255.0 / (high - low)).astype(np.uint8)
    return np.rint(pixels * (255.0 / white)).astype(np.uint8)


def picture_size(source: PictureSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Height and width in pixels that `load_picture` would give; of a file only the head is decoded.

    Args:
        source: as in `load_picture`.
        max_pixels: the most that width x height may be.
        max_bytes: the most that a file may have.

    Returns:
        (height, width), once the picture is upright.

    Raises:
        PictureError: it can't be read, or is over a limit. Damage behind the head isn't seen.
    """
    name = source_name(source)
    given = source if isinstance(source, Image.Image | np.ndarray) else _read(source, name, max_bytes)
    try:
        with strict_pillow():
            if isinstance(given, bytes):
                picture = _open(given, name, [])
            else:
                picture = _picture_of_array(given) if isinstance(given, np.ndarray) else given
            check_pixels(picture.size, name, max_pixels)
            turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except PictureError:
        raise
    except BROKEN as error:
        raise PictureError(f"{name} is damaged or cut short ({' '.join(str(error).split())}); expected a picture file") from error
    width, height = picture.size
    return (width, height) if turned else (height, width)
