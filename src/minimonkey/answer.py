"""What a model said, and how it can be seen while it is being said: text, tokens, certainty, places.

Knows transformers' `generate` but no pictures and no model.
"""

from __future__ import annotations

import itertools
import queue
import re
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from minimonkey.pyramid import Box, Pyramid, Size


@dataclass(frozen=True)
class Answer:
    """What a model said. `str(answer)` is the text."""

    text: str
    """The answer without special tokens and outer white space."""
    token_ids: list[int]
    """The new tokens, the stop token excluded."""
    mean_logprob: float
    """Mean natural logarithm of the probability of the new tokens, the stop token included; before any temperature."""
    boxes: list[Box]
    """Every `<box>[[left, top, right, bottom]]</box>` of the answer, thousandths turned into pixels of the first picture."""
    prompt_tokens: int
    """Tokens of the prompt, those of pictures included."""
    image_tokens: int
    """Tokens that stand for tiles."""
    timings: dict[str, float]
    """Seconds from the call until the inputs were ready ("prepare"), the first token out ("first_token") and the last ("total")."""
    pyramids: list[Pyramid]
    """How each picture was cut."""

    def __str__(self) -> str:
        return self.text


_BOX = re.compile(r"<box>(.*?)</box>", re.DOTALL)
_CORNERS = re.compile(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


def boxes_of(text: str, source: Size) -> list[Box]:
    """The boxes of a text, thousandths (InternVL's way of writing places) as pixels of the picture."""
    found = [corners for box in _BOX.findall(text) for corners in _CORNERS.findall(box)]
    width, height = source.width / 1000, source.height / 1000
    return [
        Box(round(int(x1) * width), round(int(y1) * height), round(int(x2) * width), round(int(y2) * height))
        for x1, y1, x2, y2 in found
    ]


_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a token that is one byte of a character, in sentencepiece and in tokenizers made like it."""


def whole_characters(tokens: list[str]) -> int:
    """How many of these tokens surely end a character: without the single bytes at the end, to which more may come."""
    return len(tokens) - sum(1 for _ in itertools.takewhile(_BYTE.fullmatch, reversed(tokens)))


class Call:
    """One run of `generate`: what goes in, and what can be seen of it on the way. Lists have an entry for each row of the batch."""

    def __init__(self, inputs: dict, settings: dict, pyramids: list[list[Pyramid]], lengths: list[int], begun: float) -> None:
        self.inputs, self.settings, self.pyramids, self.lengths, self.begun = inputs, settings, pyramids, lengths, begun
        self.timings = {"prepare": time.perf_counter() - begun}
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """The first row's new tokens as they come; None once there are no more."""
        self.logprobs: list[torch.Tensor] = []
        """For each step, the log-probabilities of the new tokens: float32 [rows]."""
        self.cancelled = False

    def until_stop(self, tokens: list[int]) -> list[int]:
        """The tokens before the first stop token."""
        stop = self.settings["eos_token_id"]
        stops = stop if isinstance(stop, list) else [stop]
        return list(itertools.takewhile(lambda token: token not in stops, tokens))

    def hooks(self) -> dict[str, Any]:
        """Arguments of `generate` that let us see each distribution and then each token, and stop between two."""
        scores, chosen = _Scores(), _Chosen()
        chosen.call, chosen.scores = self, scores
        return {"logits_processor": LogitsProcessorList([scores]), "stopping_criteria": StoppingCriteriaList([chosen])}


class _Scores(LogitsProcessor):
    """Keeps the latest distribution, changes nothing."""

    latest: torch.Tensor

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        self.latest = scores.log_softmax(-1)
        return scores


class _Chosen(StoppingCriteria):
    """Notes each new token; asks `generate` to stop if the call was cancelled."""

    call: Call
    scores: _Scores

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, -1]
        self.call.tokens.put(int(new[0]))
        self.call.timings.setdefault("first_token", time.perf_counter() - self.call.begun)
        self.call.logprobs.append(self.scores.latest.gather(1, new[:, None])[:, 0])
        return torch.full_like(new, self.call.cancelled, dtype=torch.bool)
