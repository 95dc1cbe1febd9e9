"""A whole file looked at: what is wrong, by kind; lengths as `encode` has them; pages, bars, other forms."""

import json

import pytest
from PIL import Image

from minimonkey.data.check import check
from minimonkey.data.conversation import Conversation
from minimonkey.data.convert import convert_rows
from minimonkey.data.encoding import NOT_LEARNT, encode
from minimonkey.data.histogram import Histogram
from minimonkey.data.lengths import lengths
from minimonkey.data.page import GROUNDS, draw_page, pieces
from minimonkey.data.readers import read_conversations
from minimonkey.data.rendered import write_documents
from minimonkey.errors import DataError, UsageError
from tests.data.published import IMAGES, ROWS, settings_of


@pytest.fixture(scope="module")
def processor():
    return next(settings_of("internvl2-qwen2-56", "internvl")).processor


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_recorded_rows_by_kind(tmp_path, processor):
    file = write_rows(tmp_path / "rows.jsonl", ROWS.values())
    report = check(file, IMAGES)
    assert dict(report.counts) == {"marks": 5, "unknown role": 1, "missing file": 1, "another form": 1}
    assert report.rows == 52
    assert report.pictures == 9  # five, three frames, and these as a video
    lines = list(report.lines())
    assert lines[0] == "5 rows: marks"
    assert lines[1].startswith(f"  {file}:10: 2 <image> marks for 1 images")
    assert lines[-1] == "52 rows are fit to train on, 8 are not; 9 pictures and videos were read"
    longer = check(file, IMAGES, processor=processor, max_tokens=210)
    assert longer.counts["too long"] > 5
    assert "raise max_tokens" in longer.messages["too long"][0]


def test_unreadable_pictures_are_found(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    row = {"image": "a.png", "conversations": ROWS["single"]["conversations"]}
    report = check(write_rows(tmp_path / "rows.jsonl", [row] * 7), tmp_path)
    assert dict(report.counts) == {"unreadable picture": 7}
    assert report.pictures == 0
    assert len(report.messages["unreadable picture"]) == 5
    assert list(report.lines())[-2] == "  ... and 2 more"


@pytest.mark.parametrize("name", ["single", "list_two_turns", "text_only", "video", "grounding", "answer_empty", "chinese"])
def test_lengths_are_those_of_the_example(name, processor):
    row = Conversation.of(ROWS[name], images=IMAGES)
    example = encode(row, processor)
    counted = lengths(row, processor)
    assert counted.tokens == len(example["input_ids"])
    assert counted.tiles == len(example.get("pixel_values", ()))
    assert counted.learnt == int((example["labels"] != NOT_LEARNT).sum())


def test_pictures_lie_on_their_side(tmp_path, processor):
    """EXIF says that it is upright the other way: counts are those of the upright picture."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (300, 100)).save(tmp_path / "a.jpg", exif=exif)
    row = Conversation.of(ROWS["single"] | {"image": "a.jpg"}, images=tmp_path)
    spec = {"detail": (1, 6), "adaptive": None}
    assert lengths(row, processor, spec).tokens == len(encode(row, processor, pyramid=spec)["input_ids"])
    assert encode(row, processor, pyramid=spec)["level_tiles"].tolist() == [[3, 0, 1]]


def test_histogram():
    histogram = Histogram.of("tokens", [0, 3, 3, 11, 29])
    assert histogram.edges == (0, 5, 10, 15, 20, 25, 30)
    assert histogram.counts == (3, 0, 1, 0, 0, 1)
    assert histogram.summary == "tokens: 0 to 29, half up to 3, 46 in all"
    lines = list(histogram.lines())
    assert lines[1].split() == ["0", "-", "4", "#" * 40, "3"]
    assert Histogram.of("one", [7, 7]).counts == (2,)
    assert histogram.draw().width == 900
    with pytest.raises(UsageError, match="no values"):
        Histogram.of("none", [])


def test_pieces_of_a_page(processor):
    row = Conversation.of(ROWS["chinese"], images=IMAGES)
    example = encode(row, processor)
    found = pieces(example, processor)
    learnt = "".join(piece.text for piece in found if piece.learnt)
    assert learnt == ROWS["chinese"]["conversations"][1]["value"] + "<|im_end|>"
    images = [piece for piece in found if piece.is_picture]
    assert [piece.text for piece in images] == [f"<IMG_CONTEXT> x {4 * len(example['pixel_values'])}"]


def test_a_page_shows_what_is_learnt(processor):
    page = draw_page(Conversation.of(ROWS["multi_turn"], images=IMAGES), processor)
    colours = {colour: count for count, colour in page.getcolors(1 << 24)}
    assert page.width == 1000
    assert all(colours.get(ground, 0) > 500 for ground in GROUNDS)


def test_convert_there_and_back(tmp_path):
    good = [row for row in ROWS.values() if row["id"] in ("single", "list_two_turns", "text_only", "grounding", "video")]
    source = write_rows(tmp_path / "rows.jsonl", [good[0] | {"width": 12}, *good[1:]])
    there = convert_rows(source, tmp_path / "messages.parquet", form="messages", images=IMAGES)
    assert (there.rows, there.pictures) == (5, 0)
    back = convert_rows(tmp_path / "messages.parquet", tmp_path / "back.jsonl", images=IMAGES)
    assert back.rows == 5
    first, second = (list(read_conversations(tmp_path / name, IMAGES)) for name in ("rows.jsonl", "back.jsonl"))
    assert first == [row.__class__(**(vars(row) | {"where": other.where})) for row, other in zip(second, first, strict=True)]
    assert json.loads((tmp_path / "back.jsonl").read_text("utf-8").splitlines()[0])["width"] == 12


def test_synthdog(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data = (IMAGES / "poster.png").read_bytes()
    truth = json.dumps({"gt_parse": {"text_sequence": "OPEN 9-17"}})
    parquet.write_table(
        pyarrow.Table.from_pylist([{"image": {"bytes": data, "path": None}, "ground_truth": truth}]), tmp_path / "dog.parquet"
    )
    done = convert_rows(tmp_path / "dog.parquet", tmp_path / "out" / "dog.jsonl", images=tmp_path, pictures=tmp_path / "pictures")
    assert done == (1, 1)
    (row,) = read_conversations(tmp_path / "out" / "dog.jsonl", tmp_path)
    assert row.answers == ["OPEN 9-17"]
    assert check(tmp_path / "out" / "dog.jsonl", tmp_path).rows == 1


def test_convert_leaves_nothing_half_done(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [ROWS["single"], ROWS["unknown_role"]])
    with pytest.raises(DataError, match=":2: message 1 is from"):
        convert_rows(source, tmp_path / "new.jsonl", images=IMAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    with pytest.raises(UsageError, match="exists"):
        convert_rows(source, source, images=IMAGES)
    with pytest.raises(UsageError, match="rows are written to"):
        convert_rows(source, tmp_path / "new.csv", images=IMAGES)


def test_rendered_documents_are_rows(tmp_path, processor):
    asked = write_documents(tmp_path / "documents", 2, kind="receipt", seed=5)
    report = check(tmp_path / "documents" / "rows.jsonl", tmp_path / "documents" / "images", processor=processor, max_tokens=20_000)
    assert (report.rows, report.bad_rows, report.pictures) == (2, 0, 2)
    rows = list(read_conversations(tmp_path / "documents" / "rows.jsonl", tmp_path / "documents" / "images"))
    assert sum(len(row.answers) for row in rows) == asked
    with pytest.raises(UsageError, match="exists: name another folder"):
        write_documents(tmp_path / "documents", 1)
