"""What comes of a run: a model's folder, or adapters for one, that `minimonkey.load` takes. Knows no rows and no loop."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network
from minimonkey.inference.adapters import WEIGHTS, AdapterBase, fingerprint, with_adapter
from minimonkey.training.config import PARTS, TuningRecipe
from minimonkey.training.loop import cant_write
from minimonkey.training.parameters import part_of

TUNED = "tuned"
"""The folder, in that of the run."""
MODULES = {"vision": ("vision_tower",), "projector": ("multi_modal_projector",), "language": ("language_model", "lm_head")}
"""The modules of each part, as peft names those that it saves whole."""


def publish(recipe: TuningRecipe, folder: Path, model: nn.Module, processor: Any, state: Mapping[str, torch.Tensor]) -> Path:
    """Write the tuned model, or its adapters, beside its name and move it there.

    Args:
        recipe: of the run.
        folder: the run's.
        model: what was trained, wrapped by peft where it has adapters.
        processor: the model's.
        state: all tensors of `model`, whole.

    Raises:
        UsageError: the disk is full.
    """
    target, partial, adapters = folder / TUNED, folder / f".{TUNED}", folder / ".adapters"
    try:
        for leftover in (partial, adapters):
            shutil.rmtree(leftover, ignore_errors=True)
        if recipe.uses_lora:
            _write_adapters(recipe, adapters if recipe.merge else partial, model, processor, state)
        if recipe.merge and recipe.uses_lora:
            model, state = _merged(recipe, adapters), {}
        if recipe.merge or not recipe.uses_lora:
            model.save_pretrained(partial, **({"state_dict": dict(state)} if state else {}))
            processor.save_pretrained(partial)
        shutil.rmtree(adapters, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise cant_write(target, error) from error
    return target


def _merged(recipe: TuningRecipe, adapters: Path) -> Any:
    """The base in full precision, whatever it was trained in, with the adapters in its weights."""
    found, base = find_folder(recipe.model), AdapterBase.read(adapters)
    assert base is not None, "we have just written it"
    network = load_network(found, found.config("native"), dtype=getattr(torch, recipe.dtype))
    network = with_adapter(network, adapters, base).merge_and_unload()
    network.config.pyramid = base.pyramid
    return network


def _write_adapters(recipe: TuningRecipe, partial: Path, model: Any, processor: Any, state: Mapping[str, torch.Tensor]) -> None:
    """peft's folder; parts that are trained without adapters are in it as `modules_to_save`."""
    parts = [name for name in PARTS if (part := recipe.resolved[name]).train and part.lora is None]
    config = model.peft_config["default"]
    config.modules_to_save = [module for part in parts for module in MODULES[part]] or None
    config.base_model_name_or_path = base = _base_name(recipe.model)
    model.save_pretrained(partial, state_dict=dict(state), save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
    if parts:
        more = {name: tensor.clone() for name, tensor in state.items() if part_of(name) in parts}
        save_file(load_file(partial / WEIGHTS) | more, partial / WEIGHTS, metadata={"format": "pt"})
    frozen = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in state.items()
        if "lora_" not in name and part_of(name) not in parts
    }
    AdapterBase(base, dataclasses.asdict(processor.image_processor.spec), fingerprint(frozen)).write(partial)


def _base_name(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model
