"""Adapters in a folder of their own, as peft writes them, and whether a model is the one that they were trained on.

adapter_config.json, adapter_model.safetensors   peft's
base.json                                        the model below, a few of its numbers, and how pictures are cut
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from minimonkey.checkpoints.folder import first_line, read_json
from minimonkey.errors import CheckpointError, MissingExtraError

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
SAMPLES = 16
"""Tensors of a fingerprint, and numbers of each."""


@dataclass(frozen=True)
class AdapterBase:
    """The model that adapters were trained on."""

    model: str
    """Its folder or hub id."""
    pyramid: dict[str, Any] | None = None
    """How pictures were cut."""
    fingerprint: dict[str, list[float]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        (folder / BASE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> AdapterBase | None:
        """None where the file is missing: of adapters that others trained. Raises CheckpointError."""
        if not (folder / BASE).exists():
            return None
        try:
            return cls(**read_json(folder / BASE))
        except TypeError as error:
            raise CheckpointError(f"{folder / BASE}: {first_line(error)}; get the folder anew") from error


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    """A few numbers that tell a model from others of its shape.

    Args:
        tensors: those of a network that adapters leave as they are, by name.

    Returns:
        Numbers of norms, biases and embeddings, which quantizers leave alone, rounded to bfloat16: the same in whichever format
        the model is loaded.
    """
    names = [name for name in sorted(tensors) if tensors[name].is_floating_point() and "base_layer" not in name]
    names = [name for name in names if tensors[name].ndim == 1 or "embed" in name]
    return {name: _sampled(tensors[name]) for name in names[:: max(1, -(-len(names) // SAMPLES))]}


def _sampled(tensor: torch.Tensor) -> list[float]:
    flat = tensor.detach().flatten()
    return flat[:: max(1, -(-len(flat) // SAMPLES))].to("cpu", torch.bfloat16).tolist()


def with_adapter(network: nn.Module, folder: Path, base: AdapterBase | None) -> Any:
    """The network with the adapters of a folder in its layers, wrapped by peft.

    Raises:
        CheckpointError: the folder is missing or broken, or its adapters are of another model.
        MissingExtraError: peft isn't installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "train", "an adapter") from error
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"adapter {folder}: expected a folder with {CONFIG} and {WEIGHTS}")
    if base is not None:
        _check_base(network, folder, base)
    read_json(folder / CONFIG)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            saved = set(file.keys())
        with peft_warnings():
            wrapped = peft.PeftModel.from_pretrained(network, str(folder))
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"adapter {folder}: broken, or of another model ({first_line(error)})") from error
    if saved != set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)):
        raise CheckpointError(f"adapter {folder}: is of another model: its layers aren't those of this one")
    return wrapped.eval()


def _check_base(network: nn.Module, folder: Path, base: AdapterBase) -> None:
    own = dict(network.named_parameters())
    for name, expected in base.fingerprint.items():
        found = _sampled(own[name]) if name in own else []
        exact = name not in own or own[name].dtype != torch.float16  # which rounds once more
        limits = torch.tensor(expected).abs() * (0 if exact else 0.01)
        if len(found) != len(expected) or bool(((torch.tensor(found) - torch.tensor(expected)).abs() > limits).any()):
            raise CheckpointError(f"adapter {folder}: was trained on {base.model}, which this model isn't; load it with that one")


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Without those that are none of ours to mend."""
    with warnings.catch_warnings():
        # peft 0.21 asks for a name that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)  # told as an error
        yield
