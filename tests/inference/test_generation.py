"""One run of the model: what it writes, as a whole and in pieces."""

import numpy as np
import pytest

from minimonkey.inference import VisionLanguageModel
from minimonkey.inference.answer import boxes_of
from minimonkey.pyramid import Box, Size


def choosing(vlm, tokens: list[str]) -> None:
    """Make the model write these tokens, whatever it is asked."""
    ids = vlm.processor.tokenizer.convert_tokens_to_ids([*tokens, vlm.processor.tokenizer.eos_token])
    assert vlm.processor.tokenizer.unk_token_id not in ids
    steps = iter(ids)

    def write(module, arguments, output):
        output.logits[:] = 0
        output.logits[:, -1, next(steps)] = 4

    vlm.model.register_forward_hook(write)


BYTES = ["<0x36>", "<0x3E>"]
"""6 and >, as bytes."""


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (BYTES, "6>"),
        ([*BYTES, "<0xE2>"], "\ufffd" * 3),
        ([*BYTES, "<ref>", "<0xE2>"], "\ufffd" * 3),
        (["<0xE2>", "<ref>", "<0x82>", "<0xAC>", "a"], "€a"),
        (["a", "<ref>", "b", "</ref>"], "ab"),
    ],
)
def test_pieces_are_the_whole(tiny_model, tiny_processor, tokens, text):
    """Bytes before and after a special token are one run in the text; a run with a byte too many is no text at all."""
    vlm = VisionLanguageModel(tiny_model(), tiny_processor())
    choosing(vlm, tokens)
    assert "".join(vlm.stream([], "?")) == text
    vlm = VisionLanguageModel(tiny_model(), tiny_processor())
    choosing(vlm, tokens)
    assert vlm.ask([], "?").text == text


def test_boxes_are_those_of_one_picture(tiny_model, tiny_processor):
    """Nothing in the text tells which of several pictures a box is of."""
    tokens = ["<box>", *"[[500,0,1000,1000]]", "</box>"]
    for pictures, boxes in ((1, [Box(20, 0, 40, 30)]), (2, []), (0, [])):
        vlm = VisionLanguageModel(tiny_model(), tiny_processor())
        choosing(vlm, tokens)
        answer = vlm.ask([np.zeros((30, 40, 3), np.uint8)] * pictures, "Where?")
        assert (answer.boxes, len(answer.pyramids)) == (boxes, pictures)
        assert boxes_of(vlm.processor.decode(answer.token_ids), Size(30, 40)) == [Box(20, 0, 40, 30)]
