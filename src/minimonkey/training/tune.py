"""`minimonkey train` on people's rows: from a recipe to a tuned model, or to adapters for one.

recipe -> model, parts, adapters -> mixture, batches -> accelerate -> loop -> folder/tuned
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from minimonkey.checkpoints.folder import ModelFolder, find_folder
from minimonkey.checkpoints.load import load_network, load_processor
from minimonkey.data.mixture import Mixture
from minimonkey.data.mixture_file import DataSet, MixtureSpec, read_mixture
from minimonkey.data.readers import raw_rows
from minimonkey.errors import UsageError
from minimonkey.memory import explain_out_of_memory
from minimonkey.training.batches import Batches, Loaded, Place, TrainingRows
from minimonkey.training.config import TuningRecipe
from minimonkey.training.drop_path import add_drop_path
from minimonkey.training.loop import LoopSettings, TrainingLoop, checkpoints, not_finite
from minimonkey.training.objective import AnswerLoss, batch_weight
from minimonkey.training.parameters import add_adapters, freeze, groups, make_optimizer, rate_factor
from minimonkey.training.state import read_state, trained_parameters, write_state

TUNED = "tuned"
"""The folder, in that of the run, that `minimonkey.load` takes (with `adapter=` if it holds adapters)."""
PLACE = "place.json"


class Tuning(TrainingLoop):
    """A run over people's rows."""

    def __init__(
        self, recipe: TuningRecipe, folder: Path, objective: AnswerLoss, batches: Batches, accelerator: Accelerator
    ) -> None:
        self.recipe, self.batches, self.accelerator = recipe, batches, accelerator
        self.optimizer = make_optimizer(groups(objective.network, recipe.resolved, recipe.optimizer), recipe.optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        steps = recipe.steps or max(1, round(recipe.epochs * batches.steps_per_epoch()))
        settings = LoopSettings(
            recipe.name,
            steps,
            recipe.log_every,
            recipe.checkpoint_minutes,
            recipe.keep_checkpoints,
            recipe.max_minutes,
            recipe.evaluation.every if recipe.evaluation else 0,
        )
        super().__init__(settings, folder, is_main=accelerator.is_main_process)
        objective.always_encodes = accelerator.num_processes > 1
        self.objective, self.prepared = accelerator.prepare(objective, self.optimizer)
        self.place = Place()
        self._loaded: Iterator[Loaded] | None = None
        self._latest: Loaded | None = None

    @property
    def bare(self) -> AnswerLoss:
        return self.accelerator.unwrap_model(self.objective)

    def take_step(self) -> dict[str, float]:
        began = time.perf_counter()
        if self._loaded is None:
            self._loaded = self.batches.load(self.place)
        loaded = [next(self._loaded) for _ in range(self.recipe.accumulate)]
        waited = time.perf_counter() - began
        self.objective.train()
        weight = torch.stack([batch_weight(each.batch, self.recipe.reduction) for each in loaded]).sum()
        total = self.accelerator.reduce(weight.to(self.accelerator.device))
        losses = [self._backward(each, total, last=each is loaded[-1]) for each in loaded]
        loss = float(self.accelerator.reduce(torch.stack(losses).sum(), reduction="mean"))
        if not torch.isfinite(torch.tensor(loss)):
            self._give_up(loaded)
            raise not_finite("loss", self.step, self._names(loaded))
        norm = self._clip()
        if not torch.isfinite(torch.tensor(norm)):
            self._give_up(loaded)
            raise not_finite("gradient", self.step, self._names(loaded))
        factor = rate_factor(self.step, self.settings.steps, self.recipe.optimizer)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.prepared.step()
        self.prepared.zero_grad()
        self.place, self._latest = loaded[-1].behind, loaded[-1]
        return self._figures(loaded, time.perf_counter() - began, waited) | {
            "loss": loss,
            "gradient_norm": norm,
            "rate": self.recipe.optimizer.rate * factor,
        }

    def _backward(self, loaded: Loaded, total: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Gradients of a micro-batch, added to those that there are; DDP averages over processes, the loss is a sum."""
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in loaded.batch.items()}
        self.prepared.gradient_state._set_sync_gradients(last)
        with self.accelerator.autocast():
            if last or self.accelerator.num_processes == 1:
                loss = self.objective(batch, total) * self.accelerator.num_processes
                self.accelerator.backward(loss)
            else:
                with self.accelerator.no_sync(self.objective):
                    loss = self.objective(batch, total) * self.accelerator.num_processes
                    self.accelerator.backward(loss)
        return loss.detach()

    def _clip(self) -> float:
        learning = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        limit = self.recipe.optimizer.clip_norm
        norm = self.accelerator.clip_grad_norm_(learning, torch.inf if limit is None else limit)
        assert norm is not None
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _give_up(self, loaded: list[Loaded]) -> None:
        """Leave the weights as they are."""
        self.prepared.zero_grad()

    def _names(self, loaded: list[Loaded]) -> list[str]:
        mixture = self.batches.rows.mixture
        return [mixture.where(mixture.draw(number)) for each in loaded for number in each.numbers][:8]

    def _figures(self, loaded: list[Loaded], seconds: float, waited: float) -> dict[str, float]:
        ranks = self.accelerator.num_processes
        tokens = sum(each.batch["input_ids"].numel() for each in loaded) * ranks
        tiles = sum(len(each.batch.get("pixel_values", ())) for each in loaded) * ranks
        figures = {"tokens_per_s": tokens / seconds, "tiles_per_s": tiles / seconds, "waiting": waited / seconds}
        if self.accelerator.device.type == "cuda":
            figures["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return figures

    def is_sound(self) -> bool:
        if not all(bool(parameter.isfinite().all()) for parameter in trained_parameters(self.bare).values()):
            return False
        if self._latest is None:
            return True
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in self._latest.batch.items()}
        random = torch.get_rng_state()
        with torch.no_grad(), self.accelerator.autocast():
            loss = self.objective(batch)
        torch.set_rng_state(random)  # a look must not change what comes
        return bool(loss.isfinite())

    def write(self, folder: Path) -> None:
        write_state(folder, self.bare, self.optimizer, is_main=self.is_main)
        if self.is_main:
            state = {"place": list(self.place), "mixture": self.batches.rows.mixture.state(0), "ranks": self.batches.ranks}
            (folder / PLACE).write_text(json.dumps(state))

    def read(self, folder: Path) -> None:
        read_state(folder, self.bare, self.optimizer)
        state = json.loads((folder / PLACE).read_text())
        self.batches.rows.mixture.position(state["mixture"])
        window, batch = state["place"]
        if state["ranks"] != self.batches.ranks and batch:
            window, batch = window + 1, 0  # another number of processes has other windows: go on behind this one
        self.place = Place(window, batch)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()  # type: ignore[attr-defined]  # it is a generator: this ends the workers


def open_mixture(recipe: TuningRecipe) -> Mixture:
    """The rows of a recipe, one file or several. Raises DataError, UsageError."""
    data = recipe.data
    spec = read_mixture(data.mixture, root=data.root) if data.mixture is not None else _single(recipe)
    return Mixture(spec, [open_rows(spec.path(each.rows)) for each in spec.sets], recipe.seed)


def _single(recipe: TuningRecipe) -> MixtureSpec:
    rows, images = Path(str(recipe.data.rows)).resolve(), recipe.data.images
    folder = str(Path(images).resolve()) if images is not None else None
    return MixtureSpec(recipe.name, sets=(DataSet("rows", str(rows), folder),), root=".")


def open_rows(path: Path) -> Any:
    """Rows by number: JSONL is read lazily, JSON and Parquet are held in memory."""
    from minimonkey.data.json_lines import JsonLines

    return JsonLines(path) if path.suffix == ".jsonl" else [row.value for row in raw_rows(path)]


@explain_out_of_memory(
    "training", "lower batch_rows, packing.max_tokens or max_tiles, train adapters (stage=lora), or set gradient_checkpointing"
)
def tune(recipe: TuningRecipe, folder: Path) -> Path:
    """Run a recipe to its end in a folder that is there and ours, going on where an earlier call stopped.

    Args:
        recipe: what to do.
        folder: the run's.

    Returns:
        The folder of the tuned model or adapters; that of the last checkpoint if `max_minutes` ended the call.

    Raises:
        UsageError, DataError, CheckpointError: one line each.
    """
    torch.manual_seed(recipe.seed)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=list(recipe.trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )
    found = find_folder(recipe.model)
    network, processor = open_model(found, recipe)
    objective = AnswerLoss(add_adapters(network, recipe.resolved), recipe.reduction, recipe.logit_chunk_tokens)
    rows = TrainingRows(open_mixture(recipe), processor, recipe)
    skipped = folder / "skipped.jsonl" if recipe.data.bad_rows == "skip" else None
    batches = Batches(rows, accelerator.process_index, accelerator.num_processes, skipped)
    run = Tuning(recipe, folder, objective, batches, accelerator)
    run.train()
    if run.step < run.settings.steps:
        return checkpoints(folder)[-1]
    return publish(run, found, processor)


def open_model(found: ModelFolder, recipe: TuningRecipe) -> tuple[Any, Any]:
    """The network, its parts frozen as the recipe says, and the processor, with the recipe's pyramid."""
    config = found.config("native")
    network = load_network(found, config, dtype=getattr(torch, recipe.dtype))
    processor = load_processor(found, config)
    if recipe.pyramid:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": recipe.pyramid})
        network.config.pyramid = dataclasses.asdict(processor.image_processor.spec)
    freeze(network, recipe.resolved)
    if recipe.drop_path:
        add_drop_path(network.model.vision_tower.encoder.layer, recipe.drop_path)
    if recipe.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.enable_input_require_grads()
    return network, processor


def publish(run: Tuning, found: ModelFolder, processor: Any) -> Path:
    """The tuned model, or its adapters, as `minimonkey.load` takes them; written beside its name, then moved there."""
    import shutil

    target, partial = run.folder / TUNED, run.folder / f".{TUNED}"
    state = run.accelerator.get_state_dict(run.objective) if run.accelerator.num_processes > 1 else None
    run.wait()
    if run.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        names = {} if state is None else {"state_dict": {key.removeprefix("model."): value for key, value in state.items()}}
        try:
            run.bare.model.save_pretrained(partial, **names)
            processor.save_pretrained(partial)
            if run.recipe.uses_lora:
                (partial / "base.json").write_text(json.dumps({"model": run.recipe.model}))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        except OSError as error:
            raise UsageError(f"can't write {target}: {error.strerror or error}; make room, the same command goes on") from error
    run.wait()
    return target


def ranks_of_environment() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
