"""Pictures and text as TinyGPT-V gets them: one square a picture, 32 image tokens, and the forms of prompts that its code has.

Sources: `blip_processors.py`, `conversation.py`, `minigpt_base.py`, `demo_v2.py`, `train_configs/` of DLYuanGod/TinyGPT-V. Knows
no model and no device.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from minimonkey.errors import PromptError, PyramidError, UsageError, unknown
from minimonkey.processing.box_notation import BRACES
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import IMAGE_MARK, MiniMonkeyProcessor, _make_breakable
from minimonkey.processing.turns import History, turns_of
from minimonkey.pyramid import Box, PyramidSpec, Size

IMAGE_TOKEN = "<ImageHere>"
"""Where published prompts have a picture. Their code cuts the text there; here it is a token, behind those of Phi-2."""
PICTURE = f"<Img>{IMAGE_TOKEN}</Img>"
"""A picture in a question; what encloses it is text."""
END = "###"
"""What ends an answer."""
BEGIN_OF_TEXT = "<|endoftext|>"
"""Phi-2's one special token, which stands before each question in training, and never in evaluation."""
TASKS = ("[vqa]", "[caption]", "[refer]", "[identify]", "[grounding]", "[detection]")
"""What a question of stage 4 may begin with, as plain text. Behind [identify] stands a place, as `place_of` writes it."""


BORDER = "\ufdd2"
"""Between a question and its answer, which are encoded apart: the tokenizer cuts text there and leaves it out. A noncharacter."""


@dataclass(frozen=True)
class Form:
    """How a conversation is written."""

    question_start: str
    answer_start: str
    answer_end: str = END
    question_end: str = ""
    begin: str = ""
    """Before the first question, behind a system message."""
    system: str = ""
    """The system message where none is given."""
    border: str = BORDER
    """Before each answer that is there: in training they are encoded by themselves."""
    spaced: bool = False
    """Whether questions end with a space where there is a picture, as the datasets of stage 4 write them."""
    pictures_alone: bool = False
    """Whether pictures stand alone, without the question and what encloses them."""

    @cached_property
    def template(self) -> str:
        """The Jinja source of the form."""
        return f"{{%- set form = {json.dumps(dataclasses.asdict(self))} -%}}\n{_TEMPLATE.read_text(encoding='utf-8')}"


_TEMPLATE = Path(__file__).parent / "templates" / "tinygptv.jinja"
_EVALUATION = Form(begin=END, question_start="Human: ", question_end=END, answer_start="Assistant: ")
FORMS = {
    "evaluation": _EVALUATION,
    "demo": Form(question_start="<s>[INST] ", answer_start=" [/INST]", answer_end="", border=""),
    "demo-224": dataclasses.replace(
        _EVALUATION,
        border="",
        system="Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
        "Please answer my questions.",
    ),
    "stage-1": Form(question_start=BEGIN_OF_TEXT, answer_start="", answer_end="\n", pictures_alone=True),
    "stage-3": Form(question_start=f"{BEGIN_OF_TEXT}{END}Human: ", answer_start=f" {END}Assistant: "),
    "stage-4": Form(question_start=f"{BEGIN_OF_TEXT}[INST] ", answer_start=" [/INST]", spaced=True),
}
"""The published forms: of the evaluation scripts, of the demo of stage 4 and that of the stages before, and of training. Stage 2 is
trained as stage 1."""


class TinyGPTVImageProcessor(MiniMonkeyImageProcessor):
    """Pictures to `pixel_values` of one square each, normalised as CLIP's; a pyramid of several tiles is possible, not trained.

    `pyramid={"tile_px": 224}`, here or in a call, asks for pictures of 224 px as stages 1 to 3 had: the network takes any multiple
    of `patch_px`. Raises PyramidError for another side.
    """

    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    patch_px = 14

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("pyramid") is None:
            side = (kwargs.get("size") or self.size)["height"]
            kwargs["pyramid"] = PyramidSpec.plain(1, 1, tile_px=side)
        super().__init__(**kwargs)

    def spec_for(self, settings: Mapping[str, Any]) -> PyramidSpec:
        own, pyramid = self.spec, settings.get("pyramid")
        side, fields = own.tile_px, dataclasses.asdict(pyramid) if isinstance(pyramid, PyramidSpec) else pyramid
        if isinstance(fields, Mapping) and "tile_px" in fields:
            if isinstance(pyramid, Mapping) or fields["tile_px"] != PyramidSpec.tile_px:  # a spec's default is the model's, as ever
                side = fields["tile_px"]
            settings = {**settings, "pyramid": {**fields, "tile_px": own.tile_px}}
        spec = dataclasses.replace(super().spec_for(settings), tile_px=side)
        if spec.tile_px % self.patch_px:
            raise PyramidError(
                f"tile_px={spec.tile_px}: expected a multiple of {self.patch_px}, as 448 (stage 4) or 224 (stages 1 to 3)"
            )
        return spec


