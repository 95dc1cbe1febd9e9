"""Rows in both written forms, and what is wrong with them in one line each."""

import pytest

from minimonkey.data.conversation import Conversation, Medium, Message
from minimonkey.errors import DataError

ASKED = {"from": "human", "value": "Q"}
ANSWERED = {"from": "gpt", "value": "A"}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "clip/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"pixels")
    return tmp_path


def test_both_forms_mean_the_same(folder):
    published = {"id": 7, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nQ"}, ANSWERED]}
    blocks = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]
    messages = {"id": "7", "messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "A"}]}
    first, second = (Conversation.of(row, images=folder) for row in (published, messages))
    assert first == second
    assert first.messages == (Message("user", ("", "\nQ")), Message("assistant", ("A",)))
    assert first.media == (Medium("image", str(folder / "a.png")),)
    assert first.answers == ["A"]
    assert first.id == "7"


def test_missing_marks_stand_before_the_first_question(folder):
    row = {"image": ["a.png", "b.png"], "conversations": [{"from": "system", "value": "S"}, ASKED, ANSWERED]}
    assert Conversation.of(row, images=folder).messages[1] == Message("user", ("", "\n", "\nQ"))


def test_marks_take_pictures_and_videos_in_turn(folder):
    text = "<video> then <image>, <image>"
    row = {"image": ["a.png", "b.png"], "video": "clip", "conversations": [{"from": "human", "value": text}, ANSWERED]}
    conversation = Conversation.of(row, images=folder)
    assert conversation.messages[0].texts == ("", " then ", ", ", "")
    assert [medium.kind for medium in conversation.media] == ["video", "image", "image"]
    assert [medium.source for medium in conversation.media] == [str(folder / name) for name in ("clip", "a.png", "b.png")]


def test_marks_that_are_text(folder):
    row = {
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image> and <video>"}, {"from": "gpt", "value": "<image>"}],
    }
    conversation = Conversation.of(row, images=folder)
    assert [message.texts for message in conversation.messages] == [("", " and <video>"), ("<image>",)]


def test_pictures_of_a_parquet_file():
    row = {"image": {"bytes": b"pixels", "path": "gone.png"}, "conversations": [ASKED, ANSWERED]}
    assert Conversation.of(row).media == (Medium("image", b"pixels"),)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ([], "another form", "is no row: expected an object"),
        ({}, "another form", "its messages are None: expected a list of messages"),
        ({"conversations": []}, "another form", r"its conversations are \[\]"),
        ({"conversations": [ASKED]}, "no answer", "nothing is answered"),
        ({"conversations": [ASKED, "A"]}, "another form", "message 2 is 'A': expected"),
        ({"conversations": [ASKED, {"from": "gpt", "value": 3}]}, "another form", "message 2 says 3: expected text"),
        ({"conversations": [ASKED, {"from": "assistant", "value": "A"}]}, "unknown role", "expected system, human, gpt"),
        ({"messages": [{"role": "human", "content": "Q"}]}, "unknown role", "expected system, user, assistant"),
        ({"conversations": [ASKED, {"from": "system", "value": "S"}, ANSWERED]}, "another form", "can only be the first"),
        ({"conversations": [ASKED, ANSWERED], "messages": []}, "another form", "expected one of them"),
        ({"image": "c.png", "conversations": [ASKED, ANSWERED]}, "missing file", "the image 'c.png' is missing: expected"),
        ({"image": 3, "conversations": [ASKED, ANSWERED]}, "another form", "its image is 3: expected a path"),
        ({"image": "https://x/y.png", "conversations": [ASKED, ANSWERED]}, "an address", "addresses aren't fetched"),
        ({"image": "a\0b", "conversations": [ASKED, ANSWERED]}, "another form", "expected a path"),
        ({"image": "a.png", "images": ["b.png"], "conversations": [ASKED, ANSWERED]}, "another form", "has image and images"),
        ({"imgae": "a.png", "conversations": [ASKED, ANSWERED]}, "unknown key", "'imgae': expected 'image'"),
        ({"conversation": [ASKED, ANSWERED]}, "unknown key", "'conversation': expected 'conversations'"),
        ({"conversations": [{"from": "human", "value": "<image>"}, ANSWERED]}, "marks", "1 <image> marks for 0 images"),
        (
            {"image": "a.png", "conversations": [{"from": "human", "value": "<image><image>"}, ANSWERED]},
            "marks",
            "2 <image> marks for 1 images",
        ),
        ({"conversations": [ASKED, {"from": "gpt", "value": "<box>[[1, 2, 1200, 4]]</box>"}]}, "boxes", "expected 0 to 1000"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}, {"role": "assistant", "content": "A"}]},
            "another form",
            "expected text, image or video",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "A"}]},
            "another form",
            "a block without its image",
        ),
        (
            {
                "image": "a.png",
                "messages": [
                    {"role": "user", "content": [{"type": "image", "image": "b.png"}]},
                    {"role": "assistant", "content": "A"},
                ],
            },
            "another form",
            "name each once",
        ),
    ],
)
def test_what_is_wrong(row, kind, message, folder):
    with pytest.raises(DataError, match=rf"^train\.jsonl:3: .*{message}") as caught:
        Conversation.of(row, images=folder, where="train.jsonl:3")
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
