"""Driving on six cameras, as Mini-InternVL does DriveLM: six views in one picture, and places in it and in the cameras.

    FRONT_LEFT  FRONT  FRONT_RIGHT        each 1600x900 pixels, here 896x448; all 2688x896: 12 tiles of 448 and the thumbnail
    BACK_LEFT   BACK   BACK_RIGHT         places in text are on 0-1000 of the whole

An object is a tag: `<c1,CAM_FRONT,800.0,450.0>` in pixels of its camera (DriveLM), `<c1,CAM_FRONT,[500, 250]>` on 0-1000 (training,
and the model's answers). Source: Mini-InternVL paper, section 3.3; `tools/images_stitching.py` and
`eval/domain_specific/drivelm/evaluate.py` of InternVL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from minimonkey.documents import load_picture
from minimonkey.errors import DataError, UsageError, shown
from minimonkey.pyramid import Size

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
"""In the order in which they are pasted, row by row."""
COLUMNS = 3
VIEW = Size(height=448, width=896)
CAMERA = Size(height=900, width=1600)
STITCHED = Size(height=2 * VIEW.height, width=COLUMNS * VIEW.width)
NORM = 1000
"""Places on the whole picture go from 0 to this."""
TYPEFACE = "DejaVuSans-Bold.ttf"
NAME_PX, NAME_COLOUR = 50, (255, 0, 255)
TAG_PROMPT = (
    "Objects are encoded using <c, CAM, [cx,cy]>, where c is the identifier, CAM indicates the camera where the object's center "
    "point is situated, and x, y represent the horizontal and vertical coordinates of the center point of the 2D bounding box."
)
"""The model is told so with questions that have tags; the words are the format's (paper, section 3.3)."""

_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_STITCHED_TAG = re.compile(rf"<(c[^,]*),([^,]*),\s*\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]\s*>")
_CAMERA_TAG = re.compile(rf"<(c[^,<>]*),\s*([^,]*?)\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*>")


class Place(NamedTuple):
    """A point: in pixels of a camera, or on 0-1000 of the whole picture."""

    x: float
    y: float


# -- pictures ----------------------------------------------------------------------------------------------------------------------


def stitch_views(views: Mapping[str, Image.Image], *, typeface: str = TYPEFACE) -> Image.Image:
    """Six views in one picture, each with its camera's name in its upper left corner.

    Args:
        views: pictures in mode RGB by camera.
        typeface: TrueType file of the names; the published code takes DejaVu Sans Bold.

    Returns:
        RGB of 2688x896 pixels.

    Raises:
        DataError: other cameras than the six.
        UsageError: the typeface isn't installed.
    """
    if set(views) != set(CAMERAS):
        raise DataError(f"expected views of {', '.join(CAMERAS)}, got {', '.join(views) or 'none'}")
    font = _font(typeface)
    whole = Image.new("RGB", (STITCHED.width, STITCHED.height))
    for camera in CAMERAS:
        view = views[camera].resize((VIEW.width, VIEW.height), Image.Resampling.BICUBIC)
        ImageDraw.Draw(view).text((0, 0), camera, NAME_COLOUR, font=font)
        column, row = _cell(camera)
        whole.paste(view, (column * VIEW.width, row * VIEW.height))
    return whole


def _font(typeface: str) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(typeface, NAME_PX)
    except OSError as error:
        if typeface != TYPEFACE:
            raise UsageError(f"typeface={typeface!r}: {error}") from error
        hint = "apt-get install fonts-dejavu-core, or name another typeface="
        raise UsageError(f"the cameras' names are written with {TYPEFACE}, which isn't installed: {hint}") from error


def _cell(camera: str) -> tuple[int, int]:
    """Column and row of a camera's view."""
    row, column = divmod(CAMERAS.index(camera), COLUMNS)
    return column, row


