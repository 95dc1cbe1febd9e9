"""`minimonkey train` on people's rows: from a recipe to a tuned model, or to adapters for one.

recipe -> model, parts, adapters -> mixture, batches -> accelerate -> loop -> folder/tuned
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule

from minimonkey.checkpoints.folder import ModelFolder, find_folder
from minimonkey.checkpoints.load import load_network, load_processor
from minimonkey.data.mixture import Mixture
from minimonkey.data.mixture_file import DataSet, MixtureSpec, read_mixture
from minimonkey.data.readers import raw_rows
from minimonkey.errors import CheckpointError, MissingExtraError, UsageError, shown
from minimonkey.inference.device import Placement
from minimonkey.memory import explain_out_of_memory
from minimonkey.training.batches import Batches, Loaded, Place, TrainingRows
from minimonkey.training.config import TuningRecipe
from minimonkey.training.drop_path import add_drop_path
from minimonkey.training.feature_cache import FeatureCache, encoded, weights_digest
from minimonkey.training.held_out import HeldOut
from minimonkey.training.loop import Look, LoopSettings, TrainingLoop, checkpoint_of, checkpoints, not_finite
from minimonkey.training.objective import AnswerLoss, batch_weight
from minimonkey.training.parameters import add_adapters, freeze, groups, make_optimizer, rate_factor
from minimonkey.training.publish import TUNED, publish
from minimonkey.training.state import read_state, read_trained, trained_parameters, write_state

FEATURES = "features"
"""The folder, in that of the run, of what `cache_features` keeps."""
PLACE, RECIPE = "place.json", "recipe.json"
FIXED = ("model", "parts", "pyramid", "dtype", "quantize_base", "batch_rows", "packing", "group_by_length", "seed")
"""Keys that mean something to a checkpoint: what is in it, or which rows come next. Others may change before a run goes on."""
TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""The packages that will do for each."""


