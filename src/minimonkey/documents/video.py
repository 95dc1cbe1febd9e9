"""Videos in: a few frames of a folder of pictures or of a video file, evenly spread, each a picture as from `load_picture`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image

from minimonkey.documents.pictures import FORMATS, MAX_PIXELS, check_pixels, load_picture, source_name
from minimonkey.errors import MissingExtraError, PictureError, UsageError

MAX_FRAMES = 40
"""The most frames of one video: as many tiles as some three pages."""


VIDEO_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"
"""FFmpeg's names of the containers that are read. Its other readers follow play lists, to files and addresses nobody named."""


def load_frames(source: str | os.PathLike[str], *, most: int = 32) -> list[Image.Image]:
    """Frames of a folder of pictures, in the natural order of their names (2.png before 10.png), or of a video file.

    All of them, or `most` (up to MAX_FRAMES), evenly spread, where there are more. Each is upright RGB as from `load_picture`, with
    its notes and its limits; of a folder, hidden files and those not named like pictures are left out.

    Raises PictureError for a source without frames or with a broken one, UsageError for `most`, MissingExtraError for a video
    without PyAV. Videos are decoded from their beginning, so that a late frame of a long one takes its time; of a file that is cut
    short in a container that allows it (MKV, MPEG) the frames that there are count.
    """
    if not (type(most) is int and 1 <= most <= MAX_FRAMES):
        raise UsageError(f"{most!r} frames: expected a whole number from 1 to {MAX_FRAMES}")
    if os.path.isdir(source):
        pictures = _pictures_in(source)
        return [load_picture(pictures[index]) for index in frame_indices(len(pictures), most)]
    if not os.path.exists(source):
        raise PictureError(f"can't read {source_name(source)}: there is no such folder of pictures or video file")
    return _video_frames(source, most)


def frame_indices(count: int, most: int) -> list[int]:
    """Which of `count` frames are shown, ascending: all, or the middles of `most` equal parts.

    Source: `get_index` in the published model cards of InternVL2, which repeats frames of videos shorter than `most`; this doesn't.
    """
    if count <= most:
        return list(range(count))
    part = (count - 1) / most
    return [int(part / 2 + round(part * index)) for index in range(most)]


def frames_prompt(count: int, question: str) -> str:
    """A question about `count` frames, each with its number and its `<image>` mark: what InternVL2 was trained on for videos."""
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


def _video_frames(path: str | os.PathLike[str], most: int) -> list[Image.Image]:
    """Two passes over the file: one counts its frames, which few containers tell, one decodes as far as the last that is shown."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyAV", "video", "reading a video file") from error
    name, frames = source_name(path), []
    try:
        with _video(path, name) as (container, stream):
            shown = frame_indices(sum(packet.size > 0 for packet in container.demux(stream)), most)
        with _video(path, name) as (container, stream):
            for index, frame in enumerate(container.decode(stream) if shown else ()):
                if index in shown:
                    check_pixels((frame.width, frame.height), name, MAX_PIXELS)  # it may change on the way
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


def _not_empty(file: IO[bytes], name: str) -> IO[bytes]:
    if not file.read(1):
        raise PictureError(f"{name} is empty (0 bytes): expected a video")
    file.seek(0)
    return file


@contextmanager
def _video(path: str | os.PathLike[str], name: str) -> Iterator[tuple[Any, Any]]:
    """An open container and its first video stream. FFmpeg gets the open file, as a name may be one of its protocols."""
    import av

    settings = {"options": {"format_whitelist": VIDEO_FORMATS}, "metadata_errors": "ignore"}
    with open(path, "rb") as file, av.open(_not_empty(file, name), **settings) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise PictureError(f"{name} has no pictures that can be decoded: expected a video, not sound alone")
        check_pixels((stream.codec_context.width, stream.codec_context.height), name, MAX_PIXELS)
        stream.thread_type = "AUTO"
        yield container, stream
