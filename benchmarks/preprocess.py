"""How long does a scanned page take to become pixel values, against transformers' own PIL image processor?

    python benchmarks/preprocess.py [--rounds 15]

An A4 page at 200 dpi (1654x2339 px) in 448-px tiles: plain tiling at 24 tiles and a thumbnail, in both; and the pyramid of
12-24/3-5 tiles, 29 in all, for each tile. Rounds alternate between the rivals; medians. Exits with 1 if a bar is missed.
"""

import argparse
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from minimonkey.evaluation.speed import medians
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.pyramid import PyramidSpec

PLAIN_BAR, PYRAMID_BAR = 0.6, 0.75
RIVAL = {
    "crop_to_patches": True,
    "min_patches": 12,
    "max_patches": 24,
    "size": {"height": 448, "width": 448},
    "resample": Image.Resampling.BICUBIC,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def page() -> Image.Image:
    """Dark marks in rows on light paper, with the noise of a scanner."""
    rng = np.random.default_rng(0)
    marks = rng.random((2339 // 4, 1654 // 6)) < 0.3
    marks[::3] = False
    ink = np.kron(marks, np.ones((4, 6), bool))
    grey = np.full((2339, 1654), 235.0)
    grey[: ink.shape[0], : ink.shape[1]][ink] = 40
    return Image.fromarray((grey[..., None] + rng.normal(0, 6, (2339, 1654, 3))).clip(0, 255).astype(np.uint8))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    picture = page()
    rival = GotOcr2ImageProcessorPil(**RIVAL)
    contenders = {
        "rival": rival,
        "plain": MiniMonkeyImageProcessor(pyramid=PyramidSpec.plain(12, 24)),
        "pyramid": MiniMonkeyImageProcessor(pyramid=PyramidSpec(detail=(12, 24), adaptive=(3, 5))),
    }
    calls = {name: lambda processor=processor: processor(picture, return_tensors="pt") for name, processor in contenders.items()}
    outputs = {name: call().pixel_values for name, call in calls.items()}  # warms up too
    tiles = {name: len(output) for name, output in outputs.items()}
    assert tiles == {"rival": 25, "plain": 25, "pyramid": 29}, tiles
    difference = (outputs["rival"] - outputs["plain"]).abs().max().item()
    assert difference <= 1e-6, difference

    median = medians(calls, rounds, warm_up=0)
    plain = median["plain"] / median["rival"]
    pyramid = (median["pyramid"] / tiles["pyramid"]) / (median["rival"] / tiles["rival"])
    settings = ", ".join(f"{name}={value}" for name, value in RIVAL.items())
    print(f"rival: transformers {transformers.__version__} GotOcr2ImageProcessorPil({settings})")
    print(f"page 1654x2339, {rounds} alternating rounds, medians, {torch.get_num_threads()} threads")
    for name in contenders:
        print(f"{name:<8} {tiles[name]} tiles  {median[name] * 1e3:7.1f} ms  {median[name] / tiles[name] * 1e3:6.2f} ms a tile")
    print(f"plain / rival                {plain:.3f}  (bar {PLAIN_BAR}; values differ by {difference:.0e} at most)")
    print(f"pyramid / rival, for a tile  {pyramid:.3f}  (bar {PYRAMID_BAR})")
    return 0 if plain <= PLAIN_BAR and pyramid <= PYRAMID_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
