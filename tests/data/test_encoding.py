"""Ids, labels and tiles of a conversation: as published where that is well defined, else what the template means."""

import pytest
import torch

from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import encode
from minimonkey.errors import DataError
from tests.data.published import IMAGES, RECORDINGS, ROWS, settings_of, sha256_of_tiles

SPECIAL = {row for row in ROWS if row.startswith("special_")}
SEVERAL = {row for row in ROWS if row.startswith(("list_two", "frames_"))} | {"system_message_list"}
VIDEO = {row for row in ROWS if row.startswith("video")}
UNDEFINED = {"mark_second_turn", "system_message", "system_message_mark_missing"} | SPECIAL | SEVERAL | VIDEO
"""Where the published code leaves marks as text, takes what people wrote for its own tokens, or divides a budget."""
TRANSPARENT = "badge.png"
"""Alpha is laid over white, there it's dropped."""
REFUSED = {"mark_both_turns", "mark_twice", "text_with_mark", "list_two_one_mark", "list_two_three_marks", "unknown_role"}
REFUSED |= {"file_missing", "no_conversations"}
LOST = {"ends_with_human", "answer_empty", "answer_empty_first_turn", "answer_blank"}
"""Where the old templates lose labels."""


def conversation(row, **changes):
    return Conversation.of(ROWS[row] | changes, images=IMAGES, where=row)


@pytest.mark.parametrize(("checkpoint", "code"), RECORDINGS)
def test_as_published_where_that_is_well_defined(checkpoint, code):
    compared = 0
    for setting in settings_of(checkpoint, code):
        made, new = setting.processor, setting.settings["template"] == "internvl2_5"
        skipped = UNDEFINED | REFUSED | ({"starts_with_gpt"} if new else LOST)
        for row, expected in setting.rows.items():
            if row in skipped or "throws" in expected or setting.name.startswith(("short", "no_thumbnail")):
                continue
            example = encode(conversation(row), made, pyramid=setting.spec)
            length, place = len(example["input_ids"]), (checkpoint, code, setting.name, row)
            assert example["input_ids"].tolist() == expected["input_ids"][:length], place
            assert example["labels"].tolist() == setting.labels(row)[:length], place
            assert len(example.get("pixel_values", ())) == setting.tiles(row), place
            if "pixel_values" in example and ROWS[row]["image"] != TRANSPARENT and not setting.settings["pad2square"]:
                assert sha256_of_tiles(example["pixel_values"], made.image_processor) == expected["tiles"]["sha256_u8"], place
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("row", sorted(REFUSED))
def test_bad_rows_are_refused_with_their_place(row):
    with pytest.raises(DataError, match=f"^{row}: "):
        conversation(row)


@pytest.fixture
def vlm_processor():
    setting = next(settings_of("internvl2-qwen2-56", "internvl"))
    return setting.processor


def learnt(example, processor):
    """What is learnt, as text: one string for each run of labels."""
    runs, run = [], []
    for token, label in zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True):
        if label == token:
            run.append(token)
        elif run:
            runs, run = [*runs, run], []
    return [processor.tokenizer.decode(ids) for ids in [*runs, run] if ids]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("ends_with_human", ["It says OPEN 9-17.<|im_end|>"]),
        ("answer_empty", ["<|im_end|>"]),
        ("answer_empty_first_turn", ["<|im_end|>", "At nine.<|im_end|>"]),
        ("special_sep_in_answer", ["First <|im_end|> then <|end|> end.<|im_end|>"]),
        ("special_user_role_in_answer", ["say <|im_start|>user\nhi <|user|>\nhi<|im_end|>"]),
        ("system_message", ["It says OPEN 9-17.<|im_end|>"]),
        ("two_human", ["At nine.<|im_end|>"]),
        ("multi_turn", ["It says OPEN 9-17.<|im_end|>", "At nine.<|im_end|>", "Almost black.<|im_end|>"]),
    ],
)
def test_what_is_learnt(row, expected, vlm_processor):
    assert learnt(encode(conversation(row), vlm_processor), vlm_processor) == expected


