"""Files that torch.save wrote (.pth, .pt, .bin): tensors and plain containers are read from them, nothing in them is ever run.

Tensors stay in the file until they are used: it is mapped where its format allows that.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.serialization import pickle as saved_objects  # for the name of its error alone

from minimonkey.checkpoints.tensors import LazyTensor
from minimonkey.errors import CheckpointError


def read_torch_file(file: Path) -> Mapping[str, Any]:
    """What torch.save wrote: a mapping of tensors, containers, numbers and text.

    Args:
        file: the file, as today's torch writes it (a zip archive, which is mapped) or as it did before 1.6.

    Raises:
        CheckpointError: it is missing, broken, no mapping, or holds an object of any other kind, which is not made.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing") from None
    except saved_objects.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds something else than tensors, numbers, text and containers of them, or is cut short; nothing in it was "
            "run, get the file anew from those who published it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{file}: broken or cut short ({reason}); get the file anew") from error
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}; expected tensors by their names")
    return content


def lazy_tensors(content: Mapping[str, Any], file: Path) -> dict[str, LazyTensor]:
    """The tensors of a mapping by name. Raises CheckpointError, naming the file, for anything else in it."""
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(f"{file}: {others[0]} is a {type(content[others[0]]).__name__}; expected tensors alone")
    return {name: LazyTensor(tuple(tensor.shape), partial(_same, tensor)) for name, tensor in content.items()}


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()
