"""What a resume needs beside the data's place: trained tensors and the optimizer's memory, as safetensors and JSON.

Random numbers aren't kept, as each step seeds them anew. Tensors that FSDP has cut are put together for the file and cut again
when it's read, so that a checkpoint of two processes is read by one, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from minimonkey.errors import CheckpointError
from minimonkey.training.loop import broken

TRAINED, MEMORY, NUMBERS = "trained.safetensors", "optimizer.safetensors", "optimizer.json"


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is without FSDP; all processes have to ask for it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def cut_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, cut as another is."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Those that learn, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def write_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, is_main: bool = True) -> None:
    """Write trained tensors and the optimizer's memory.

    Args:
        folder: a new folder.
        module: what is trained.
        optimizer: its optimizer.
        is_main: whether this process writes; all have to take part.
    """
    trained = trained_parameters(module)
    names = {id(parameter): name for name, parameter in trained.items()}
    memory: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            where = f"{names[id(parameter)]}/{key}"
            if isinstance(value, torch.Tensor):
                memory[where] = whole(value).cpu().contiguous()
            else:
                numbers[where] = value
    tensors = {name: whole(parameter).cpu().contiguous() for name, parameter in trained.items()}
    if is_main:
        save_file(tensors, folder / TRAINED)
        save_file({name: tensor.clone() for name, tensor in memory.items()}, folder / MEMORY)
        (folder / NUMBERS).write_text(json.dumps(numbers))


def read_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Go on from what `write_state` has written.

    Raises:
        CheckpointError: a file is missing or broken, or is of a run that trained something else.
    """
    read_trained(folder, module)
    trained = trained_parameters(module)
    memory = _tensors(folder, MEMORY)
    numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    for where, value in (memory | numbers).items():
        name, _, key = where.rpartition("/")
        parameter = trained[name]
        if isinstance(value, torch.Tensor):
            value = cut_like(value, parameter) if value.shape == parameter.shape else value
            value = value if key == "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = value


def read_trained(folder: Path, module: nn.Module) -> None:
    """Take the trained tensors of a checkpoint. Raises CheckpointError as `read_state` does."""
    tensors, trained = _tensors(folder, TRAINED), trained_parameters(module)
    check_same(folder, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, trained)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(cut_like(tensors[name].to(parameter.dtype), parameter))


def _tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise broken(folder, error) from error


def check_same(folder: Path, found: Mapping[str, tuple[int, ...]], trained: Mapping[str, nn.Parameter]) -> None:
    """Raises CheckpointError if other tensors were trained, or of other shapes."""
    expected = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    if differing := sorted(found.keys() ^ expected.keys()):
        raise CheckpointError(
            f"{folder}: {differing[0]} {'was' if differing[0] in found else 'was not'} trained there; "
            "give this run another folder (out), or its recipe the former parts"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{folder}: {name} has the shape {list(found[name])}, here {list(shape)}; give this run another folder"
            )
