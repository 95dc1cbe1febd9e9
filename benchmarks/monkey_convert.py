"""How much memory does converting the whole of Monkey take, from its published layout to ours and back?

    python benchmarks/monkey_convert.py [--share 1.0] [--folder DIR]

Makes a random checkpoint of Monkey's shape in the published layout (9.8 billion parameters, 19.5 GB of bfloat16 in shards of 2 GB),
converts it to native and back in fresh processes, and reports the peak of anonymous memory (RssAnon: what isn't a mapped file) of
each. Every tensor that comes back is held against its original, bit by bit. Bar: 8 GB. Exits 1 if it is missed. `--share` builds so
much of the layers alone; three times the weights must fit on the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path("tests/golden/monkey/checkpoint")
BAR = 8 * 10**9
SHARD_BYTES = 2 * 10**9
SHAPE = {"hidden_size": 4096, "intermediate_size": 22016, "num_attention_heads": 32, "kv_channels": 128, "vocab_size": 151936}
VISUAL = {"width": 1664, "heads": 16, "output_dim": 4096, "mlp_ratio": 4.9231}
CONVERT = """
import sys, time
from minimonkey.checkpoints.convert import convert
from minimonkey.evaluation.peak_memory import PeakMemory

start = time.perf_counter()
with PeakMemory() as peak:
    convert(sys.argv[1], sys.argv[2], to=sys.argv[3])
print(peak.bytes, time.perf_counter() - start)
"""


def make_checkpoint(folder: Path, share: float) -> int:
    """A random published folder of Monkey's shape, tokenizer and settings of the golden one. Returns its number of parameters."""
    import torch

    from minimonkey.checkpoints.family import published_shapes
    from minimonkey.checkpoints.folder import ModelFolder
    from minimonkey.checkpoints.rules import disk_name
    from minimonkey.checkpoints.tensors import LazyTensor, write_shards

    for file in GOLDEN.iterdir():
        if not file.name.startswith("model"):
            shutil.copyfile(file, folder / file.name)
    settings = json.loads((folder / "config.json").read_text())
    settings |= SHAPE | {"num_hidden_layers": max(1, round(32 * share))}
    settings["visual"] |= VISUAL | {"layers": max(1, round(48 * share))}
    (folder / "config.json").write_text(json.dumps(settings))
    model = ModelFolder(folder, settings, str(folder))
    with torch.device("meta"):
        network = model.family.network(model.config("native"))
    native = {disk_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.bfloat16)  # any bits, NaNs among them

    lazy = {name: LazyTensor(s, lambda s=s: random(s)) for name, s in published_shapes(native, model.published.rules).items()}
    write_shards(lazy, folder, shard_bytes=SHARD_BYTES)
    return sum(parameter.numel() for parameter in network.parameters())


def check_equal(one: Path, other: Path) -> None:
    """Raises AssertionError unless two folders hold the same tensors, bit by bit."""
    import torch

    from minimonkey.checkpoints.files import weight_files
    from minimonkey.checkpoints.tensors import opened

    with opened(weight_files(one)) as first, opened(weight_files(other)) as second:
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor[...].view(torch.int16), second[name][...].view(torch.int16)), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="how much of the layers")
    parser.add_argument("--folder", default=None, help="where there is room for three times the weights")
    arguments = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        names = ("published", "native", "again")
        published, native, again = (Path(temporary, name) for name in names)
        published.mkdir()
        print(f"{make_checkpoint(published, arguments.share) / 1e9:.2f} billion parameters")
        for source, destination, to in ((published, native, "native"), (native, again, "published")):
            command = [sys.executable, "-c", CONVERT, str(source), str(destination), to]
            peak, seconds = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            missed |= int(peak) > BAR
            print(f"to {to}: peak of RssAnon {int(peak) / 1e9:.2f} GB (bar {BAR / 1e9:.0f}), {float(seconds):.0f} s")
        check_equal(published, again)
        print("what came back is equal, bit by bit")
    sys.exit(missed)


if __name__ == "__main__":
    main()
