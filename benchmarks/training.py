"""What do packing, the chunked loss and kept features save in training?

    python benchmarks/training.py [--rows 48] [--rounds 3] [--figures docs/performance.json]

Rows with lengths log-uniform in 256-4,096 tokens, forward and backward through a language model of Qwen2's kind (--width,
--depth), as samples a second: packed rows of 8,192 tokens (`minimonkey.data.pack`, a call a segment), against padded batches of
four rows in the order of the stream, and of four rows of similar length. The peak memory of the loss at vocabulary 92,553, 4,096
learnt tokens, width 2,048 in float32, gradients of hidden states and output layer included, each in a process of its own: in
chunks against logits as a whole. The embedded model with its encoder frozen: features from disk (`training.feature_cache`)
against encoding them again. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import minimonkey
from minimonkey.data import pack
from minimonkey.data.conversation import Medium
from minimonkey.data.packing import ExampleSize
from minimonkey.evaluation.speed import medians
from minimonkey.pyramid import PyramidSpec
from minimonkey.training.feature_cache import FeatureCache, encoded
from minimonkey.training.objective import AnswerLoss
from report import Bar, circumstances, conclude, options, parse

PACKED_BARS = {"random": 1.4, "grouped": 1.1}
MEMORY_BAR, FEATURES_BAR = 0.35, 2.0
BATCH_ROWS, PACKED_TOKENS, VOCABULARY = 4, 8192, 512
LOSS = """
import sys
import torch
from torch import nn
from minimonkey.evaluation.peak_memory import PeakMemory, private_bytes
from minimonkey.training.objective import chunked_cross_entropy

torch.set_num_threads(2)
tokens, width, vocabulary, how = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
hidden = torch.randn(tokens, width, requires_grad=True)
weight = torch.randn(vocabulary, width).mul_(0.02).requires_grad_()
labels = torch.randint(vocabulary, (tokens,))
before = private_bytes()
with PeakMemory() as peak:
    if how == "chunked":
        loss = chunked_cross_entropy(hidden, weight, labels, torch.ones(tokens)) / tokens
    else:
        loss = nn.functional.cross_entropy(nn.functional.linear(hidden, weight), labels)
    loss.backward()
print(peak.bytes - before)
"""


class TextModel(torch.nn.Module):
    """A language model in the place of ours: what `AnswerLoss` asks of a network, without pictures."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        config = Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=PACKED_TOKENS,
        )  # fmt: skip
        self.whole = Qwen2ForCausalLM(config)
        self.config = SimpleNamespace(image_token_id=-1)

    @property
    def model(self) -> torch.nn.Module:
        return self.whole.model

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.whole.lm_head


def lengths(rows: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    low, high = math.log(256), math.log(4096)
    return [round(math.exp(low + (high - low) * share)) for share in torch.rand(rows, generator=generator).tolist()]


def padded(sizes: list[int]) -> dict[str, torch.Tensor]:
    ids = torch.randint(VOCABULARY, (len(sizes), max(sizes)))
    mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    return {"input_ids": ids, "labels": torch.where(mask, ids, -100), "attention_mask": mask.long()}


def packed(sizes: list[int]) -> dict[str, torch.Tensor]:
    ids = torch.randint(VOCABULARY, (1, sum(sizes)))
    return {"input_ids": ids, "labels": ids.clone(), "cu_seqlens": torch.tensor([0, *sizes]).cumsum(0)}


def packing(given: argparse.Namespace) -> Iterator[Bar]:
    """Samples a second of the three ways."""
    objective = AnswerLoss(TextModel(given.width, given.depth)).train()
    sizes = lengths(given.rows)
    by_length = sorted(sizes)
    rows = list(pack(sizes, max_tokens=PACKED_TOKENS, size=lambda size: ExampleSize(size, 0)))
    ways: dict[str, list[dict[str, torch.Tensor]]] = {
        "packed": [packed(row) for row in rows],
        "random": [padded(sizes[at : at + BATCH_ROWS]) for at in range(0, len(sizes), BATCH_ROWS)],
        "grouped": [padded(by_length[at : at + BATCH_ROWS]) for at in range(0, len(sizes), BATCH_ROWS)],
    }

    def run(batches: list[dict[str, torch.Tensor]]) -> None:
        for batch in batches:
            objective.zero_grad()
            objective(batch).backward()

    found = medians({name: lambda batches=batches: run(batches) for name, batches in ways.items()}, given.rounds)
    for name, bar in PACKED_BARS.items():
        yield Bar(f"samples/s, packed against padded in {name} order", found[name] / found["packed"], bar)


def loss_memory(given: argparse.Namespace) -> Iterator[Bar]:
    """The chunked loss's peak as a share of the plain one's."""

    def peak(how: str) -> int:
        words = [sys.executable, "-c", LOSS, *map(str, (given.loss_tokens, given.loss_width, given.loss_vocabulary)), how]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    yield Bar("peak memory of the loss, in chunks against plain", peak("chunked") / peak("plain"), MEMORY_BAR, at_most=True)


def kept_features(given: argparse.Namespace) -> Iterator[Bar]:
    """A step of the embedded model's language model with a frozen encoder, its features from disk or computed."""
    vlm = minimonkey.load(device="cpu", dtype="float32")
    network, tiles = vlm.model.train(), given.tiles
    for part in (network.model.vision_tower, network.model.multi_modal_projector):
        part.requires_grad_(False)
    word = vlm.processor.tokenizer.convert_tokens_to_ids("a")
    ids = torch.tensor([[word] * 20 + [network.config.image_token_id] * (vlm.processor.image_seq_length * tiles) + [word] * 20])
    labels = torch.full_like(ids, -100)
    labels[:, -20:] = word
    pixels = torch.rand(tiles, 3, *network.config.vision_config.image_size)
    objective = AnswerLoss(network)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), "w")
        key = cache.key(Medium("image", b"pixels"), PyramidSpec())
        cache.store([key], [tiles], encoded(network, pixels))

        def step(batch: Callable[[], dict[str, torch.Tensor]]) -> None:
            objective.zero_grad()
            objective(batch()).backward()

        text = {"input_ids": ids, "labels": labels}
        found = medians(
            {
                "kept": lambda: step(lambda: text | {"image_features": cache.load([key])}),
                "computed": lambda: step(lambda: text | {"pixel_values": pixels}),
            },
            given.rounds,
        )
    yield Bar("samples/s, features from disk against a frozen encoder", found["computed"] / found["kept"], FEATURES_BAR)


def measure(given: argparse.Namespace) -> Iterator[Bar]:
    yield from packing(given)
    yield from kept_features(given)
    yield from loss_memory(given)


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--tiles", type=int, default=20)
    parser.add_argument("--loss-tokens", type=int, default=4096)
    parser.add_argument("--loss-width", type=int, default=2048)
    parser.add_argument("--loss-vocabulary", type=int, default=92_553)
    given = parse(parser, "rows", "width", "depth")
    sys.exit(conclude("training", circumstances(given), measure(given), given.figures))
