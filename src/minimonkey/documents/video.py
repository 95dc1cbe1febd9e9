"""Videos in: a few frames of a folder of pictures or of a video file, evenly spread, each a picture as from `load_picture`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from minimonkey.documents.pictures import FORMATS, MAX_PIXELS, check_pixels, read_picture, source_name
from minimonkey.errors import MissingExtraError, PictureError, UsageError

MAX_FRAMES = 40
"""The most frames of one video: as many tiles as some three pages."""
MAX_TOTAL_PIXELS = 400_000_000
"""Default limit on the pixels of all frames together: 1.2 GB as RGB, 40 frames of 3840 x 2160 or 32 of 12 million."""
MAX_VIDEO_BYTES = 2 * 2**30
"""Default limit on the size of a video file."""
MAX_VIDEO_FRAMES = 108_000
"""Default limit on the frames of a video file, which all have to be counted and nearly all decoded: an hour at 30 a second."""
MAX_SECONDS = 300.0
"""Default limit on the time that reading one source takes."""

VIDEO_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"
"""FFmpeg's names of the containers that are read. Its other readers follow play lists, to files and addresses nobody named."""


def load_frames(
    source: str | os.PathLike[str],
    *,
    most: int = 32,
    max_pixels: int = MAX_PIXELS,
    max_total_pixels: int = MAX_TOTAL_PIXELS,
    max_bytes: int = MAX_VIDEO_BYTES,
    max_frames: int = MAX_VIDEO_FRAMES,
    max_seconds: float = MAX_SECONDS,
) -> list[Image.Image]:
    """Frames of a folder of pictures, in the natural order of their names (2.png before 10.png), or of a video file.

    Videos are decoded from their beginning, so that a late frame of a long one takes its time. Of a file that is cut short in a
    container that allows it (MKV, MPEG) the frames that there are count. Of a folder, hidden files and those not named like
    pictures are left out.

    Args:
        source: the path of a folder or of a video file.
        most: the most frames that come back, 1 to MAX_FRAMES; evenly spread where there are more.
        max_pixels: the most that width x height of one frame may be.
        max_total_pixels: the most pixels of all frames that come back together.
        max_bytes: the most bytes of a video file; each picture of a folder has the limit of `load_picture`.
        max_frames: the most frames of a video file.
        max_seconds: the longest that reading may take.

    Returns:
        The frames, upright RGB as from `load_picture`, with its notes.

    Raises:
        PictureError: the source has no frames or a broken one, or is over a limit.
        UsageError: `most` is no whole number from 1 to MAX_FRAMES.
        MissingExtraError: the source is a video, and PyAV isn't installed.
    """
    if not (type(most) is int and 1 <= most <= MAX_FRAMES):
        raise UsageError(f"{most!r} frames: expected a whole number from 1 to {MAX_FRAMES}")
    limits = _Limits(source_name(source), max_pixels, max_total_pixels, max_bytes, max_frames, max_seconds)
    if os.path.isdir(source):
        pictures = _pictures_in(source)
        return [_read_in_time(pictures[index], limits) for index in frame_indices(len(pictures), most)]
    if not os.path.exists(source):
        raise PictureError(f"can't read {source_name(source)}: there is no such folder of pictures or video file")
    return _video_frames(source, most, limits)


class _Limits:
    """What one source may cost; raises PictureError, which names the setting, once it costs more."""

    def __init__(self, name: str, pixels: int, total_pixels: int, file_bytes: int, frames: int, seconds: float) -> None:
        self.name, self.pixels, self.total_pixels = name, pixels, total_pixels
        self.bytes, self.frames, self.seconds = file_bytes, frames, seconds
        self._begun, self._admitted = time.monotonic(), 0

    def check_size(self, size: tuple[int, int], name: str) -> None:
        """One frame of (width, height) that is looked at and not kept."""
        check_pixels(size, name, self.pixels)

    def admit(self, size: tuple[int, int], name: str) -> None:
        """One more frame of (width, height) that is kept."""
        self.check_size(size, name)
        self._admitted += size[0] * size[1]
        if self._admitted > self.total_pixels:
            raise PictureError(
                f"{self.name}: its frames have more than {self.total_pixels / 1e6:g} million px together "
                f"(max_total_pixels={self.total_pixels}); show fewer frames, make them smaller, or raise the limit"
            )

    def check_bytes(self, found: int) -> None:
        if found > self.bytes:
            raise PictureError(
                f"{self.name} has {found / 2**20:.0f} MiB: the limit is {self.bytes / 2**20:g} MiB (max_bytes={self.bytes}); "
                "cut the video, or raise the limit for a file that you trust"
            )

    def check_frames(self, found: int) -> None:
        if found > self.frames:
            raise PictureError(
                f"{self.name} has more than {self.frames} frames (max_frames={self.frames}); "
                "cut the video, or raise the limit for a file that you trust"
            )

    def check_time(self) -> None:
        if time.monotonic() - self._begun > self.seconds:
            raise PictureError(
                f"{self.name} takes more than {self.seconds:g} s to read (max_seconds={self.seconds:g}); "
                "cut the video, show fewer frames, or raise the limit"
            )


