"""Tensors that are read when they are asked for: views of weight files, and folders written a shard at a time.

A `LazyTensor` knows its shape; `tensor[...]` reads it, which is also how transformers reads what `from_pretrained(state_dict=...)`
is given. Nothing larger than what is asked for gets into memory: files are mapped, not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from minimonkey.errors import CheckpointError
from minimonkey.models.strict_loading import INDEX, WHOLE

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a known shape that `tensor[...]` reads."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    def __getitem__(self, _: object) -> torch.Tensor:
        return self.read()


@contextmanager
def opened(files: list[Path]) -> Iterator[dict[str, LazyTensor]]:
    """All tensors of these safetensors files, by name, as long as the context lasts.

    Raises CheckpointError for a name in two files.
    """
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        for file in files:
            handle = stack.enter_context(safe_open(file, framework="pt"))
            for name in handle.keys():
                if name in tensors:
                    raise CheckpointError(f"{file}: {name} is in another weight file, too; get the folder anew")
                shape = tuple(handle.get_slice(name).get_shape())
                tensors[name] = LazyTensor(shape, lambda handle=handle, name=name: handle.get_tensor(name))  # type: ignore[misc]
        yield tensors


def write_shards(tensors: Mapping[str, LazyTensor], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as model.safetensors, or as numbered shards with an index; at most one shard is in memory at a time."""
    shards: list[tuple[Path, list[str]]] = []
    held: dict[str, torch.Tensor] = {}
    held_bytes = total = 0

    def write() -> None:
        shards.append((folder / f"shard-{len(shards)}", list(held)))
        save_file(held, shards[-1][0], metadata={"format": "pt"})
        held.clear()

    for name, tensor in tensors.items():
        values = tensor[...].contiguous()
        if held and held_bytes + values.nbytes > shard_bytes:
            write()
            held_bytes = 0
        held[name] = values
        held_bytes += values.nbytes
        total += values.nbytes
    write()
    if len(shards) == 1:
        shards[0][0].rename(folder / WHOLE)
        return
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file.rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
