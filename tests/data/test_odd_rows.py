"""Odd data: each is one line with its place, or means what it says; never a traceback, a silent skip or a wrong label."""

import datetime
import json
import os

import pytest
from PIL import Image

from minimonkey.checkpoints.published import chat_template
from minimonkey.data.check import check
from minimonkey.data.conversation import Conversation, Medium, Message
from minimonkey.data.convert import convert_rows
from minimonkey.data.encoding import encode
from minimonkey.data.histogram import Histogram
from minimonkey.data.lengths import lengths
from minimonkey.data.page import pieces
from minimonkey.data.readers import read_conversations
from minimonkey.errors import DataError, UsageError
from tests.data.published import processor as published_processor


def row(image=None, question="Q", answer="A", **further):
    turns = {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
    return turns | further | ({} if image is None else {"image": image})


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(images / name)
    return images


def write(path, *rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


# -- rows --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (row("x" * 5000), "missing file", "is missing"),
        (row("a\nb.png"), "missing file", r"expected '.*a\\nb\.png'"),
        (row("\ud800.png"), "missing file", r"expected '.*\\ud800\.png'"),
        (row("."), "missing file", r"the image '\.' is a folder"),
        (row(0), "another form", "its image is 0"),
        (row(False), "another form", "its image is False"),
        (row({}), "another form", "its image is None"),
        (row(video={"bytes": b"\0" * 9}), "another form", "its video is b"),
        (row(question="\ud800"), "no Unicode", r"message 1 has '\\ud800', half a character"),
        (row(answer="<box>[[-5, 2, 3, 4]]</box>"), "boxes", "off the scale"),
        (row(answer="<box>[[1e5, 2, 3, 4]]</box>"), "boxes", "off the scale"),
    ],
)
def test_odd_rows_are_refused(wrong, kind, message, folder):
    with pytest.raises(DataError, match=rf"^f:1: .*{message}") as caught:
        Conversation.of(wrong, images=folder, where="f:1")
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed


def test_ranges_and_edges_of_boxes_are_fine(folder):
    Conversation.of(row(answer="<box>[[0, 0.5, 1000, 1e3]]</box> -5 <quad>10-20</quad>"))


def test_a_mark_is_in_one_message(folder):
    """Two messages that make a mark together have none."""
    turns = [{"from": who, "value": said} for who, said in (("human", "x <ima"), ("gpt", "A"), ("human", "ge> y"), ("gpt", "B"))]
    found = Conversation.of({"image": "a.png", "conversations": turns}, images=folder)
    assert found.messages[0].texts == ("", "\nx <ima")
    assert len(found.media) == 1


def test_blocks_take_the_pictures_beside_the_messages(folder):
    """The form of trl and of many data sets on the hub."""
    image = {"type": "image", "text": None}
    content = [image, {"type": "text", "text": "Q"}, image]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]
    found = Conversation.of({"images": ["b.png", "a.png"], "messages": messages}, images=folder)
    assert found.messages == (Message("user", ("", "\nQ", "")), Message("assistant", ("A",)))
    assert found.media == (Medium("image", str(folder / "b.png")), Medium("image", str(folder / "a.png")))
    with pytest.raises(DataError, match="a block without its image"):
        Conversation.of({"images": ["b.png"], "messages": messages}, images=folder)
    with pytest.raises(DataError, match="give each a block"):
        Conversation.of({"images": ["b.png"] * 3, "messages": messages}, images=folder)


# -- files -------------------------------------------------------------------------------------------------------------------------


