"""What the published training code makes of a row, its losses included: for comparisons with it, never for training.

`internvl_chat/internvl/train/dataset.py` (InternVL) and `project/mini_monkey/internvl/train/` (Mini-Monkey: where the pyramid has
an adaptive level). The label rules there count the tokens of pieces of text; where these don't add up, nothing of a row is learnt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from minimonkey.data.encoding import FRAMES, NOT_LEARNT, ONE_TILE, TextSpan, answer_end, inside, template_name, template_pieces
from minimonkey.documents import load_frames, load_picture
from minimonkey.errors import DataError
from minimonkey.pyramid import PyramidSpec

IMAGE, VIDEO = "<image>", "<video>"


def published_example(
    raw: Mapping[str, Any],
    processor: Any,
    *,
    images: str | os.PathLike[str] = ".",
    where: str = "the row",
    max_tokens: int | None = None,
    pyramid: PyramidSpec | Mapping[str, Any] | None = None,
    pad_to_square: bool = False,
) -> dict[str, Any]:
    """The example that the published code makes of a row in its own form.

    Args:
        raw: the row; `conversations` of human, gpt and, with internvl2_5, system.
        processor: the model's; its chat template is one of Hermes-2, internlm2-chat, phi3-chat and internvl2_5.
        images: the folder that paths are relative to.
        where: file and line, for messages.
        max_tokens: where ids and labels are cut off (`max_seq_length`); None: nowhere.
        pyramid: how pictures are cut. Several pictures share its budget (`max_dynamic_patch`), a frame is one tile.
        pad_to_square: pad pictures to squares of the mean colour first (`pad2square`).

    Returns:
        As `encode`; a row without anything to learn has no label but -100.

    Raises:
        DataError: the published code fails with an error on this row.
    """
    spec = processor.image_processor.spec_for({"pyramid": pyramid})
    return _PublishedRow(raw, processor, Path(images), where, max_tokens, spec, pad_to_square).example()


@dataclass(frozen=True)
class _PublishedRow:
    raw: Mapping[str, Any]
    processor: Any
    folder: Path
    where: str
    max_tokens: int | None
    spec: PyramidSpec
    pad_to_square: bool

    @property
    def is_mini_monkey(self) -> bool:
        return self.spec.adaptive is not None

    def fails(self, why: str) -> DataError:
        return DataError(f"{self.where}: the published code fails here ({why})")

    def example(self) -> dict[str, Any]:
        rule = LABEL_RULES.get(template_name(self.processor) or "")
        if rule is None:
            raise DataError(f"{self.where}: as_published needs one of the chat templates {', '.join(LABEL_RULES)}")
        turns = [(turn["from"], turn["value"]) for turn in self.raw.get("conversations", ())]
        if not turns:
            raise self.fails("no conversations")
        turns, pictures, spec = self._media(turns)
        tiles, runs = None, []
        if pictures:
            inputs = self.processor.image_processor(pictures, pyramid=spec, return_tensors="pt")
            tiles = {name: inputs[name] for name in ("pixel_values", "level_tiles")}
            if self.is_mini_monkey and not self.spec.thumbnail:  # whose code takes the last tile for the thumbnail
                last, pixels = max(int(tiles["level_tiles"][0, 0]), 1) - 1, tiles["pixel_values"]
                if last:
                    tiles["pixel_values"] = torch.cat([pixels[:last], pixels[last + 1 :], pixels[last : last + 1]])
            runs = [self.processor.replace_image_token(inputs, number) for number in range(len(pictures))]
        ids, labels = rule(self, turns, runs)
        ends = ids.count(self.processor.end_image_token_id)
        if not self.is_mini_monkey and "image" in self.raw and ends != len(pictures):
            raise self.fails(f"{ends} ends of pictures for {len(pictures)} pictures")
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)} | (tiles or {})

    def _media(self, turns: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[Image.Image], Any]:
        """Turns with their marks, the pictures, and how these are cut."""
        (speaker, first), *others = turns
        named = self.raw.get("image")
        if self.is_mini_monkey and (isinstance(named, list) or not (named or self.raw.get("video"))):
            raise self.fails("Mini-Monkey's reads no lists and no rows without a picture")
        if isinstance(named, list) and named:
            most = max(1, self.spec.detail[1] // len(named))
            cut = replace(self.spec, detail=(min(self.spec.detail[0], most), most))
            return turns, [self._picture(name) for name in named], cut
        if named:
            first = first if IMAGE in first else f"{IMAGE}\n{first}"
            return [(speaker, first), *others], [self._picture(named)], self.spec
        if self.raw.get("video"):
            frames = load_frames(self.folder / self.raw["video"], most=FRAMES)
            first = first if VIDEO in first else f"{VIDEO}\n{first}"
            name, between, end = ("Frame", "\n", "") if self.is_mini_monkey else ("Frame-", "\n", "\n")
            marks = between.join(f"{name}{number}: {IMAGE}" for number in range(1, len(frames) + 1)) + end
            return [(speaker, first.replace(f"{VIDEO}\n", marks)), *others], frames, ONE_TILE
        return turns, [], None

    def _picture(self, name: str) -> Image.Image:
        path = self.folder / name
        if not path.is_file():
            raise self.fails(f"{path} is missing")
        picture = load_picture(path, as_published=True)
        if self.pad_to_square:
            mean = tuple(int(channel * 255) for channel in self.processor.image_processor.image_mean)
            side = max(picture.size)
            picture = ImageOps.expand(picture, _borders(picture.size, side), mean)
        return picture

    # -- text --------------------------------------------------------------------------------------------------------------------

    def rendered(self, turns: Sequence[tuple[str, str]], runs: Sequence[str], *, strip: bool) -> str:
        """The text of an old template, with the first marks replaced by pictures, wherever they stand."""
        if turns[0][0] == "gpt":
            turns = turns[1:]
        if any(speaker != ("human", "gpt")[number % 2] for number, (speaker, _) in enumerate(turns)):
            raise self.fails("human and gpt don't take turns")
        roles = {"human": "user", "gpt": "assistant"}
        said = [value.strip() if strip else value for _, value in turns]
        skeleton = template_pieces(self.processor, tuple(roles[speaker] for speaker, _ in turns))
        end = answer_end(self.processor)
        text = skeleton[0]
        for value, after in zip(said, skeleton[1:], strict=True):
            text += value + (after if value else after.removeprefix(end))
        for run in runs:
            text = text.replace(IMAGE, run, 1)
        return text

    def count(self, text: str, before: str = "") -> int:
        """Tokens of a piece of text behind another, without BOS: at the very beginning, Llama's tokenizer puts a space."""
        whole, first = (self.processor.tokenizer(each, add_special_tokens=False).input_ids for each in (before + text, before))
        return len(whole) - len(first)

    def ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text).input_ids[: self.max_tokens]

    def labelled(self, ids: list[int], learnt: list[range], added_up: int) -> tuple[list[int], list[int]]:
        """Ids and labels; none where the pieces don't add up to all ids but padding."""
        total = len(ids) - ids.count(self.processor.tokenizer.pad_token_id)
        if added_up != total and (self.max_tokens is None or added_up < self.max_tokens):
            learnt = []
        labels = [NOT_LEARNT] * len(ids)
        for place in (place for span in learnt for place in span if place < len(ids)):
            labels[place] = ids[place]
        return ids, labels


