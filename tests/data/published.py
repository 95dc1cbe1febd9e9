"""The recorded rows of the published training code (`tests/golden/training`, its README), and processors to make them anew."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.published import chat_template
from minimonkey.checkpoints.tokenizers import published_tokenizer
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = {row["id"]: row for row in map(json.loads, (GOLDEN / "training" / "rows.jsonl").read_text("utf-8").splitlines())}
IMAGES = GOLDEN / "training" / "images"
RECORDINGS = (
    ("internvl2-qwen2-56", "internvl"),
    ("internvl2-qwen2-56", "minimonkey"),
    ("minimonkey-internlm2-56", "internvl"),
    ("minimonkey-internlm2-56", "minimonkey"),
    ("phi3-tokenizer", "internvl"),
)


class Setting(NamedTuple):
    """One `configs` entry of a recording."""

    checkpoint: str
    code: str
    name: str
    settings: dict[str, Any]
    rows: dict[str, Any]

    @property
    def spec(self) -> PyramidSpec:
        budget = (self.settings["min_dynamic_patch"], self.settings["max_dynamic_patch"])
        detail = budget if self.settings["dynamic_image_size"] else (1, 1)
        adaptive = (1, 4) if self.code == "minimonkey" else None
        return PyramidSpec(tile_px=56, detail=detail, adaptive=adaptive, exclude="either", thumbnail=self.settings["use_thumbnail"])

    @property
    def processor(self) -> MiniMonkeyProcessor:
        made = processor(self.checkpoint)
        made.chat_template = chat_template(self.settings["template"])
        return made

    def labels(self, row: str) -> list[int]:
        recorded = self.rows[row]
        labels = [-100] * len(recorded["input_ids"])
        for start, stop in recorded["label_spans"]:
            labels[start:stop] = recorded["input_ids"][start:stop]
        return labels

    def tiles(self, row: str) -> int:
        return sum(self.rows[row]["image_flags"])


def recorded(checkpoint: str, code: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "training" / checkpoint / f"rows_{code}.json").read_text("utf-8"))


def settings_of(checkpoint: str, code: str) -> Iterator[Setting]:
    for name, each in recorded(checkpoint, code)["configs"].items():
        if code == "internvl" or each["settings"]["dynamic_image_size"]:  # Mini-Monkey's code fails without dynamic tiles
            yield Setting(checkpoint, code, name, each["settings"], each["rows"])


@lru_cache(maxsize=8)
def processor(checkpoint: str) -> MiniMonkeyProcessor:
    if checkpoint != "phi3-tokenizer":
        return find_folder(GOLDEN / checkpoint).published.processor()
    settings = {"llm_config": {"architectures": ["Phi3ForCausalLM"], "vocab_size": 1000}}
    tokenizer = published_tokenizer(GOLDEN / "training" / checkpoint, settings)
    tiles = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=56))
    return MiniMonkeyProcessor(tiles, tokenizer, chat_template=chat_template("phi3-chat"), image_seq_length=4)


def sha256_of_tiles(pixel_values: torch.Tensor, image_processor: MiniMonkeyImageProcessor) -> str:
    """The checksum of the tiles before they were normalised."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std))
    tiles = ((pixel_values * deviation + mean) * 255).round().to(torch.uint8)
    return hashlib.sha256(tiles.numpy().tobytes()).hexdigest()
