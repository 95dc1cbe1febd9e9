"""Every text comes back as it was."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from minimonkey.training.nano.character_tokenizer import SPECIAL_TOKENS, character_tokenizer

TOKENIZER = character_tokenizer(" abcxyz€ä\n")


@given(st.text())
def test_any_text_comes_back_exactly(text):
    ids = TOKENIZER(text, split_special_tokens=True).input_ids
    assert TOKENIZER.decode(ids) == unicodedata.normalize("NFC", text)


@given(st.text(alphabet="ab <>|/imgdref_pad\n€ A0x41", max_size=60))
def test_text_that_looks_like_tokens_comes_back_exactly(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_an_id_a_character_then_bytes():
    assert len(TOKENIZER) == len(SPECIAL_TOKENS) + 256 + len(" abcxyz€ä\n")
    first = len(SPECIAL_TOKENS) + 256
    assert TOKENIZER("ab €").input_ids == [first + 1, first + 2, first, first + 7]
    assert TOKENIZER("a\u0308").input_ids == [first + 8]  # one character in NFC
    assert TOKENIZER("漢").input_ids == [len(SPECIAL_TOKENS) + byte for byte in "漢".encode()]
    assert TOKENIZER.decode(TOKENIZER("é漢😀<0x41>").input_ids) == "é漢😀<0x41>"


def test_special_tokens_are_one_id_each_and_skipped_on_request():
    assert TOKENIZER("".join(SPECIAL_TOKENS)).input_ids == list(range(len(SPECIAL_TOKENS)))
    assert TOKENIZER.decode(TOKENIZER("a<|im_end|>  b<pad>").input_ids, skip_special_tokens=True) == "a  b"
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token, TOKENIZER.bos_token) == ("<|im_end|>", "<pad>", None)
    names = ("start_image_token", "end_image_token", "context_image_token")
    assert [getattr(TOKENIZER, name) for name in names] == ["<img>", "</img>", "<IMG_CONTEXT>"]
    assert [getattr(TOKENIZER, f"{name}_id") for name in names] == [3, 4, 5]


def test_batches_are_padded_on_the_left():
    batch = TOKENIZER(["a", "abc"], padding=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch.input_ids[0][:2] == [TOKENIZER.pad_token_id] * 2
    assert batch.attention_mask == [[0, 0, 1], [1, 1, 1]]


def test_a_saved_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    text = "a<|im_end|>  ä€<IMG_CONTEXT>漢"
    assert again(text).input_ids == TOKENIZER(text).input_ids
    assert again.decode(again(text).input_ids) == text
    assert again.context_image_token_id == 5
    assert again.padding_side == "left"


def test_characters_twice_count_once():
    assert len(character_tokenizer("aab")) == len(character_tokenizer("ab"))
    with pytest.raises(TypeError):
        character_tokenizer(None)