def _borders(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    return left, top, side - size[0] - left, side - size[1] - top


# -- which labels ------------------------------------------------------------------------------------------------------------------


def _by_separator(row: _PublishedRow, turns: list[tuple[str, str]], runs: list[str]) -> tuple[list[int], list[int]]:
    """`preprocess_mpt` and `preprocess_phi3`: the text is cut at every separator, also at those that someone wrote."""
    text = row.rendered(turns, runs, strip=False)
    end = answer_end(row.processor)
    opening = end + template_pieces(row.processor, ("user", "assistant"))[1].removeprefix(end)
    ids = row.ids(text)
    pieces = text.split(end)
    rounds = [end.join(pieces[:3])] + [end.join(pieces[at : at + 2]) for at in range(3, len(pieces), 2)]
    learnt, at, before = [], len(row.processor.tokenizer("").input_ids), ""
    for one in rounds:
        asked, *answered = one.split(opening)
        if not one or len(answered) != 1:
            break
        stop = at + row.count(one, before) + 1
        learnt.append(range(at + row.count(asked + opening, before), stop))
        at, before = stop, end
    return row.labelled(ids, learnt, at)


def _by_role(row: _PublishedRow, turns: list[tuple[str, str]], runs: list[str]) -> tuple[list[int], list[int]]:
    """`preprocess_internlm`: the text is cut at the headers of the two sides, and what isn't a question is learnt."""
    text = row.rendered(turns, runs, strip=True)
    before, between = template_pieces(row.processor, ("user", "assistant"))[:2]
    end = answer_end(row.processor)
    asks, answers = before.rpartition(end)[2], between.removeprefix(end)
    ids = row.ids(text)
    head, *parts = text.split(answers)
    at = 1 + row.count(head + answers)
    learnt = []
    for part in parts[:-1]:
        answer, *question = part.split(asks)
        if len(question) != 1:
            raise row.fails("a header inside a message")
        learnt.append(range(at, at + row.count(answer)))
        at = learnt[-1].stop + row.count(asks + question[0] + answers)
    last = range(at, at + row.count(parts[-1]) if parts else at)
    return row.labelled(ids, [*learnt, last], last.stop)


def _by_message(row: _PublishedRow, turns: list[tuple[str, str]], runs: list[str]) -> tuple[list[int], list[int]]:
    """`preprocess_internvl2_5`: each message by itself, so that nothing inside one can confuse it."""
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    if any(speaker not in roles for speaker, _ in turns):
        raise row.fails("an unknown role")
    text, *pieces = template_pieces(row.processor, tuple(roles[speaker] for speaker, _ in turns))
    end, waiting, answers = answer_end(row.processor), list(runs), []
    for (speaker, value), piece in zip(turns, pieces, strict=True):
        for _ in range(value.count(IMAGE) if speaker == "human" else 0):
            value = value.replace(IMAGE, waiting.pop(0), 1) if waiting else value
        if speaker == "gpt":
            answers.append(TextSpan(len(text), len(text) + len(value) + len(end)))
        text += value + piece
    if waiting:
        raise row.fails(f"{len(waiting)} pictures without a mark")
    encoded = row.processor.tokenizer(text, return_offsets_mapping=True)
    learnt = inside(encoded["offset_mapping"], answers).tolist()
    labels = [token if known else NOT_LEARNT for token, known in zip(encoded["input_ids"], learnt, strict=True)]
    return encoded["input_ids"][: row.max_tokens], labels[: row.max_tokens]


LABEL_RULES: dict[str, Callable[[_PublishedRow, list[tuple[str, str]], list[str]], tuple[list[int], list[int]]]] = {
    "Hermes-2": _by_separator,
    "phi3-chat": _by_separator,
    "internlm2-chat": _by_role,
    "internvl2_5": _by_message,
}
