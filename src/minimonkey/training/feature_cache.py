"""What a frozen vision encoder makes of pictures, kept on disk: an encoder that doesn't learn says the same in every epoch.

A file a picture, named by what decides its content: the bytes, how they are cut, and the encoder's weights. Kept is what goes into
the projector, which may learn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from minimonkey.data.conversation import Medium
from minimonkey.errors import UsageError
from minimonkey.pyramid import PyramidSpec


class FeatureCache:
    """Features of pictures in a folder; any number of processes may share it."""

    def __init__(self, folder: Path, weights: str) -> None:
        """`weights` is the digest of the encoder's weights (`weights_digest`)."""
        self.folder, self.weights = folder, weights
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"can't write {folder}: {error.strerror or error}; name another folder, or leave cache_features out"
            ) from error

    def key(self, medium: Medium, spec: PyramidSpec) -> str:
        """The name of a picture's features."""
        cut = json.dumps(dataclasses.asdict(spec), sort_keys=True)
        return hashlib.sha256(f"{_content(medium.source)} {cut} {self.weights}".encode()).hexdigest()

    def load(self, keys: Sequence[str]) -> torch.Tensor | None:
        """Features of several pictures [T, N, W], one after the other; None unless all are there and sound."""
        try:
            return torch.cat([load_file(self._file(key))["features"] for key in keys])
        except (OSError, SafetensorError, KeyError):  # not there yet, or left half written by another program
            return None

    def store(self, keys: Sequence[str], tile_counts: Sequence[int], features: torch.Tensor) -> None:
        """Keep the features of several pictures.

        Args:
            keys: of the pictures.
            tile_counts: tiles of each.
            features: [T, N, W], in the order of the pictures.
        """
        for key, part in zip(keys, features.detach().cpu().split(list(tile_counts)), strict=True):
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".")
            os.close(handle)
            save_file({"features": part.contiguous()}, name)
            os.replace(name, self._file(key))

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def weights_digest(encoder: nn.Module) -> str:
    """A digest of an encoder's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=65_536)
def _digest_of_file(path: str, size: int, changed_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(source: str | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    found = os.stat(source)
    return _digest_of_file(source, found.st_size, found.st_mtime_ns)


def encoded(network: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """What goes into the projector for these tiles: [T, N, W]."""
    seen: list[torch.Tensor] = []
    hook = network.model.multi_modal_projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            network.model.get_image_features(pixel_values, return_dict=True)
    finally:
        hook.remove()
    return torch.cat(seen)