def test_a_file_of_bad_lines_alone_is_reported_line_by_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{\n[\n")
    report = check(tmp_path / "rows.jsonl")
    assert dict(report.counts) == {"no JSON": 2}
    reason = "Expecting property name enclosed in double quotes, column 2"
    assert report.messages["no JSON"][0] == f"{tmp_path / 'rows.jsonl'}:1: no valid JSON ({reason})"


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "image": "b.png", "conversations": []}\n')
    with pytest.raises(DataError, match=":1: .*a key stands there twice, all are image, image, conv"):
        list(read_conversations(tmp_path / "rows.jsonl"))


def test_a_name_that_is_too_long():
    with pytest.raises(DataError, match="there is no such file"):
        list(read_conversations("x" * 300 + ".jsonl"))


@pytest.fixture
def table(tmp_path):
    """Write a Parquet file of two rows with a further column."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def make(column=None):
        columns = {"conversations": [row()["conversations"]] * 2} | ({} if column is None else {"more": column(pyarrow)})
        parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
        return tmp_path / "rows.parquet"

    return make


@pytest.mark.parametrize(
    "column",
    [
        lambda pa: pa.array([10**15, 2], pa.timestamp("s")),
        lambda pa: pa.Array.from_buffers(
            pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
        ),
    ],
    ids=["the year 31 million", "no UTF-8"],
)
def test_a_column_that_python_cant_hold(column, table):
    with pytest.raises(DataError, match=r"rows\.parquet: rows 1 to 2: the column 'more' can't be read"):
        list(read_conversations(table(column)))


def test_a_damaged_parquet_file_is_one_line(table):
    file = table()
    data = bytearray(file.read_bytes())
    data[4:8] = b"\xff" * 4
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"can't read .*rows\.parquet: ") as caught:
        list(read_conversations(file))
    assert "\n" not in str(caught.value)


def test_a_check_says_what_encode_would_refuse(tmp_path, folder):
    (folder / "clip").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "clip" / "1.png")
    file = write(tmp_path / "rows.jsonl", row("a.png", "<image><video>", video="clip"), row())
    assert dict(check(file, folder).counts) == {"pictures and videos": 1}
    broken = published_processor("internvl2-qwen2-56")
    own = broken.chat_template
    broken.chat_template = "{{ raise_exception('not for users') }}"
    try:
        report = check(write(tmp_path / "text.jsonl", row()), processor=broken)
    finally:
        broken.chat_template = own
    assert report.messages == {"other": [f"{tmp_path / 'text.jsonl'}:1: not for users"]}


# -- labels ------------------------------------------------------------------------------------------------------------------------

CHECKPOINTS = ("internvl2-qwen2-56", "minimonkey-internlm2-56", "phi3-tokenizer")
TEXTS = ("18.54", " two  words ", "\n\nbelow\n", "日本 é\u0301", "<|im_end|></s>", "\u0301x", "<box>[[1,2,3,4]]</box>", "😀")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("template", [None, "chatml", "internvl_zh"])
def test_labels_begin_where_a_prompt_ends(checkpoint, template):
    """Token by token: what stands before each answer is the prompt that `ask` gives, and the rest up to the separator is learnt."""
    made = published_processor(checkpoint)
    own = made.chat_template
    made.chat_template = own if template is None else chat_template(template)
    strips = made.chat_template == chat_template("internlm2-chat")
    try:
        for place, answer in enumerate(TEXTS):
            asked = [TEXTS[(place + step) % len(TEXTS)] for step in (3, 5)]
            said = [(asked[0], answer), (asked[1], "x" + answer)]
            turns = [{"from": who, "value": text} for pair in said for who, text in zip(("human", "gpt"), pair, strict=True)]
            one = Conversation.of({"conversations": turns})
            example = encode(one, made)
            ids, learns = example["input_ids"].tolist(), (example["labels"] != -100).tolist()
            edges = [at for at in range(len(ids)) if learns[at] and not learns[at - 1]]
            said = [(question.strip(), text.strip()) for question, text in said] if strips else said
            prompts = [
                made.tokenizer(made.prompt(question, history=said[:number])).input_ids for number, (question, _) in enumerate(said)
            ]
            assert edges == [len(prompt) for prompt in prompts]
            assert all(ids[: len(prompt)] == prompt for prompt in prompts)
            assert learns[-1]
            counted = lengths(one, made)
            assert (counted.tokens, counted.learnt) == (len(ids), sum(learns))
    finally:
        made.chat_template = own


@pytest.mark.parametrize("turns", [("gpt",), ("gpt", "human"), ("system", "gpt")])
def test_an_answer_that_nobody_asked_for_is_nothing_to_learn(turns):
    one = Conversation.of({"conversations": [{"from": who, "value": "text"} for who in turns]}, where="f:1")
    made = published_processor("internvl2-qwen2-56")
    message = "^f:1: the only answer stands before every question, where Hermes-2 leaves it out"
    with pytest.raises(DataError, match=message) as caught:
        encode(one, made)
    assert caught.value.kind == "no answer"


def test_rows_that_the_published_code_cant_read(folder):
    made = published_processor("internvl2-qwen2-56")
    data = (folder / "a.png").read_bytes()
    for wrong in (row({"bytes": data}), row([{"bytes": data}])):
        with pytest.raises(DataError, match="it reads files by their names, not"):
            encode(Conversation.of(wrong), made, as_published=True)
    with pytest.raises(DataError, match="nothing is learnt of it"):
        encode(Conversation.of({"conversations": [{"from": "gpt", "value": "A"}]}), made, as_published=True)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_page_keeps_the_spaces(checkpoint):
    made = published_processor(checkpoint)
    example = encode(Conversation.of(row(answer="not a dog 日本")), made)
    learnt = "".join(piece.text for piece in pieces(example, made) if piece.learnt)
    assert learnt.startswith("not a dog 日本<|")


def test_histograms_have_no_more_bars_than_asked_for():
    for low in range(0, 60, 7):
        for high in range(low, 400, 3):
            histogram = Histogram.of("x", [low, high])
            assert len(histogram.counts) <= 12
            assert sum(histogram.counts) == 2


# -- other forms -------------------------------------------------------------------------------------------------------------------


def test_paths_stay_as_they_are_written(tmp_path, folder):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(tmp_path / "real" / "x.png")
    (folder / "link").symlink_to(tmp_path / "real" / "deep")
    names = ["a.png", "link/../x.png", "../images/b.png", str(tmp_path / "real" / "x.png")]
    file = write(tmp_path / "rows.jsonl", *(row(name) for name in names))
    convert_rows(file, tmp_path / "new.json", images=folder)
    assert [each["image"] for each in json.loads((tmp_path / "new.json").read_text("utf-8"))] == names
    before, after = (list(read_conversations(each, folder)) for each in (file, tmp_path / "new.json"))
    assert [each.media for each in before] == [each.media for each in after]


def test_pictures_saved_beside_a_link_are_found(tmp_path, folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data = (folder / "a.png").read_bytes()
    rows = [row({"bytes": data, "path": None}), row({"bytes": data, "path": None})]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    done = convert_rows(tmp_path / "rows.parquet", tmp_path / "new.jsonl", images=tmp_path / "link", pictures=tmp_path / "saved")
    assert done == (2, 1)
    assert check(tmp_path / "new.jsonl", tmp_path / "link").rows == 2
    (saved,) = (tmp_path / "saved").iterdir()
    saved.write_bytes(data[:20])  # as an interrupted call may have left it
    convert_rows(tmp_path / "rows.parquet", tmp_path / "again.jsonl", images=tmp_path, pictures=tmp_path / "saved")
    assert [each.read_bytes() for each in (tmp_path / "saved").iterdir()] == [data]


@pytest.mark.parametrize("form", ["conversations", "messages"])
def test_a_mark_that_is_plain_text_isnt_made_a_mark(form, tmp_path, folder):
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What does <image> mean?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}]
    file = write(tmp_path / "rows.jsonl", {"messages": messages})
    with pytest.raises(DataError, match=":1: <image> is plain text in .* and would be read as a mark") as caught:
        convert_rows(file, tmp_path / "new.jsonl", images=folder, form=form)
    assert caught.value.kind == "marks"
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize(
    "values", [(1, "a"), ([1], {"a": 1}), ({}, {}), (10**30, 1), ("\ud800", "a")], ids=["mixed", "lists", "empty", "huge", "half"]
)
def test_values_that_make_no_column(values, tmp_path):
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "rows.jsonl", *(row(more=value) for value in values))
    with pytest.raises(DataError, match="the values of 'more' make no column of Parquet"):
        convert_rows(file, tmp_path / "new.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    for name in ("new.jsonl", "new.json"):
        convert_rows(file, tmp_path / name)
        assert [each.raw["more"] for each in read_conversations(tmp_path / name)] == list(values)


def test_values_that_json_hasnt(table, tmp_path):
    file = table(lambda pyarrow: pyarrow.array([datetime.date(2024, 5, 3), None]))
    with pytest.raises(DataError, match=r"rows\.parquet: row 1: the value of 'more' can't be written as JSON"):
        convert_rows(file, tmp_path / "new.jsonl")
    assert convert_rows(file, tmp_path / "new.parquet").rows == 2


def test_places_that_cant_be_written_to(tmp_path):
    file = write(tmp_path / "rows.jsonl", row())
    for name in ("x" * 300 + ".jsonl", "rows.jsonl/new.jsonl"):
        with pytest.raises(UsageError, match="can't write"):
            convert_rows(file, tmp_path / name)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.raises(UsageError, match="exists"):
        convert_rows(file, tmp_path / "link.jsonl")
    assert os.path.islink(tmp_path / "link.jsonl")