class Tuning(TrainingLoop):
    """A run over people's rows."""

    def __init__(
        self,
        recipe: TuningRecipe,
        folder: Path,
        objective: AnswerLoss,
        batches: Batches,
        accelerator: Accelerator,
        held_out: HeldOut | None = None,
    ) -> None:
        self.recipe, self.batches, self.accelerator, self.held_out = recipe, batches, accelerator, held_out
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
        super().__init__(settings, folder, is_main=accelerator.is_main_process, is_alone=accelerator.num_processes == 1)
        objective.always_encodes = not self.is_alone
        self.objective, _ = accelerator.prepare(objective, self.optimizer)  # the wrapped optimizer adds nothing to ours
        self.place = Place()
        self.features: FeatureCache | None = None
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
        self._seed()
        self.objective.train()
        weight = torch.stack([batch_weight(each.batch, self.recipe.reduction) for each in loaded]).sum()
        total = self.accelerator.reduce(weight.to(self.accelerator.device))
        losses = torch.stack([self._backward(each, total, last=each is loaded[-1]) for each in loaded])
        loss = float(self.accelerator.reduce(losses.sum(), reduction="mean"))
        if not math.isfinite(loss):
            self.optimizer.zero_grad()  # the weights stay as they are
            bad = [each for each, own in zip(loaded, losses.tolist(), strict=True) if not math.isfinite(own)]
            raise not_finite("loss", self.step, self._names(bad))
        norm = self._clip()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise not_finite("gradient", self.step, self._names(loaded))
        factor = rate_factor(self.step, self.settings.steps, self.recipe.optimizer)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.place, self._latest = loaded[-1].behind, loaded[-1]
        return self._figures(loaded, time.perf_counter() - began, waited) | {
            "loss": loss,
            "gradient_norm": norm,
            "rate": self.recipe.optimizer.rate * factor,
        }

    def _seed(self) -> None:
        """What is drawn in a step, for dropout and drop path, depends on the step alone: a resume has nothing to restore."""
        numbers = np.random.SeedSequence([self.recipe.seed, self.step, self.accelerator.process_index])
        torch.manual_seed(int(numbers.generate_state(1, np.uint64)[0] >> 1))

    def _backward(self, loaded: Loaded, total: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Gradients of a micro-batch, added to those that there are; DDP and FSDP average over processes, the loss is a sum."""
        batch = self._here(loaded)
        with nullcontext() if last or self.is_alone else self.accelerator.no_sync(self.objective):
            with self.accelerator.autocast():
                loss = self.objective(batch, total) * self.accelerator.num_processes
            self.accelerator.backward(loss)
        return loss.detach()

    def _here(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """A batch on this process's device; where processes share a model, they agree how often they call it."""
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in loaded.batch.items()}
        if self.recipe.cache_features and "pixel_values" in batch:
            batch = self._with_kept_features(batch, loaded.numbers)
        if isinstance(self.objective, FSDPModule) and self.recipe.packing is not None:
            own = len(batch["cu_seqlens"]) - 1 if "cu_seqlens" in batch else 1
            batch["calls"] = self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max()
        return batch

    def _with_kept_features(self, batch: dict[str, torch.Tensor], numbers: list[int]) -> dict[str, torch.Tensor]:
        """The batch with features in place of pixels: from disk, or encoded now and kept. As it is where its rows don't say which
        pictures there are: frames of a video, rows that were left out."""
        rows = self.batches.rows
        if self.features is None:
            self.features = FeatureCache(self.folder / FEATURES, weights_digest(self.bare.network.model.vision_tower))
        keys = []
        for number in numbers:
            spec = rows.processor.image_processor.spec_for({"pyramid": rows.pyramid(rows.mixture.draw(number)) or None})
            keys += [self.features.key(medium, spec) for medium in rows.conversation(number).media if medium.kind == "image"]
        tile_counts = batch["level_tiles"].sum(1).tolist()
        if len(keys) != len(tile_counts):
            return batch
        kept = self.features.load(keys)
        if kept is None or len(kept) != sum(tile_counts):
            kept = encoded(self.bare.network, batch["pixel_values"])
            self.features.store(keys, tile_counts, kept)
        others = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
        return others | {"image_features": kept.to(self.accelerator.device)}

    def _clip(self) -> float:
        learning = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        limit = self.recipe.optimizer.clip_norm
        norm = self.accelerator.clip_grad_norm_(learning, torch.inf if limit is None else limit)
        assert norm is not None
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

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
        own = (getattr(parameter, "_local_tensor", parameter) for parameter in trained_parameters(self.bare).values())
        sound = all(bool(parameter.isfinite().all()) for parameter in own)
        if self._latest is not None:
            self.objective.eval()
            with torch.no_grad(), self.accelerator.autocast():
                sound = bool(self.objective(self._here(self._latest)).isfinite()) and sound
            self._share_again()
        return not self.agree([not sound])[0]

    def agree(self, decisions: Sequence[bool]) -> list[bool]:
        if self.is_alone:
            return list(decisions)
        votes = torch.tensor(decisions, dtype=torch.float32, device=self.accelerator.device)
        return [vote > 0 for vote in self.accelerator.reduce(votes).tolist()]

    def evaluate(self) -> Look:
        assert self.held_out is not None
        with self.accelerator.autocast():
            look = self.held_out.look(self.objective, self.bare, self.accelerator.reduce)
        self._share_again()
        return look

    def _share_again(self) -> None:
        """After a forward pass without a backward one, FSDP leaves the outermost weights put together."""
        if isinstance(self.objective, FSDPModule):
            self.objective.reshard()

    def track(self, figures: dict[str, Any]) -> None:
        self.accelerator.log(figures, step=self.step)

    def write(self, folder: Path) -> None:
        write_state(folder, self.bare, self.optimizer, is_main=self.is_main)
        if self.is_main:
            state = {"place": list(self.place), "mixture": self.batches.rows.mixture.state(0), "turns": self.batches.turns}
            (folder / PLACE).write_text(json.dumps(state), encoding="utf-8")
            (folder / RECIPE).write_text(json.dumps(fixed_settings(self.recipe)), encoding="utf-8")

    def read(self, folder: Path) -> None:
        check_settings(folder, json.loads((folder / RECIPE).read_text(encoding="utf-8")), fixed_settings(self.recipe))
        state = json.loads((folder / PLACE).read_text(encoding="utf-8"))
        self.batches.rows.mixture.position(state["mixture"])
        if state["turns"] != self.batches.turns:
            ranks = self.batches.ranks
            raise UsageError(
                f"{folder}: a step had {state['turns']} batches (processes x accumulate), here {ranks} x {self.recipe.accumulate}; "
                + (
                    f"set accumulate={state['turns'] // ranks}"
                    if state["turns"] % ranks == 0
                    else f"start as many processes: not {ranks}"
                )
            )
        read_state(folder, self.bare, self.optimizer)
        self.place = Place(*state["place"])

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
    torch.manual_seed(recipe.seed)  # of new adapters
    network, processor = open_model(find_folder(recipe.model), recipe)
    accelerator = make_accelerator(recipe, folder, layer_names(network))
    if recipe.sharding != "none":
        network.model.tile_batch = sys.maxsize  # processes that share an encoder have to call it equally often
    objective = AnswerLoss(add_adapters(network, recipe.resolved), recipe.reduction, recipe.logit_chunk_tokens)
    rows = TrainingRows(open_mixture(recipe), processor, recipe)
    skipped = folder / "skipped.jsonl" if recipe.data.bad_rows == "skip" else None
    turn = accelerator.process_index, accelerator.num_processes
    batches = Batches(rows, *turn, skipped)
    held_out = None if recipe.evaluation is None else HeldOut(recipe.evaluation, recipe, processor, *turn)
    run = Tuning(recipe, folder, objective, batches, accelerator, held_out)
    run.train()
    if run.step == run.settings.steps:
        _publish(run, processor)
    accelerator.end_training()
    return folder / TUNED if run.step == run.settings.steps else checkpoints(folder)[-1]


