"""How fast is a model on this machine? Rivals timed in turn, and the figures that `minimonkey bench` prints.

Knows no bars and no tables: numbers come out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from minimonkey.compression.spec import CompressionSpec
from minimonkey.inference import OpenPicture, VisionLanguageModel
from minimonkey.inference.answer import Answer
from minimonkey.language_model.kv_cache import GrowingCache
from minimonkey.language_model.layers import CACHE
from minimonkey.pyramid import Size

A4_PX = Size(height=1754, width=1240)
"""A4 at 150 dpi."""
QUESTIONS = (
    *("What is written here?", "What is the total?", "Who signed it?", "When was it sent?"),
    *("To whom was it sent?", "Which currency is it in?", "How many items are there?", "What is the number of the invoice?"),
)
NEW_TOKENS = 32
"""The length of every answer, whether or not the model would have stopped before."""
ROUNDS, PATIENCE_S = 3, 3.0
"""Everything is timed so often, but once alone where the first answer took longer than PATIENCE_S."""
HALF = CompressionSpec("scm", keep_ratio=0.5)
STAGES = ("tiles", "encoder", "language model", "fresh questions", "open picture")
"""What `measure` reports when it is done with it, in this order."""


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Time several calls in turn.

    Args:
        calls: by name. One that returns a float says itself how many seconds count; others are timed from begin to end, with what
            they left an accelerator to do.
        rounds: how often each is timed.
        warm_up: rounds before them that don't count.

    Returns:
        Seconds of each call in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            settle()
            begun = time.perf_counter()
            said = call()
            settle()
            taken = said if isinstance(said, float) else time.perf_counter() - begun
            if number >= warm_up:
                seconds[name].append(taken)
    return seconds


def medians(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, float]:
    """The median of each call's seconds, timed by `alternate`, whose arguments it takes."""
    return {name: statistics.median(taken) for name, taken in alternate(calls, rounds, warm_up).items()}


def settle() -> None:
    """Wait until an accelerator has done what it was given; calls return before. Nothing to wait for on a CPU."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def noise_page(size: Size = A4_PX, seed: int = 0) -> Image.Image:
    """An RGB page of noise, the same for the same seed: no two tiles of it are equal, so that each is encoded."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8))


@dataclass(frozen=True)
class Speed:
    """What one picture and questions about it cost. Seconds, unless a name says otherwise."""

    tiles: int
    image_tokens: int
    prompt_tokens: int
    new_tokens: int
    """Tokens of each answer."""
    cut_s: float
    """The picture becomes pixel values."""
    encode_ms_a_tile: float
    """Vision encoder and projector; of equal tiles, which are encoded once, all count."""
    prompt_tokens_a_s: float
    """The language model reads the prompt, image tokens being ready."""
    first_token_s: float
    """From the picture to the first token of an answer."""
    new_tokens_a_s: float
    """Tokens that the language model writes in a second, after the first."""
    open_s: float
    """The picture is encoded and read, ready for questions."""
    second_question_s: float
    """From the second question about an open picture to its first token."""
    eight_questions_s: float
    """Eight questions answered in one batch, opening the picture included."""
    eight_fresh_s: float
    """Eight times one answer without an open picture."""
    compressed_share: float | None
    """The share of the time for reading the prompt that is left if scm drops half of the detail tokens; None without a detail
    level."""


def measure(vlm: VisionLanguageModel, picture: Image.Image, *, done: Callable[[str], None] = lambda stage: None) -> Speed:
    """Time a model on a picture, in medians of alternating rounds.

    Args:
        vlm: the model.
        picture: is cut as the model's own pyramid says.
        done: is called with each of STAGES in turn.

    Returns:
        The figures.

    Raises:
        What `vlm.ask` and `vlm.open` raise: PromptError, say, if the picture and NEW_TOKENS are too long for the model.
    """
    parts = _Parts(vlm, picture)
    first = parts.answer()  # warms up, and shows how long things take
    rounds, warm_up = (ROUNDS, 1) if first.timings["total"] <= PATIENCE_S else (1, 0)
    pyramid = first.pyramids[0]

    def timed(stage: str, **calls: Callable[[], object]) -> dict[str, float]:
        seconds = medians(calls, rounds, warm_up)
        done(stage)
        return seconds

    cut = timed("tiles", all=parts.cut)["all"]
    encode = timed("encoder", all=parts.encode)["all"]
    read = timed("language model", whole=parts.read, half=lambda: parts.read(HALF))
    fresh = timed("fresh questions", total=parts.answer, first=lambda: parts.latest.timings["first_token"])
    opened = timed("open picture", open=parts.open, second=parts.second, eight=parts.eight, close=parts.close)
    return Speed(
        tiles=pyramid.tile_count,
        image_tokens=first.image_tokens,
        prompt_tokens=first.prompt_tokens,
        new_tokens=NEW_TOKENS,
        cut_s=cut,
        encode_ms_a_tile=1e3 * encode / pyramid.tile_count,
        prompt_tokens_a_s=first.prompt_tokens / read["whole"],
        first_token_s=fresh["first"],
        new_tokens_a_s=(NEW_TOKENS - 1) / (fresh["total"] - fresh["first"]),
        open_s=opened["open"],
        second_question_s=opened["second"],
        eight_questions_s=opened["open"] + opened["eight"],
        eight_fresh_s=len(QUESTIONS) * fresh["total"],
        compressed_share=read["half"] / read["whole"] if pyramid.detail else None,
    )


class _Parts:
    """What an answer about a picture is made of, each part to be called alone."""

    latest: Answer
    page: OpenPicture

    def __init__(self, vlm: VisionLanguageModel, picture: Image.Image) -> None:
        self.vlm, self.picture = vlm, picture
        text = vlm.processor.prompt(QUESTIONS[0], pictures=1)
        self.inputs = dict(vlm.processor(images=[picture], text=[text], return_tensors="pt").to(vlm.model.device))
        self.pixel_values = self.inputs.pop("pixel_values")
        self.encoded: Any = None

    def cut(self) -> None:
        self.vlm.processor.image_processor(images=[self.picture], return_tensors="pt")

    def encode(self) -> None:
        self.encoded = self.vlm.backend.encode(self.pixel_values)

    def read(self, compression: CompressionSpec | None = None) -> None:
        """Needs `encode` before it."""
        inputs = self.inputs | {"mm_encoder_outputs": {"image": self.encoded}, CACHE: GrowingCache()}
        self.vlm.backend.read(inputs if compression is None else inputs | {"compression": compression})

    def answer(self) -> Answer:
        self.latest = self.vlm.ask(self.picture, QUESTIONS[0], max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
        return self.latest

    def open(self) -> None:
        self.page = self.vlm.open(self.picture)

    def second(self) -> float:
        """Seconds to the first token of another question than the first; this and the two below need `open` before them."""
        self.page.ask(QUESTIONS[0], max_new_tokens=1)
        return self.page.ask(QUESTIONS[1], max_new_tokens=1).timings["first_token"]

    def eight(self) -> None:
        self.page.ask_many(QUESTIONS, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)

    def close(self) -> None:
        self.page.close()
