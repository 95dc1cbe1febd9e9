"""Every recorded row: the same ids, labels and tiles, or an error where the published code throws."""

import pytest

from minimonkey.data.conversation import Conversation
from minimonkey.data.encoding import encode
from minimonkey.data.published import published_example
from minimonkey.errors import DataError
from tests.data.published import IMAGES, RECORDINGS, ROWS, processor, recorded, settings_of, sha256_of_tiles


@pytest.mark.parametrize(("checkpoint", "code"), RECORDINGS)
def test_every_row_under_every_setting(checkpoint, code):
    pad = recorded(checkpoint, code)["pad_token_id"]
    for setting in settings_of(checkpoint, code):
        made = setting.processor
        for row, expected in setting.rows.items():
            place = (checkpoint, code, setting.name, row)
            limits = {"max_tokens": setting.settings["max_seq_length"], "pad_to_square": setting.settings["pad2square"]}
            if "throws" in expected:
                with pytest.raises(DataError, match="the published code fails here"):
                    published_example(ROWS[row], made, images=IMAGES, pyramid=setting.spec, **limits)
                continue
            example = published_example(ROWS[row], made, images=IMAGES, pyramid=setting.spec, **limits)
            length = len(example["input_ids"])
            assert example["input_ids"].tolist() == expected["input_ids"][:length], place
            assert set(expected["input_ids"][length:]) <= {pad}, place
            assert example["labels"].tolist() == setting.labels(row)[:length], place
            pixels = example.get("pixel_values")
            assert (0 if pixels is None else len(pixels)) == setting.tiles(row), place
            if pixels is not None:
                assert sha256_of_tiles(pixels, made.image_processor) == expected["tiles"]["sha256_u8"], place


def test_encode_says_so_too():
    setting = next(settings_of("internvl2-qwen2-56", "internvl"))
    row = Conversation.of(ROWS["ends_with_human"], images=IMAGES)
    example = encode(row, setting.processor, pyramid=setting.spec, as_published=True)
    assert set(example["labels"].tolist()) == {-100}


def test_another_template_has_no_published_rule():
    setting = next(settings_of("internvl2-qwen2-56", "internvl"))
    made = setting.processor
    made.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(DataError, match="as_published needs one of the chat templates Hermes-2"):
        published_example(ROWS["single"], made, images=IMAGES)
    processor.cache_clear()