class TinyGPTVProcessor(MiniMonkeyProcessor):
    """Image processor, tokenizer and prompt form in one. A prompt has one picture at most, as in all of its training.

    Text for `processor(images, text)` has a published prompt's `<ImageHere>`, or `<image>`, where the picture stands.
    """

    box_notation = BRACES

    def __init__(self, image_processor=None, tokenizer=None, chat_template: str | None = None, image_seq_length: int = 32) -> None:
        """`image_seq_length` is the number of image tokens a tile; without a `chat_template` it is that of the evaluation."""
        if not isinstance(image_processor, TinyGPTVImageProcessor):
            image_processor = TinyGPTVImageProcessor(**image_processor.to_dict())
        chat_template = chat_template or FORMS["evaluation"].template
        super(MiniMonkeyProcessor, self).__init__(image_processor, self.prepared(tokenizer), chat_template=chat_template)
        self.image_seq_length, self.image_token = image_seq_length, IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        tokenizer.padding_side = "left"
        _make_breakable(tokenizer)

    @staticmethod
    def prepared(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Phi-2's tokenizer with a token for pictures, its only special token as that for padding too, and borders. In place."""
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        backend = tokenizer.backend_tokenizer
        if len(backend.pre_tokenizer.pre_tokenize_str(f"a{BORDER}b")) > 2:
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(BORDER, "removed"), backend.pre_tokenizer])
        tokenizer.clean_up_tokenization_spaces = False  # which its files ask for, and byte-level tokens don't bear
        return tokenizer

    def use_form(self, name: str) -> None:
        """Write prompts in another of the published `FORMS` from now on.

        Args:
            name: "evaluation", "demo", "demo-224", or "stage-1", "stage-3", "stage-4" as in training.

        Raises:
            UsageError: there is no such form.
        """
        if name not in FORMS:
            raise UsageError(unknown("TinyGPT-V has no form", name, FORMS))
        self.chat_template = FORMS[name].template
        for known in ("_answer_start", "_turn_end"):
            self.__dict__.pop(known, None)

    @property
    def image_token_ids(self) -> list[int]:
        return [self.image_token_id]

    def prompt(self, question: str, *, pictures: int = 0, system: str | None = None, history: History | None = None) -> str:
        if pictures > 1:
            raise PromptError(f"{pictures} pictures, but TinyGPT-V reads one a prompt: ask about one at a time")
        _, turns = turns_of(history, system)
        placed = sum(asked.count(IMAGE_MARK) for asked, _ in turns)
        if isinstance(question, str) and pictures > placed and IMAGE_MARK not in question:
            question = f"{IMAGE_MARK} {question}"
        return super().prompt(question, pictures=pictures, system=system, history=history)

    @property
    def form(self) -> Form | None:
        """The published form that prompts are written in; None if the chat template is another."""
        return next((form for form in FORMS.values() if form.template == self.chat_template), None)

    def join_pictures(self, texts: Sequence[str]) -> str:
        """As in Mini-Monkey's; as the published data sets write it, a space stands behind a picture, in place of a line's end."""
        if len(texts) == 1:
            return self.plain_text(texts[0])
        if self.form is not None and self.form.pictures_alone:
            return IMAGE_TOKEN * (len(texts) - 1)
        behind = (text.replace("\n", " ", 1) if text.startswith("\n") else text for text in texts[1:])
        text = PICTURE.join(map(self.plain_text, (texts[0], *behind)))
        return f"{text} " if self.form is not None and self.form.spaced else text

    def _placeholder(self, tiles: int) -> str:
        return self.image_token * (self.image_seq_length * tiles)

    def encode_answer(self, answer: str) -> list[int]:
        """The ids of an answer and of what ends it, by themselves, as published."""
        return self._ids(self.plain_text(answer) + self._turn_end, add_special_tokens=False)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if text is not None:
            rows = [text] if isinstance(text, str) else text
            text = [row.replace(IMAGE_MARK, PICTURE) for row in rows]
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        counts = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if image_sizes is not None:  # nothing encloses image tokens that isn't text
            counts.num_image_tokens = [tokens - 2 for tokens in counts.num_image_tokens]
        return counts


def place_of(box: Box, source: Size) -> str:
    """A box as questions and answers have it: `{<left><top><right><bottom>}` in hundredths of the picture, cut off, not rounded.

    Args:
        box: in pixels of the picture.
        source: the picture's size in pixels.
    """
    across, down = 100 / source.width, 100 / source.height
    left, top, right, bottom = (int(edge) for edge in (box.left * across, box.top * down, box.right * across, box.bottom * down))
    return f"{{<{left}><{top}><{right}><{bottom}>}}"
