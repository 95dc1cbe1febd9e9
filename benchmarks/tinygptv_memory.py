"""Does TinyGPT-V fit a device with 8 GB? Peak memory of loading it in 8 and 4 bits, and of an answer.

    python benchmarks/tinygptv_memory.py [--share 1.0] [--folder DIR] [--bits int8 int4]

Writes a random folder of the whole model's shape (EVA ViT-g, Q-Former, projections, Phi-2 with its updates: 3.9 billion parameters
in bfloat16), a tensor at a time; then a fresh process for each number of bits loads it and answers about a picture of 448 px. What
counts is the process's own memory (RssAnon, interpreter and torch included) and what of the weights stays mapped from the file.
Bar: 8 GB for both. Exits 1 if it is missed. `--share` makes everything narrower, to try it; `--folder` is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minimonkey.evaluation.peak_memory import PeakMemory, private_bytes

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "tinygptv"
BAR_BYTES = 8 * 10**9
NEW_TOKENS = 16
PARTS = {
    "vision encoder": "model.vision_tower.",
    "Q-Former and projections": ("model.qformer.", "model.multi_modal_projector.", "model.query_tokens", "model.vision_layernorm."),
    "embeddings and head": ("model.language_model.embed_tokens.", "lm_head."),
    "decoder layers": ("model.language_model.layers.", "model.language_model.final_layernorm."),
}
"""Begins of the names of parameters."""


def settings(share: float) -> dict:
    """The fields of the published model's configuration; widths and layers are a share of them, in whole blocks."""

    def part(number: int, block: int) -> int:
        return max(1, round(number * share / block)) * block

    vision = {"hidden_size": part(1408, 176), "intermediate_size": part(6144, 64), "num_hidden_layers": part(39, 1)}
    vision |= {
        "num_attention_heads": part(1408, 176) // 88,
        "model_type": "blip_2_vision_model",
        "image_size": 224,
        "patch_size": 14,
    }
    qformer = {"hidden_size": part(768, 64), "intermediate_size": part(3072, 64), "num_hidden_layers": part(12, 2)}
    text = {"hidden_size": part(2560, 160), "intermediate_size": part(10240, 64), "num_hidden_layers": part(32, 1)}
    text |= {"num_attention_heads": part(2560, 160) // 80, "vocab_size": part(51200, 512), "partial_rotary_factor": 0.4}
    return {
        "vision_config": vision,
        "qformer_config": qformer | {"num_attention_heads": part(768, 64) // 64},
        "text_config": text | {"hidden_act": "gelu_new", "lora_rank": 64, "max_position_embeddings": 2048},
        "projector_hidden_size": part(4096, 64),
    }


def write_model(folder: Path, share: float) -> None:
    """A native folder of this shape with random weights, and the recorded folder's processor."""
    import torch

    import minimonkey
    from minimonkey.checkpoints.rules import disk_name
    from minimonkey.checkpoints.tensors import LazyTensor, write_shards
    from minimonkey.models.tinygptv.configuration import TinyGPTVConfig
    from minimonkey.models.tinygptv.modeling import TinyGPTVForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    processor = minimonkey.load(GOLDEN / "checkpoint", vision_heads=3).processor
    processor.save_pretrained(folder)
    config = TinyGPTVConfig(**settings(share), image_token_id=processor.image_token_id, image_seq_length=32)
    config.architectures, config.dtype = [TinyGPTVForConditionalGeneration.__name__], "bfloat16"
    config.save_pretrained(folder)
    with torch.device("meta"):
        network = TinyGPTVForConditionalGeneration(config)
    shapes = {disk_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02)

    lazy = {name: LazyTensor(shape, lambda shape=shape: random(shape)) for name, shape in shapes.items()}
    write_shards(lazy, folder, shard_bytes=10**9)


def measure(folder: Path, bits: str) -> dict:
    """Load, answer, and say what took how much. In a process of its own."""
    import minimonkey.inference

    before, begun = private_bytes(), time.perf_counter()
    with PeakMemory() as loading:
        vlm = minimonkey.load(folder, device="cpu", dtype="bfloat16", quantize=bits)
    loaded = time.perf_counter()
    weights = {name: stored_bytes(tensor) for name, tensor in vlm.model.named_parameters()}
    weights |= {name: stored_bytes(tensor) for name, tensor in vlm.model.named_buffers()}
    mapped = max(0, sum(weights.values()) - (private_bytes() - before))
    with PeakMemory() as answering:
        vlm.ask(GOLDEN / "images" / "scene_c.png", "what is this?", max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    parts = {part: sum(size for name, size in weights.items() if name.startswith(begin)) for part, begin in PARTS.items()}
    return {
        "parameters": sum(tensor.numel() for tensor in vlm.model.parameters()),
        "loading": loading.bytes + mapped,
        "answering": answering.bytes + mapped,
        "mapped": mapped,
        "before": before,
        "parts": parts,
        "seconds": (loaded - begun, time.perf_counter() - loaded),
    }


def stored_bytes(tensor) -> int:
    """What a tensor takes: those of torchao are several behind one that looks full."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    state = getattr(tensor, "quant_state", None)  # of bitsandbytes: scales beside the packed values
    return tensor.numel() * tensor.element_size() + (state.absmax.numel() * state.absmax.element_size() if state else 0)


def report(bits: str, found: dict) -> bool:
    """Print what was found; whether it is within the bar."""
    gigabytes = {name: found[name] / 10**9 for name in ("loading", "answering", "before", "mapped")}
    parts = ", ".join(f"{name} {size / 10**9:.2f}" for name, size in found["parts"].items())
    print(
        f"{bits}: {found['parameters'] / 10**9:.2f} billion stored numbers; peak of loading {gigabytes['loading']:.2f} GB, of "
        f"answering {gigabytes['answering']:.2f} GB (bar {BAR_BYTES / 10**9:.0f}); of it interpreter and libraries "
        f"{gigabytes['before']:.2f}, mapped from the file {gigabytes['mapped']:.2f}; weights: {parts}; "
        f"loaded in {found['seconds'][0]:.0f} s, {NEW_TOKENS} tokens in {found['seconds'][1]:.0f} s",
        flush=True,
    )
    return max(found["loading"], found["answering"]) <= BAR_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of widths and layers; 1 is the real shape")
    parser.add_argument("--folder", type=Path, help="where the model is written, and kept; used again if it is there")
    parser.add_argument("--bits", nargs="+", default=["int8", "int4"], choices=["int8", "int4"])
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "BITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").is_file():
            write_model(folder, options.share)
        fits = []
        for bits in options.bits:
            command = [sys.executable, __file__, "--measure", str(folder), bits]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            fits.append(report(bits, json.loads(output.splitlines()[-1])))
    sys.exit(not all(fits))


if __name__ == "__main__":
    main()
