"""Six cameras in one picture and places back in them, against the published code; rows of DriveLM's annotations."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minimonkey.data.domains.driving import (
    CAMERAS,
    STITCHED,
    TAG_PROMPT,
    TYPEFACE,
    Place,
    camera_tags,
    drivelm_rows,
    stitch_frames,
    stitch_views,
    stitched_tags,
    to_camera,
    to_stitched,
)
from minimonkey.errors import DataError, PictureError, UsageError
from minimonkey.pyramid import Grid, PyramidSpec

GOLDEN = Path(__file__).parents[2] / "golden" / "training"
RECORD = json.loads((GOLDEN / "domain" / "domain.json").read_text())
OURS = str(Path(__file__).parents[3] / "src" / "minimonkey" / "synthetic" / "material" / "fonts" / "AerialBd.ttf")


@pytest.fixture(scope="module")
def views():
    return {camera: Image.open(GOLDEN / file).convert("RGB") for camera, file in RECORD["stitching"]["sources"].items()}


def part(picture: Image.Image, view: dict) -> np.ndarray:
    top, left = view["row"] * 448, view["column"] * 896
    return np.asarray(picture)[top : top + 448, left : left + 896]


def test_views_are_pasted_as_published(views):
    record = RECORD["stitching"]
    picture = stitch_views(views, typeface=OURS)
    assert list(picture.size) == record["size"] and picture.mode == "RGB"
    for view in record["views"].values():
        pixels = part(picture, view)[64:448]
        assert pixels.mean() == pytest.approx(view["mean_u8_rows_64_to_448"], abs=1e-6)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == view["sha256_u8_rows_64_to_448"]


@pytest.mark.debian
def test_names_are_written_as_published(views):
    picture = stitch_views(views)
    for view in RECORD["stitching"]["views"].values():
        rows, columns = np.nonzero((part(picture, view) == [255, 0, 255]).all(-1))
        assert len(rows) == pytest.approx(view["text"]["n_pixels_magenta"], rel=0.02)
        box = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert np.abs(np.subtract(box, view["text"]["box"])).max() <= 2


def test_every_frame_is_written_once(views, tmp_path):
    (tmp_path / "nuscenes").mkdir()
    for camera, view in views.items():
        view.save(tmp_path / "nuscenes" / f"{camera}.png")
    paths = {camera: f"../nuscenes/{camera}.png" for camera in CAMERAS}
    content = {"scene1": {"key_frames": {"frame9": {"image_paths": paths}, "frame10": {"image_paths": paths}}}}
    assert stitch_frames(content, tmp_path, tmp_path / "stitch", typeface=OURS) == 2
    written = tmp_path / "stitch" / RECORD["stitching"]["file_name"]
    picture = Image.open(written)
    assert (picture.format, list(picture.size)) == ("JPEG", RECORD["stitching"]["size"])
    assert np.asarray(picture).mean() == pytest.approx(np.asarray(stitch_views(views, typeface=OURS)).mean(), abs=0.5)
    assert stitch_frames(content, tmp_path, tmp_path / "stitch", typeface=OURS) == 0
    (tmp_path / "nuscenes" / "CAM_BACK.png").unlink()
    written.unlink()
    with pytest.raises(PictureError, match=r"CAM_BACK\.png"):
        stitch_frames(content, tmp_path, tmp_path / "stitch", typeface=OURS)
    assert sorted(file.name for file in (tmp_path / "stitch").iterdir()) == ["scene1_frame10.jpg"]


def test_twelve_tiles_and_a_thumbnail():
    pyramid = PyramidSpec(detail=(1, 12), adaptive=None).plan(STITCHED)
    record = RECORD["stitching"]["tiles_of_12"]
    assert pyramid.tile_count == record["n"] and pyramid.detail.grid == Grid(*record["grid"])


def test_a_typeface_that_is_not_there_is_named(views, monkeypatch):
    def missing(*_):
        raise OSError("cannot open resource")

    monkeypatch.setattr("minimonkey.data.domains.driving.ImageFont.truetype", missing)
    with pytest.raises(UsageError, match=f"{TYPEFACE}, which isn't installed: apt-get install fonts-dejavu-core"):
        stitch_views(views)
    with pytest.raises(UsageError, match="typeface='none.ttf': cannot open resource"):
        stitch_views(views, typeface="none.ttf")


def test_all_six_cameras_are_needed(views):
    with pytest.raises(DataError, match="expected views of CAM_FRONT_LEFT, .* got CAM_FRONT"):
        stitch_views({"CAM_FRONT": views["CAM_FRONT"]})


@pytest.mark.parametrize("case", RECORD["c_tags"]["cases"], ids=lambda case: case["prediction"])
def test_recorded_tags(case):
    assert camera_tags(case["prediction"]) == case["processed"]


@given(st.sampled_from(CAMERAS), st.floats(0, 1600), st.floats(0, 900))
def test_there_and_back(camera, x, y):
    """Within the grid of whole thousandths: 4.8 pixels of a camera across, 1.8 down; half of it each way."""
    back = to_camera(camera, to_stitched(camera, Place(x, y)))
    assert abs(back.x - x) <= 2.4 + 1e-6 and abs(back.y - y) <= 0.9 + 1e-6


def test_tags_for_training():
    text = "What is <c1,CAM_FRONT,800.0,450.0>? And <c2, CAM_BACK_RIGHT, 1600, 900>, <c3,CAM_SIDE,1.0,2.0>?"
    assert stitched_tags(text) == "What is <c1,CAM_FRONT,[500, 250]>? And <c2,CAM_BACK_RIGHT,[1000, 1000]>, <c3,CAM_SIDE,1.0,2.0>?"
    assert camera_tags("<c1,CAM_FRONT,[500, 250]>") == "<c1,CAM_FRONT,800.0,450.0>"


def test_rows_of_drivelm():
    tagged = {"Q": "What does <c1,CAM_FRONT,800.0,450.0> do?", "A": "It turns."}
    frame = {"QA": {"perception": [tagged], "planning": [{"Q": "Which way?", "A": "Left."}], "behavior": []}}
    first, second = drivelm_rows({"s1": {"key_frames": {"f9": frame}}})
    assert first == {
        "id": "s1_f9_perception_0",
        "image": "s1_f9.jpg",
        "width": 2688,
        "height": 896,
        "conversations": [
            {"from": "human", "value": f"<image>\n{TAG_PROMPT}\nWhat does <c1,CAM_FRONT,[500, 250]> do?"},
            {"from": "gpt", "value": "It turns."},
        ],
    }
    assert [turn["value"] for turn in second["conversations"]] == ["<image>\nWhich way?", "Left."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"s": []}, "s: expected an object 'key_frames', got None"),
        ({"s": {"key_frames": {"f": {"QA": 3}}}}, "s_f: expected an object 'QA', got 3"),
        ({"s": {"key_frames": {"f": {"QA": {"p": {}}}}}}, "s_f: expected a list of questions for 'p', got {}"),
        ({"s": {"key_frames": {"f": {"QA": {"p": [{"Q": "?"}]}}}}}, "s_f_p_0: expected a question 'Q' and an answer 'A' as text"),
    ],
)
def test_annotations_of_another_shape_are_refused(content, message):
    with pytest.raises(DataError) as error:
        list(drivelm_rows(content))
    assert message in str(error.value)
