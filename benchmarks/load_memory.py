"""How much memory does loading a published checkpoint take, beyond the weights themselves?

    python benchmarks/load_memory.py [--layers N]

Makes a random checkpoint of InternVL2-2B's shape in the published layout (4.4 GB of bfloat16 in shards) in a temporary folder,
loads it in a fresh process in bfloat16 and in float32, and reports the peak of anonymous memory (RssAnon: what isn't a mapped file)
as a multiple of the weights' bytes in that number format. Bar: 1.2. Exits 1 if it is missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path("tests/golden/minimonkey-internlm2-56")
BAR = 1.2
LOAD = """
import sys, time
import torch, minimonkey, minimonkey.inference
from minimonkey.evaluation.peak_memory import PeakMemory, private_bytes

before, start = private_bytes(), time.perf_counter()
with PeakMemory() as peak:
    vlm = minimonkey.load(sys.argv[1], device="cpu", dtype=sys.argv[2])
    seconds = time.perf_counter() - start
weights = sum(p.numel() * p.element_size() for p in vlm.model.parameters())
print(weights, peak.bytes - before, seconds)
"""


def make_checkpoint(folder: Path, layers: int) -> None:
    """A random published folder of InternVL2-2B's shape: InternViT-300M and InternLM2-1.8B, golden tokenizer, bfloat16, shards."""
    import torch

    from minimonkey.checkpoints.folder import ModelFolder
    from minimonkey.checkpoints.rules import disk_name, to_published
    from minimonkey.checkpoints.tensors import LazyTensor, write_shards
    from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

    for file in GOLDEN.glob("*"):
        if not file.name.startswith(("golden", "model")):
            shutil.copyfile(file, folder / file.name)
    settings = json.loads((folder / "config.json").read_text())
    settings["force_image_size"] = 448
    settings["vision_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "image_size": 448}
    settings["vision_config"]["num_hidden_layers"] = layers
    settings["llm_config"] |= {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "vocab_size": 92553}
    settings["llm_config"] |= {"num_key_value_heads": 8, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(settings))
    published = ModelFolder(folder, settings, str(folder))
    with torch.device("meta"):
        network = MiniMonkeyForConditionalGeneration(published.config("native"))
    shapes = {disk_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    lazy = {n: LazyTensor(s, lambda s=s: torch.empty(s, dtype=torch.bfloat16).uniform_(-0.02, 0.02)) for n, s in shapes.items()}
    write_shards(to_published(lazy, published.published.rules), folder, shard_bytes=2 * 10**9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24, help="of each part; 24 is the real shape")
    layers = parser.parse_args().layers
    missed = False
    with tempfile.TemporaryDirectory() as temporary:
        make_checkpoint(Path(temporary), layers)
        for dtype in ("bfloat16", "float32"):
            command = [sys.executable, "-c", LOAD, temporary, dtype]
            weights, peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            ratio = int(peak) / int(weights)
            missed |= ratio > BAR
            size = f"{int(weights) / 2**30:.2f} GiB"
            print(f"{dtype}: weights {size}, peak of RssAnon {ratio:.3f} of them (bar {BAR}), {float(seconds):.1f} s")
    sys.exit(missed)


if __name__ == "__main__":
    main()
