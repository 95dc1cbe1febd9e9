"""Qwen's tokenizer, made of qwen.tiktoken: the ids of the published class, texts of any kind against the rule itself."""

import base64
import json
import re
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from minimonkey.checkpoints.families import register
from minimonkey.checkpoints.tiktoken import FILE, SPECIAL, monkey_tokenizer
from minimonkey.checkpoints.tokenizers import QWEN2_WORDS
from minimonkey.errors import CheckpointError, PromptError, UsageError
from minimonkey.processing.monkey import MonkeyTokenizer


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "monkey" / "checkpoint"


@pytest.fixture(scope="module")
def records(golden):
    return json.loads((golden / "monkey" / "tokenizer_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return monkey_tokenizer(folder, vocabulary=704, image_tokens=1280, model_max_length=8192)


@pytest.mark.parametrize("number", range(17))
def test_recorded_texts(tokenizer, records, number):
    case = records["cases"][number]
    assert tokenizer(case["text"]).input_ids == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


def test_ids_of_special_tokens_and_of_bytes(tokenizer, records):
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in records["special"]} == records["special"]
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (records["n_vocab"], records["eod_id"], 472)
    for piece in records["single_pieces"]:
        assert tokenizer.convert_tokens_to_ids(tokenizer.backend_tokenizer.id_to_token(piece["id"])) == piece["id"]
    spoken = {piece["value"]: piece["id"] for piece in records["single_pieces"] if 32 <= piece["value"] < 127}
    assert all(tokenizer(chr(value)).input_ids == [number] for value, number in spoken.items())


def test_a_batch_of_texts_with_and_without_pictures(tokenizer, records):
    named = next(case for case in records["cases"] if case["text"].startswith("<img>"))
    texts = [named["text"], "What is", f"{named['text']}<img>b</img>"]
    rows = tokenizer(texts).input_ids
    assert rows[:2] == [named["ids"], tokenizer("What is").input_ids]
    assert rows[2] == [*named["ids"], 686, ord("b"), *[688] * 1279, 687]
    padded = tokenizer(texts[:2], padding=True, return_tensors="pt")["input_ids"]
    assert padded[0].tolist() == named["ids"] and padded[1].tolist()[-2:] == rows[1][-2:]
    assert tokenizer(texts[0], return_tensors="pt")["input_ids"][0].tolist() == named["ids"]
    with pytest.raises(PromptError, match="the name of a picture has 1281 bytes; at most 1280 have room"):
        tokenizer(f"<img>{'x' * 1281}</img>")


def test_list_form(tokenizer, records):
    parts = [{"image": "images/scene_a.png"}, {"image": "images/scene_b.png"}, {"text": "Which picture has the larger red box?"}]
    parts += [{"ref": "the box", "box": "(10,20),(300,400)"}]
    assert tokenizer.from_list_format(parts) == records["from_list_format"]
    text = "<img>images/scene_a.png</img> see <ref>dog</ref><box>(1,2),(3,4)</box> ok"
    assert tokenizer.to_list_format(text) == records["to_list_format"]
    with pytest.raises(UsageError, match="a part of the list is .*sound"):
        tokenizer.from_list_format([{"sound": "a.wav"}])


def test_it_is_saved_and_read_again(tokenizer, records, tmp_path):
    register()
    tokenizer.save_pretrained(tmp_path)
    again = MonkeyTokenizer.from_pretrained(tmp_path)
    assert again.image_tokens == 1280
    for case in records["cases"]:
        assert again(case["text"]).input_ids == case["ids"]
        assert again.decode(case["ids"]) == case["decoded"]


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet="theandisWhat 0123\n'éß图\U0001f642.,", max_size=40) | st.text(max_size=30))
def test_any_text_as_the_rule_has_it(text):
    assert rule.tokenizer(text).input_ids == rule.encode(text)


class rule:
    """Of all neighbours those are joined whose joint has the lowest rank, the first if there are several; word by word."""

    tokenizer: MonkeyTokenizer
    ranks: dict[bytes, int]

    @classmethod
    def encode(cls, text: str) -> list[int]:
        ids = []
        for word in regex.findall(QWEN2_WORDS, unicodedata.normalize("NFC", text)):
            parts = [bytes([byte]) for byte in word.encode()]
            while len(parts) > 1:
                joints = [cls.ranks.get(one + two, 10**9) for one, two in zip(parts, parts[1:], strict=False)]
                if min(joints) == 10**9:
                    break
                place = joints.index(min(joints))
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            ids += [cls.ranks[part] for part in parts]
        return ids


@pytest.fixture(scope="module", autouse=True)
def _rule(tokenizer, folder):
    lines = (line.split() for line in (folder / FILE).read_text().splitlines())
    rule.tokenizer, rule.ranks = tokenizer, {base64.b64decode(piece): int(rank) for piece, rank in lines}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing; get the folder anew"),
        ("IQ== 0\nIg==", "is broken"),
        ("IQ== 0\n!! 1", "is broken"),
        ("IQ== 0\nIg== 2", "its ranks have holes, or it lacks single bytes"),
        ("IQ== 0\nIg== 1", "its ranks have holes, or it lacks single bytes"),
    ],
)
def test_broken_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(tmp_path / FILE))}: {message}"):
        monkey_tokenizer(tmp_path, vocabulary=704, image_tokens=1280, model_max_length=2048)


def test_more_tokens_than_the_model_has(folder):
    with pytest.raises(CheckpointError, match=f"{472 + len(SPECIAL)} tokens with special ones, the model has 500"):
        monkey_tokenizer(folder, vocabulary=500, image_tokens=1280, model_max_length=2048)