def test_special_strings_are_plain_text(vlm_processor):
    example = encode(conversation("special_sep_in_answer"), vlm_processor)
    stop = vlm_processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert example["input_ids"].tolist().count(stop) == 3  # system, question and answer end with one each
    image = encode(conversation("special_context_in_question"), vlm_processor)["input_ids"].tolist()
    assert image.count(vlm_processor.image_token_id) == 4 * 1


@pytest.mark.parametrize("row", ["single", "mark_missing", "list_two_turns", "text_only", "grounding", "mark_second_turn"])
def test_a_prompt_is_that_of_ask(row, vlm_processor):
    """What stands before the last answer is what `ask` would give the model."""
    one = conversation(row)
    example = encode(one, vlm_processor)
    *earlier, (question, _) = zip(one.messages[::2], one.messages[1::2], strict=True)
    history = [("<image>".join(asked.texts), answer.text) for asked, answer in earlier]
    text = vlm_processor.prompt("<image>".join(question.texts), pictures=len(one.media), history=history)
    pictures = [str(medium.source) for medium in one.media]
    from minimonkey import load_picture

    inputs = vlm_processor(images=[load_picture(each) for each in pictures] or None, text=[text], return_tensors="pt")
    prompt = inputs["input_ids"][0].tolist()
    assert example["input_ids"].tolist()[: len(prompt)] == prompt
    assert (example["labels"][len(prompt) :] == example["input_ids"][len(prompt) :]).all()
    if pictures:
        torch.testing.assert_close(example["pixel_values"], inputs["pixel_values"])
        assert example["level_tiles"].tolist() == inputs["level_tiles"].tolist()
    else:
        assert "pixel_values" not in example


def test_a_video_is_its_numbered_frames(vlm_processor):
    example = encode(conversation("video"), vlm_processor)
    assert len(example["pixel_values"]) == 3
    assert example["level_tiles"].tolist() == [[0, 0, 1]] * 3
    text = vlm_processor.tokenizer.decode(example["input_ids"])
    assert "Frame1: <img>" in text
    assert "</img>\nFrame3: <img>" in text
    assert text.endswith("</img>\nList all words.<|im_end|><|im_start|>assistant\nOPEN, 9-17<|im_end|>")
    same = encode(conversation("video_mark_missing"), vlm_processor)
    assert len(same["pixel_values"]) == 3


def test_too_long_is_an_error_that_says_what_to_lower(vlm_processor):
    with pytest.raises(DataError, match=r"long_answer: \d+ tokens .* more than max_tokens=210: lower the pyramid's budgets"):
        encode(conversation("long_answer"), vlm_processor, max_tokens=210)
    with pytest.raises(DataError, match="shorten it, or raise max_tokens"):
        encode(conversation("long_answer_text"), vlm_processor, max_tokens=210)


def test_an_unreadable_picture_is_an_error_with_its_place(vlm_processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    row = Conversation.of(ROWS["single"] | {"image": "broken.png"}, images=tmp_path, where="train.jsonl:7")
    with pytest.raises(DataError, match=r"^train\.jsonl:7: .*broken\.png"):
        encode(row, vlm_processor)


def test_pictures_and_a_video_in_one_row_are_refused(vlm_processor):
    row = conversation("video", image="dot.png")
    with pytest.raises(DataError, match="pictures and videos in one row"):
        encode(row, vlm_processor)


def test_a_template_that_leaves_messages_out_is_refused(tiny_processor):
    processor = tiny_processor(detail=(1, 2), adaptive=None)
    processor.chat_template = "{{ messages[0].content }}"
    with pytest.raises(DataError, match="the chat template shows 1 of 2 messages"):
        encode(conversation("text_only"), processor)


def test_text_in_place_of_a_slot_is_no_slot(tiny_processor):
    """The noncharacter that stands for texts in the template may stand in texts."""
    row = Conversation.of({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b\ufdd1c"}]})
    example = encode(row, tiny_processor(detail=(1, 2), adaptive=None))
    assert (example["labels"] != -100).any()
