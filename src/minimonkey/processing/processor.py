"""Pictures and text to model inputs. How many image tokens stand for a picture, and which ids are a user's words?

Two ways in, one way through. `processor(images, text)` takes text that already has its template, as everywhere in transformers, and
reads special tokens in it as such. `prompt()` writes that text from what users say, so that nothing they say can end a turn or
place a picture: only `<image>` does. Knows no model and no device.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import ImageInput, make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.tokenization_utils_base import TextInput

from minimonkey.errors import CheckpointError, PromptError, UsageError
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.turns import History, text_of, turns_of
from minimonkey.pyramid import Size

IMAGE_MARK = "<image>"
"""Where users want a picture."""
BREAK = "\ufdd0"
"""Put into a special string, it keeps the tokenizer from seeing one: special tokens are looked for before text is normalised, and
normalisation takes it out again. A Unicode noncharacter, kept for such internal use; no text has it."""
MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""Special tokens that users and models do write: they name a place in a picture, and can neither end a turn nor place a picture."""


_one_at_a_time = threading.RLock()
"""Padding is a state of the one fast tokenizer, which a call changes for all others: calls of several threads take turns."""


class MiniMonkeyProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template in one, as `AutoProcessor` returns it.

    `processor(images=[...], text=[...], return_tensors="pt")` gives `input_ids` and `attention_mask` (int64 [rows, length], padded
    on the left to the longest row, unless the call or the tokenizer's own settings say otherwise), `pixel_values` (float32 [tiles,
    3, side, side]) and `level_tiles` (int64 [pictures, 3]). The text has one `processor.image_token` or `<image>` a picture, all
    rows together in the order of the pictures. A `pyramid`, or any other setting of `MiniMonkeyImageProcessor`, may be given for
    one call. Raises PromptError if pictures and marks don't match.

    A stock image processor (GotOcr2) is replaced by ours with its settings, so that `from_pretrained` takes a stock folder too.
    """

    unused_input_names = ["num_patches"]

    def __init__(self, image_processor=None, tokenizer=None, chat_template: str | None = None, image_seq_length: int = 256) -> None:
        """`image_seq_length` is the number of image tokens a tile; without a `chat_template` it is the tokenizer's, or ChatML."""
        if not isinstance(image_processor, MiniMonkeyImageProcessor):
            image_processor = MiniMonkeyImageProcessor(**image_processor.to_dict())
        chat_template = chat_template or tokenizer.chat_template or _CHATML.read_text(encoding="utf-8")
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_seq_length = image_seq_length
        for name in ("start_image_token", "end_image_token", "context_image_token"):
            if getattr(tokenizer, name, None) is None:
                raise CheckpointError(
                    f"the tokenizer has no {name}; name it in tokenizer_config.json, as InternVL's -hf folders do"
                )
        self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
        self.image_token = tokenizer.context_image_token
        self.start_image_token_id, self.end_image_token_id, self.image_token_id = tokenizer.convert_tokens_to_ids(
            [self.start_image_token, self.end_image_token, self.image_token]
        )
        tokenizer.padding_side = "left"
        _make_breakable(tokenizer)

    @property
    def image_token_ids(self) -> list[int]:
        return [self.image_token_id, self.start_image_token_id, self.end_image_token_id]

    # -- what users say ------------------------------------------------------------------------------------------------

    def prompt(
        self,
        question: str,
        *,
        pictures: int = 0,
        system: str | None = None,
        history: History | None = None,
    ) -> str:
        """The text of one prompt, ready for `processor(images, text)`: history, question and the opening of the answer.

        `pictures` fill the `<image>` marks of the history's questions first, then those of the question. A question without marks
        gets one and a newline before it for each picture that is left. Other special strings are plain text, `MARKUP` excepted.

        Args:
            question: what is asked; text, as all that follows, or an object with a `text`, such as an Answer.
            pictures: how many pictures there are.
            system: the system message; None is the template's own, "" none at all.
            history: earlier turns, the oldest first: pairs (question, answer), or messages such as `{"role": "user", "content":
                "What is it?"}`, by user and assistant in turn, maybe with a system message before them.

        Returns:
            The text, one image token for each picture.

        Raises:
            PromptError: marks and pictures don't match, something isn't text or isn't Unicode, or the history has another form.
        """
        question = text_of(question, "the question")
        system, turns = turns_of(history, system)
        open_pictures = pictures - sum(asked.count(IMAGE_MARK) for asked, _ in turns)
        if open_pictures > 0 and IMAGE_MARK not in question:
            question = f"{IMAGE_MARK}\n" * open_pictures + question
        if question.count(IMAGE_MARK) != open_pictures:
            marks = pictures - open_pictures + question.count(IMAGE_MARK)
            raise PromptError(f"{marks} {IMAGE_MARK} marks for {pictures} pictures: give each picture a mark, or write none")
        messages = [] if system is None else [_message("system", self.plain_text(system))]
        for asked, answer in turns:
            messages += [_message("user", self._with_pictures(asked)), _message("assistant", self.plain_text(answer))]
        messages.append(_message("user", self._with_pictures(question)))
        return self.apply_chat_template(messages, add_generation_prompt=True)

    def plain_text(self, text: str) -> str:
        """The same text with every special string in it broken, so that it is encoded as what it looks like.

        Args:
            text: what a user or a model said.

        Returns:
            The text with `BREAK` behind the first character of each special string, those of tokens that were added to the
            tokenizer since the processor was made among them.

        Raises:
            PromptError: it is no text, or has a lone surrogate (which Python makes of bytes that it can't decode): no tokenizer
                takes one.
        """
        text = text_of(text, "the text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f"{text[error.start]!r} in the text is no character: expected Unicode text, such as UTF-8") from error
        return self._special_strings().sub(rf"\g<0>{BREAK}", text)

    def _with_pictures(self, text: str) -> str:
        return self.image_token.join(map(self.plain_text, text.split(IMAGE_MARK)))

    def _special_strings(self) -> re.Pattern:
        """The first character of each special string, overlapping ones included."""
        _make_breakable(self.tokenizer)  # which may have got tokens since
        added = self.tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        return _first_characters(frozenset(token.content for token in added))

    @cached_property
    def _answer_start(self) -> str:
        """What the template writes before an answer."""
        question = [_message("user", "?")]
        return self.apply_chat_template(question, add_generation_prompt=True).removeprefix(self.apply_chat_template(question))

    @cached_property
    def _turn_end(self) -> str:
        """What the template writes after an answer."""
        turns = [_message("user", "?"), _message("assistant", "!")]
        return self.apply_chat_template(turns).rpartition("!")[2]

    # -- what the model gets -------------------------------------------------------------------------------------------

    def encode_chat(self, question: str, *, pictures: Sequence[int] = (), **settings: Any) -> list[int]:
        """The ids of one prompt, with a run of image tokens for each picture.

        Args:
            question: what is asked.
            pictures: the tile count of each picture.
            settings: those of `prompt`: system and history.

        Returns:
            Ids, padding excluded.

        Raises:
            PromptError: as `prompt`.
        """
        text = self.prompt(question, pictures=len(pictures), **settings)
        (text,), _ = self.get_text_with_replacements([text], [self._placeholder(tiles) for tiles in pictures])
        return self._ids(text)

    def encode_answer(self, answer: str) -> list[int]:
        """The ids of an answer and of what ends it in the template: what a model learns to write after `encode_chat`.

        They are those that the answer has behind the prompt: alone, Phi-3's tokenizer would open it with a space.

        Args:
            answer: text; special strings in it are plain text, `MARKUP` excepted.

        Raises:
            PromptError: the answer isn't text.
        """
        prompt, whole = (
            self._ids(self._answer_start + text, add_special_tokens=False)
            for text in ("", self.plain_text(answer) + self._turn_end)
        )
        return whole[len(prompt) :]

    def count_tokens(self, text: str, sizes: Sequence[Size | tuple[int, int]] = (), **settings: Any) -> int:
        """The length of a prompt, without any pixels.

        Args:
            text: a result of `prompt`, or any text with its template.
            sizes: (height, width) of its pictures, in pixels.
            settings: those of `processor(images, text)`.

        Returns:
            Tokens, those of pictures included.
        """
        image_tokens = self._get_num_multimodal_tokens(image_sizes=sizes, **settings)["num_image_tokens"]
        text = text.replace(IMAGE_MARK, self.image_token)
        return len(self._ids(text)) + sum(image_tokens) - len(image_tokens)

    def _ids(self, text: str, **settings: Any) -> list[int]:
        with _one_at_a_time:
            return self.tokenizer(text, **settings).input_ids

    def __call__(
        self, images: ImageInput | None = None, text: TextInput | list[TextInput] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Pictures and text with its template to model inputs; the class says what comes out.

        Args:
            images: pictures as for `MiniMonkeyImageProcessor.preprocess`, all rows together.
            text: one row or several.
            kwargs: settings of transformers' processors, and of the image processor for this call, `pyramid` among them.

        Raises:
            PromptError: marks and pictures don't match.
            PictureError, PyramidError, UsageError: as the image processor.
        """
        if not any("padding" in settings for settings in (kwargs, kwargs.get("text_kwargs", {}), self.tokenizer.init_kwargs)):
            kwargs["padding"] = True
        with _one_at_a_time:
            return super().__call__(images=images, text=text, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if videos is not None or audio is not None:
            raise UsageError("videos and audio are not supported: give frames as pictures")
        images, text, _, _ = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        images = make_flat_list_of_images(images) if images is not None else []
        if text is not None:
            text = [sample.replace(IMAGE_MARK, self.image_token) for sample in text]
            marks = sum(sample.count(self.image_token) for sample in text)
            if marks != len(images):
                raise PromptError(f"{marks} marks ({self.image_token} or {IMAGE_MARK}) in the text for {len(images)} pictures")
        return images or None, text, None, None

    def replace_image_token(self, image_inputs: BatchFeature | dict, image_idx: int, **kwargs) -> str:
        return self._placeholder(int(image_inputs["num_patches"][image_idx]))

    def _placeholder(self, tiles: int) -> str:
        return f"{self.start_image_token}{self.image_token * (self.image_seq_length * tiles)}{self.end_image_token}"

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Size | tuple[int, int]] | None = None, **kwargs) -> MultiModalData:
        """Image tokens (the two that enclose them included) and tiles of pictures of these sizes (height, width)."""
        if image_sizes is None:
            return MultiModalData()
        settings = {**kwargs, **kwargs.get("images_kwargs", {})}
        tiles = [self.image_processor.get_number_of_image_patches(*size, settings) for size in image_sizes]
        return MultiModalData(num_image_tokens=[2 + self.image_seq_length * n for n in tiles], num_image_patches=tiles)


_CHATML = Path(__file__).parent / "templates" / "chatml.jinja"


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@lru_cache(maxsize=16)
def _first_characters(tokens: frozenset[str]) -> re.Pattern:
    strings = {IMAGE_MARK, *tokens} - set(MARKUP)
    return re.compile("|".join(f"{re.escape(s[0])}(?={re.escape(s[1:])})" for s in strings if len(s) > 1 and not s.isspace()))


def _unnormalised(token: AddedToken) -> AddedToken:
    sides = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    return AddedToken(token.content, **sides, special=token.special, normalized=False)


def _make_breakable(tokenizer) -> None:
    """Have the tokenizer look for special strings before it normalises text, and take BREAK out then; both are saved with it.

    Tokens added as `normalized` would be looked for afterwards, when a broken one is whole again.
    """
    backend = tokenizer.backend_tokenizer
    late = [token for token in backend.get_added_tokens_decoder().values() if token.normalized]
    if late:  # one of the same content takes the other's place, and its id
        backend.add_tokens([_unnormalised(token) for token in late])
    if backend.normalizer is None or BREAK in backend.normalizer.normalize_str(BREAK):
        steps = [normalizers.Replace(BREAK, "")] + ([backend.normalizer] if backend.normalizer else [])
        backend.normalizer = normalizers.Sequence(steps)