def _publish(run: Tuning, processor: Any) -> None:
    """Write what came of a run, at the best of its checkpoints."""
    if run.best is not None and run.best["step"] != run.step:
        read_trained(checkpoint_of(run.folder, int(run.best["step"])), run.bare)
    state = run.accelerator.get_state_dict(run.objective)  # all processes have to ask for it
    if run.is_main:
        whole = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        publish(run.recipe, run.folder, run.bare.model, processor, whole)
    run.wait()


def make_accelerator(recipe: TuningRecipe, folder: Path, layers: Sequence[str]) -> Accelerator:
    """What runs on this machine's devices, and tells the recipe's trackers.

    Args:
        recipe: of the run.
        folder: the run's, where trackers write.
        layers: the classes of the layers that FSDP cuts one by one.

    Raises:
        MissingExtraError: a tracker isn't installed.
        UsageError: this machine's devices can't share a model.
    """
    for tracker in recipe.trackers:
        if not any(importlib.util.find_spec(package) for package in TRACKERS[tracker]):
            raise MissingExtraError(TRACKERS[tracker][0], tracker, f"tracker {tracker}")
    AcceleratorState._reset_state()  # that of an earlier run in this process, which may have had another number format
    plugin = None
    if recipe.sharding == "fsdp2":
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(layers),
            cpu_ram_efficient_loading=False,
        )
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=list(recipe.trackers) or None,
        project_dir=str(folder),
        fsdp_plugin=plugin,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )
    if plugin is not None and accelerator.num_processes > 1 and not accelerator.is_fsdp2:
        raise UsageError(f"sharding='fsdp2': accelerate shares no weights on {accelerator.device.type}; leave it out")
    if recipe.trackers:
        accelerator.init_trackers(recipe.name)
    return accelerator


def layer_names(network: Any) -> list[str]:
    """The classes of the layers of encoder and language model."""
    layers = [*network.model.vision_tower.encoder.layer, *network.model.language_model.layers]
    return sorted({type(layer).__name__ for layer in layers})


def fixed_settings(recipe: TuningRecipe) -> dict[str, Any]:
    """The settings that can't change while a run goes on, as JSON has them."""
    settings = dataclasses.asdict(recipe) | {
        "parts": {name: {"train": part.train, "lora": part.lora} for name, part in recipe.resolved.items()}
    }
    return json.loads(json.dumps({key: settings[key] for key in FIXED}, default=dataclasses.asdict))


def check_settings(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises CheckpointError if a setting is another than that of the run that wrote a checkpoint."""
    for key in FIXED:
        if before[key] != now[key]:
            raise CheckpointError(
                f"{folder}: the run was begun with {key}={shown(before[key])}, now it is {shown(now[key])}; "
                "go on with the former, or give this run another folder (out)"
            )


def open_model(found: ModelFolder, recipe: TuningRecipe) -> tuple[Any, Any]:
    """The network, its parts frozen as the recipe says, and the processor, with the recipe's pyramid."""
    config = found.config("native")
    if recipe.quantize_base is not None:
        settings = Placement.resolve(None, recipe.dtype, None, recipe.quantize_base).from_pretrained_kwargs(config)
    else:
        settings = {"dtype": getattr(torch, recipe.dtype)}
    network = load_network(found, config, **settings)
    processor = load_processor(found, config)
    if recipe.pyramid:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": recipe.pyramid})
        network.config.pyramid = dataclasses.asdict(processor.image_processor.spec)
    freeze(network, recipe.resolved)
    if recipe.drop_path:
        add_drop_path(network.model.vision_tower.encoder.layer, recipe.drop_path)
    if recipe.gradient_checkpointing:
        # transformers 5.23 has renamed it
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return network, processor