def _read_in_time(path: str, limits: _Limits) -> Image.Image:
    limits.check_time()
    return read_picture(path, limits.admit)


def frame_indices(count: int, most: int) -> list[int]:
    """Which frames of a video are shown: all, or the middles of equal parts.

    Source: `get_index` in the published model cards of InternVL2, which repeats frames of videos shorter than `most`; this doesn't.

    Args:
        count: frames that there are.
        most: the most that are shown.

    Returns:
        Their numbers from 0, ascending.
    """
    if count <= most:
        return list(range(count))
    part = (count - 1) / most
    return [int(part / 2 + round(part * index)) for index in range(most)]


def frames_prompt(count: int, question: str) -> str:
    """A question about frames, each with its number and its `<image>` mark: what InternVL2 was trained on for videos.

    Args:
        count: frames.
        question: what is asked about them.
    """
    return "".join(f"Frame{number}: <image>\n" for number in range(1, count + 1)) + question


def _pictures_in(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of a folder's pictures in natural order; at least one."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    try:
        with os.scandir(folder) as entries:
            files = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise PictureError(f"can't read {source_name(folder)}: {error.strerror or error}") from error
    pictures = [entry for entry in files if os.path.splitext(entry.name)[1].lower() in endings]
    if not pictures:
        raise PictureError(f"{source_name(folder)} holds no pictures: expected files such as 1.png, 2.png, or name a video file")
    return [entry.path for entry in sorted(pictures, key=lambda entry: (_natural(entry.name), entry.name))]


def _natural(name: str) -> list[str | int]:
    """A name as text, number, text, number ...: so that numbers are compared as such."""
    return [int(part) if index % 2 else part.casefold() for index, part in enumerate(re.split("([0-9]+)", name))]


def _video_frames(path: str | os.PathLike[str], most: int, limits: _Limits) -> list[Image.Image]:
    """Two passes over the file: one counts its frames, which few containers tell, one decodes as far as the last that is shown."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyAV", "video", "reading a video file") from error
    name, frames = source_name(path), []
    try:
        with _video(path, limits) as (container, stream):
            shown = frame_indices(_count(container.demux(stream), limits), most)
        with _video(path, limits) as (container, stream):
            for index, frame in enumerate(container.decode(stream) if shown else ()):
                limits.check_time()
                limits.check_size((frame.width, frame.height), name)  # it may change on the way
                if index in shown:
                    limits.admit((frame.width, frame.height), name)
                    frames.append(frame.to_image().convert("RGB").rotate(frame.rotation, expand=True))
                if index >= shown[-1]:
                    break
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        expected = "expected a folder of pictures, or a complete file of MP4, MOV, MKV, WebM, AVI, MPEG, OGG, FLV, WMV or GIF"
        raise PictureError(f"{name} is not a video that can be read ({reason}): {expected}") from error
    except OSError as error:
        raise PictureError(f"can't read {name}: {error.strerror or error}") from error
    if not frames:
        raise PictureError(f"{name} has no frames: expected a video of at least one")
    for frame in frames:
        frame.info = {"notes": []}
    if len(frames) < len(shown):
        frames[0].info["notes"].append(f"{name}: ends early, {len(frames)} frames of {len(shown)} are used")
    return frames


def _count(packets: Iterable[Any], limits: _Limits) -> int:
    """How many frames there are: each has a packet, and an empty one ends the stream."""
    count = 0
    for packet in packets:
        count += packet.size > 0
        limits.check_frames(count)
        limits.check_time()
    return count


def _checked(file: IO[bytes], limits: _Limits) -> IO[bytes]:
    limits.check_bytes(os.fstat(file.fileno()).st_size)
    if not file.read(1):
        raise PictureError(f"{limits.name} is empty (0 bytes): expected a video")
    file.seek(0)
    return file


@contextmanager
def _video(path: str | os.PathLike[str], limits: _Limits) -> Iterator[tuple[Any, Any]]:
    """An open container and its first video stream. FFmpeg gets the open file, as a name may be one of its protocols."""
    import av

    settings = {"options": {"format_whitelist": VIDEO_FORMATS}, "metadata_errors": "ignore"}
    with open(path, "rb") as file, av.open(_checked(file, limits), **settings) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise PictureError(f"{limits.name} has no pictures that can be decoded: expected a video, not sound alone")
        limits.check_size((stream.codec_context.width, stream.codec_context.height), limits.name)
        stream.thread_type = "AUTO"
        yield container, stream