def stitch_frames(content: Mapping[str, Any], images: Path, out: Path, *, typeface: str = TYPEFACE) -> int:
    """Write the stitched picture of every frame of DriveLM's annotations, out/SCENE_FRAME.jpg; those that are there stay.

    Args:
        content: the annotations (v1_1_train_nus.json).
        images: folder that their paths start from; leading "../" are left out.
        out: folder to write to.
        typeface: as in `stitch_views`.

    Returns:
        How many were written.

    Raises:
        DataError: the annotations have another shape; names the scene and frame.
        PictureError: a view is missing or can't be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, key_frame in _frames(content):
        file = out / f"{name}.jpg"
        if file.exists():
            continue
        paths = {camera: str(path).removeprefix("../") for camera, path in _inside(key_frame, "image_paths", name).items()}
        views = {camera: load_picture(images / path, as_published=True) for camera, path in paths.items()}
        unfinished = file.with_suffix(".part")
        stitch_views(views, typeface=typeface).save(unfinished, format="JPEG")
        unfinished.replace(file)
        written += 1
    return written


# -- places ------------------------------------------------------------------------------------------------------------------------


def to_camera(camera: str, place: Place) -> Place:
    """Pixels of a camera of a place on 0-1000 of the whole picture; beside the camera's view, the nearest of its edges."""
    column, row = _cell(camera)
    x = (place.x / NORM * STITCHED.width - column * VIEW.width) / VIEW.width * CAMERA.width
    y = (place.y / NORM * STITCHED.height - row * VIEW.height) / VIEW.height * CAMERA.height
    return Place(min(CAMERA.width, max(0, x)), min(CAMERA.height, max(0, y)))


def to_stitched(camera: str, place: Place) -> Place:
    """The place on 0-1000 of the whole picture, whole numbers, of pixels of a camera."""
    column, row = _cell(camera)
    x = (place.x / CAMERA.width + column) * VIEW.width / STITCHED.width
    y = (place.y / CAMERA.height + row) * VIEW.height / STITCHED.height
    return Place(round(x * NORM), round(y * NORM))


def camera_tags(answer: str) -> str:
    """An answer with its tags in pixels of their cameras, as DriveLM's scoring wants them; blanks around it go.

    Clipped to the camera, one decimal, a clipped or exact edge without. What is no tag stays: an unknown camera, a space before its
    name, a number that isn't one of JSON.
    """

    def translated(tag: re.Match[str]) -> str:
        name, camera, x, y = tag.groups()
        if camera not in CAMERAS:
            return tag[0]
        place = to_camera(camera, Place(float(x), float(y)))
        plain = name.replace("<", "").replace(">", "")
        return f"<{plain},{camera},{_decimal(place.x, CAMERA.width)},{_decimal(place.y, CAMERA.height)}>"

    return _STITCHED_TAG.sub(translated, answer.strip())


def stitched_tags(text: str) -> str:
    """DriveLM's text with its tags on 0-1000 of the whole picture, as the model is trained; an unknown camera's tag stays."""

    def translated(tag: re.Match[str]) -> str:
        name, camera, x, y = tag.groups()
        if camera not in CAMERAS:
            return tag[0]
        place = to_stitched(camera, Place(float(x), float(y)))
        return f"<{name},{camera},[{place.x}, {place.y}]>"

    return _CAMERA_TAG.sub(translated, text)


def _decimal(value: float, edge: int) -> str:
    return f"{value:.0f}" if value in (0, edge) else str(round(value, 1))


# -- rows --------------------------------------------------------------------------------------------------------------------------


def drivelm_rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of DriveLM's annotations (v1_1_train_nus.json), one a question; the picture is `stitch_views` of its frame,
    SCENE_FRAME.jpg.

    The published rows (drivelm_train.jsonl) were not there to compare: their wording may differ.

    Raises:
        DataError: the annotations have another shape; names the scene and frame.
    """
    for name, key_frame in _frames(content):
        for task, questions in _inside(key_frame, "QA", name).items():
            if not isinstance(questions, list):
                raise DataError(f"{name}: expected a list of questions for {task!r}, got {shown(questions)}")
            for number, each in enumerate(questions):
                yield _row(each, name, task, number)


def _frames(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for scene, entry in content.items():
        for frame, key_frame in _inside(entry, "key_frames", scene).items():
            yield f"{scene}_{frame}", key_frame


def _row(each: Any, image: str, task: str, number: int) -> dict[str, Any]:
    name = f"{image}_{task}_{number}"
    if not isinstance(each, dict) or not isinstance(each.get("Q"), str) or not isinstance(each.get("A"), str):
        raise DataError(f"{name}: expected a question 'Q' and an answer 'A' as text, got {shown(each)}")
    question, answer = stitched_tags(each["Q"]), stitched_tags(each["A"])
    told = f"{TAG_PROMPT}\n" if question != each["Q"] or answer != each["A"] else ""
    size = {"width": STITCHED.width, "height": STITCHED.height}
    turns = [{"from": "human", "value": f"<image>\n{told}{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{image}.jpg"} | size | {"conversations": turns}


def _inside(entry: Any, key: str, where: str) -> Mapping[str, Any]:
    inside = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(inside, Mapping):
        raise DataError(f"{where}: expected an object {key!r}, got {shown(inside)}")
    return inside
