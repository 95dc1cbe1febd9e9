"""Monkey's processor and tokenizer: prompts as its scripts write them, and file names that count as image tokens.

The published tokenizer (`tokenization_qwen.py`) turns `<img>PATH</img>` into one id for each byte of the path, whatever the ids of
those bytes in text, and fills up with `<imgpad>`; the network puts features in place of all of them. Ours writes `<imgpad>` alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import TokenizersBackend

from minimonkey.errors import PromptError, UsageError
from minimonkey.processing.box_notation import QWEN_VL, BoxNotation
from minimonkey.processing.processor import IMAGE_MARK, MiniMonkeyProcessor

START, END, PAD = "<img>", "</img>", "<imgpad>"
TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"
_NAMED = re.compile(rf"{START}(?!{PAD})(.*?){END}", re.DOTALL)
"""A picture by the name of its file."""
_PARTS = re.compile(
    rf"{START}(?P<image>.*?){END}|<ref>(?P<ref>.*?)</ref>|<box>(?P<box>.*?)</box>|<quad>(?P<quad>.*?)</quad>", re.DOTALL
)


class MonkeyTokenizer(TokenizersBackend):
    """Qwen's tokenizer, which takes the name of a picture's file too.

    `image_tokens` is how many ids stand for a picture: 1280 as published, for four windows and the global view. (An `__init__` of
    our own would keep transformers from taking a saved tokenizer.json as it is.)
    """

    @property
    def image_tokens(self) -> int:
        return self.init_kwargs.get("image_tokens", 1280)

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        texts = [text] if isinstance(text, str) else text
        if not any(isinstance(one, str) and _NAMED.search(one) for one in texts):
            return super()._encode_plus(text, text_pair, **kwargs)
        if text_pair is not None:
            raise PromptError("a pair of texts with pictures by name: give one text")
        names = [self._names(one) for one in texts]
        filled = [_NAMED.sub(f"{START}{PAD * self.image_tokens}{END}", one) for one in texts]
        encoded = super()._encode_plus(filled[0] if isinstance(text, str) else filled, **kwargs)
        start = self.convert_tokens_to_ids(START)
        batched = not isinstance(text, str) or kwargs.get("return_tensors") is not None
        for row, pictures in zip(encoded["input_ids"] if batched else [encoded["input_ids"]], names, strict=True):
            begins = [place for place, token in enumerate(row) if int(token) == start]
            for begin, name in zip(begins, pictures, strict=False):  # truncation may have taken some away
                for place, byte in enumerate(name[: len(row) - begin - 1], begin + 1):
                    row[place] = byte
        return encoded

    def _names(self, text: str) -> list[bytes]:
        """For each picture of a text its file's name; empty where image tokens stand already."""
        names = []
        for match in re.finditer(rf"{START}(.*?){END}", text, re.DOTALL):
            name = b"" if match[1].startswith(PAD) else match[1].encode()
            if len(name) > self.image_tokens:
                raise PromptError(f"the name of a picture has {len(name)} bytes; at most {self.image_tokens} have room")
            names.append(name)
        return names

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        (start, stop), parts = self.convert_tokens_to_ids([START, END]), list[str]()
        while start in ids and stop in ids[ids.index(start) :]:
            begin = ids.index(start)
            end = ids.index(stop, begin)
            name = bytes(token for token in ids[begin + 1 : end] if token < 256).decode(errors="replace")
            pads = "" if skip_special_tokens or name else PAD * (end - begin - 1)
            marked = name if skip_special_tokens else f"{START}{name}{pads}{END}"
            parts += [super()._decode(ids[:begin], skip_special_tokens=skip_special_tokens, **kwargs), marked]
            ids = ids[end + 1 :]
        return "".join([*parts, super()._decode(ids, skip_special_tokens=skip_special_tokens, **kwargs)])

    def from_list_format(self, parts: Sequence[dict[str, str]]) -> str:
        """The published list form as text: dicts with `image`, `text`, `ref` (then `box` or `quad`); pictures are numbered.

        Raises UsageError for another key.
        """
        text, pictures = "", 0
        for part in parts:
            if "image" in part:
                pictures += 1
                text += f"Picture {pictures}:{START}{part['image']}{END}\n"
            elif "text" in part:
                text += part["text"]
            elif "box" in part or "quad" in part:
                kind = "box" if "box" in part else "quad"
                label = f"<ref>{part['ref']}</ref>" if "ref" in part else ""
                text += f"{label}<{kind}>{part[kind]}</{kind}>"
            elif "ref" in part:
                text += f"<ref>{part['ref']}</ref>"
            else:
                raise UsageError(f"a part of the list is {part!r}: expected image, text, ref, box or quad")
        return text

    def to_list_format(self, text: str) -> list[dict[str, str]]:
        """The parts of a text: pictures, texts, labels, boxes and quadrangles in their order, a dict of one each."""
        parts: list[dict[str, str]] = []
        place = 0
        for match in _PARTS.finditer(text):
            if match.start() > place:
                parts.append({"text": text[place : match.start()]})
            kind = match.lastgroup or "text"
            parts.append({kind: match[kind]})
            place = match.end()
        return [*parts, {"text": text[place:]}] if place < len(text) else parts


class MonkeyProcessor(MiniMonkeyProcessor):
    """Pictures and text to Monkey's inputs. A question becomes `<img>...</img> QUESTION Answer: `, as in its scripts, or one that
    ends with a colon, as its prompts for captions do, `<img>...</img> QUESTION `; with a system message or earlier turns it becomes
    a chat as in Qwen-VL-Chat (`make_context` of the published code)."""

    box_notation: ClassVar[BoxNotation] = QWEN_VL

    def placed(self, question: str, pictures: int) -> str:
        if pictures == 1:
            return f"{IMAGE_MARK} {question}"
        return "".join(f"Picture {number}:{IMAGE_MARK}\n" for number in range(1, pictures + 1)) + question

    def stop_tokens(self, ids: Sequence[int]) -> list[int]:
        """A chat's answer ends with its turn, too."""
        begin, end = self.tokenizer.convert_tokens_to_ids([TURN_BEGIN, TURN_END])
        return [end, begin] if begin in ids else []

    def encode_answer(self, answer: str) -> list[int]:
        """The ids of an answer and of the end of text; as published, they don't depend on what stands before."""
        return [*self._ids(self.plain_text(answer)), self.tokenizer.eos_token_id]

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        named = _NAMED.sub  # published prompts name files; the pictures themselves are given
        if isinstance(text, str):
            text = named(self.image_token, text)
        elif text is not None:
            text = [named(self.image_token, one) for one in text]
        return super().prepare_inputs_layout(images, text, videos, audio, **kwargs)
