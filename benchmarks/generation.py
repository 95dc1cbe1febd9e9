"""How long from a picture to the first token, and how fast do the others follow, against transformers end to end?

    python benchmarks/generation.py [--dtype bfloat16] [--rounds 3] [--layers 24] [--figures docs/performance.json]

Random weights of InternVL2-1B's shape, a page as 13 tiles (12 and a thumbnail) and as 20 (12 detail, 7 adaptive, a thumbnail), a
question of 30 tokens. Ours is `vlm.ask(picture, question)`. The rival is transformers' InternVLForConditionalGeneration on the very
same tensors with sdpa, its own GotOcr2ImageProcessorPil for the tiles (called twice for 20: it knows one grid a picture) and the
same prompt, greedy. Pixel values and prompts are checked to be equal. Tokens a second are those of 64 after the first, behind 13
tiles. Rounds alternate; medians. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers.generation.streamers import BaseStreamer
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from internvl2_1b import QUESTIONS, TILE_TOKENS, pyramid_of, random_vlm, stock
from minimonkey.evaluation.speed import alternate, noise_page
from minimonkey.inference import VisionLanguageModel
from report import Bar, circumstances, conclude, options, parse

RATE_BAR, FIRST_BAR = 0.95, 1.5
NEW_TOKENS = 65
RIVAL = {
    "crop_to_patches": True,
    "size": {"height": 448, "width": 448},
    "resample": Image.Resampling.BICUBIC,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
GRIDS = {13: (12,), 20: (12, 7)}
"""Tiles of each grid; the thumbnail comes last."""


class Clock(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())  # the first is the prompt

    def end(self) -> None:
        pass


class Rivals:
    """Two ways from a picture to new tokens, and what the latest run of each took: seconds to the first token, and to the last."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm, self.stock, self.picture = vlm, stock(vlm.model), noise_page()
        self.processor = GotOcr2ImageProcessorPil(**RIVAL)
        self.latest: dict[str, tuple[float, float]] = {}

    def ours(self, tiles: int, new_tokens: int) -> float:
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        timings = self.vlm.ask(self.picture, QUESTIONS[0], pyramid=pyramid_of(tiles), **length).timings
        self.latest["ours"] = timings["first_token"], timings["total"]
        return timings["first_token"]

    def theirs(self, tiles: int, new_tokens: int) -> float:
        begun, clock = time.perf_counter(), Clock()
        inputs = self.inputs(tiles)
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        stop = {
            "eos_token_id": self.vlm.processor.tokenizer.eos_token_id,
            "pad_token_id": self.vlm.processor.tokenizer.pad_token_id,
        }
        with torch.no_grad():
            self.stock.generate(**inputs, **length, **stop, do_sample=False, streamer=clock)
        self.latest["stock"] = clock.times[1] - begun, clock.times[-1] - begun
        return clock.times[1] - begun

    def inputs(self, tiles: int) -> dict[str, Any]:
        """What transformers' classes make of the picture and the same question."""
        grids = [self.processor(self.picture, min_patches=n, max_patches=n, return_tensors="pt").pixel_values for n in GRIDS[tiles]]
        pixel_values = torch.cat([*(grid[:-1] for grid in grids), grids[0][-1:]])
        own = self.vlm.processor
        placeholder = own.start_image_token + own.image_token * (TILE_TOKENS * tiles) + own.end_image_token
        text = own.prompt(QUESTIONS[0], pictures=1).replace(own.image_token, placeholder)
        inputs = own.tokenizer(text, return_tensors="pt") | {"pixel_values": pixel_values}
        return {name: tensor.to(self.stock.device) for name, tensor in inputs.items()}

    def check(self, tiles: int) -> None:
        """Both see the same."""
        text = [self.vlm.processor.prompt(QUESTIONS[0], pictures=1)]
        ours = self.vlm.processor(images=[self.picture], text=text, pyramid=pyramid_of(tiles), return_tensors="pt")
        theirs = {name: tensor.cpu() for name, tensor in self.inputs(tiles).items()}
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
        difference = (ours["pixel_values"] - theirs["pixel_values"]).abs().max().item()
        assert difference <= 1e-5, difference


def compare(rivals: Rivals, rounds: int) -> Iterator[Bar]:
    """Time both ways with either number of tiles; bars come when those of their number are timed."""
    for tiles, new_tokens in ((13, NEW_TOKENS), (20, 1)):
        rivals.check(tiles)
        calls: dict[str, Any] = {}
        for name, way in (("ours", rivals.ours), ("stock", rivals.theirs)):
            calls[name] = partial(way, tiles, new_tokens)
            calls[f"{name}, the rest"] = lambda name=name: rivals.latest[name][1] - rivals.latest[name][0]
        median = {name: statistics.median(seconds) for name, seconds in alternate(calls, rounds).items()}
        print(f"  {tiles} tiles, to the first token: ours {median['ours']:.3f} s, stock {median['stock']:.3f} s", flush=True)
        yield Bar(f"picture to first token, {tiles} tiles, against transformers", median["stock"] / median["ours"], FIRST_BAR)
        if new_tokens > 1:
            ours, theirs = ((new_tokens - 1) / median[f"{name}, the rest"] for name in ("ours", "stock"))
            print(f"  tokens a second: ours {ours:.2f}, stock {theirs:.2f}", flush=True)
            yield Bar("tokens a second, against transformers' generate", ours / theirs, RATE_BAR)


def main() -> int:
    given = parse(options(__doc__))
    where = circumstances(given)
    rivals = Rivals(random_vlm(getattr(torch, given.dtype), given.device, layers=given.layers, engine=given.engine))
    print(
        f"{where}\nrival: transformers' own class and GotOcr2ImageProcessorPil({', '.join(f'{k}={v}' for k, v in RIVAL.items())})"
    )
    print(f"{rivals.stock.config._attn_implementation}, greedy; rounds alternate after one that warms up, medians")
    return conclude("generation", where, compare(rivals, given.rounds), given.figures)


if __name__ == "__main__":
    sys.exit(main())
