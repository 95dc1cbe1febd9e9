"""One stage of the embedded model's curriculum: the loop of `training.loop`, with steps of Muon and AdamW over drawn samples.

Runs on whatever device accelerate finds. A checkpoint is a model folder, heads beside it, and the optimizer's memory (safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Subset

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network
from minimonkey.errors import CheckpointError
from minimonkey.training.batches import leave_signals_to_the_parent
from minimonkey.training.loop import Look, LoopSettings, TrainingLoop, means
from minimonkey.training.nano.batches import Batches
from minimonkey.training.nano.config import TrainConfig
from minimonkey.training.nano.losses import Losses
from minimonkey.training.nano.optimizer import MuonWithAdamW, check_finite


class Trainer(TrainingLoop):
    """One stage of training in one folder."""

    def __init__(
        self,
        losses: Losses,
        batches: Batches,
        config: TrainConfig,
        folder: Path,
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        settings = LoopSettings(
            config.name,
            config.steps,
            config.log_every,
            config.checkpoint_minutes,
            config.keep_checkpoints,
            config.max_minutes,
            config.evaluate_every if evaluate else 0,
        )
        super().__init__(settings, folder)
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.optimizer = MuonWithAdamW(losses.named_parameters(), config.optimizer, config.steps)
        self.losses = self.accelerator.prepare(losses)
        self.batches, self.config, self._evaluate = batches, config, evaluate
        self.bar_figures = lambda figures: {key: f"{value:.3f}" for key, value in figures.items() if key != "tiles"}
        self._loaded: Generator[dict[str, torch.Tensor], None, None] | None = None
        self._latest: dict[str, torch.Tensor] | None = None

    @property
    def bare(self) -> Losses:
        return self.accelerator.unwrap_model(self.losses)

    def take_step(self) -> dict[str, float]:
        if self._loaded is None:
            self._loaded = self._load()
        batches = [next(self._loaded) for _ in range(self.config.batches_per_step)]
        figures = self._gradients(batches)
        check_finite("loss", figures["loss"], self.step)
        self.optimizer.step(self.step)
        self._latest = batches[-1]
        return figures | {"lr_factor": self.optimizer.factor(self.step)}

    def _load(self) -> Generator[dict[str, torch.Tensor], None, None]:
        """The batches from the next step on."""
        per_step = self.config.batches_per_step
        loader = DataLoader(
            Subset(self.batches, range(self.step * per_step, self.config.steps * per_step)),
            batch_size=None,
            num_workers=self.config.workers,
            prefetch_factor=4 if self.config.workers else None,
            worker_init_fn=leave_signals_to_the_parent,
        )
        batches = iter(loader)
        try:
            yield from batches
        finally:  # a traceback would keep them, and they don't listen to the signal that ends children
            if self.config.workers:
                batches._shutdown_workers()

    def _gradients(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Gradients of a step's batches, summed, and the means of their figures; the weights stay as they are."""
        self.losses.train()
        seen: list[dict[str, float]] = []
        for batch in batches:
            batch = {key: value.to(self.accelerator.device) for key, value in batch.items()}
            with self.accelerator.autocast():
                loss, figures = self.losses(batch)
            self.accelerator.backward(loss / len(batches))
            seen.append({key: float(value) for key, value in ({"loss": loss.detach()} | figures).items()})
        return {"tiles": float(sum(len(batch["tiles"]) for batch in batches))} | means(seen)

    def is_sound(self) -> bool:
        return math.isfinite(self._loss_now())

    def save_sound(self) -> None:
        check_finite("loss after the update", self._loss_now(), self.step - 1)
        self.save()

    def _loss_now(self) -> float:
        """What the weights say of the last batch: NaN if they aren't finite themselves."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.bare.parameters()):
            return math.nan
        if self._latest is None:
            return 0.0
        with torch.no_grad(), self.accelerator.autocast():
            loss, _ = self.losses({key: value.to(self.accelerator.device) for key, value in self._latest.items()})
        return float(loss)

    def evaluate(self) -> Look:
        assert self._evaluate is not None
        return Look(self._evaluate())

    def write(self, folder: Path) -> None:
        self.bare.model.save_pretrained(folder)
        self.bare.processor.save_pretrained(folder)
        for name, head in self.bare.heads.items():
            save_file({k: v.contiguous() for k, v in head.state_dict().items()}, folder / f"{name}.st")
        save_file({k: v.contiguous() for k, v in self.optimizer.tensors().items()}, folder / "optimizer.st")

    def read(self, folder: Path) -> None:
        load_weights(self.bare, folder)
        self.optimizer.load_tensors(load_file(folder / "optimizer.st"))

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()  # ends the workers, whatever still refers to them


def load_weights(losses: Losses, folder: Path) -> None:
    """Copy the model's weights, and those of the heads beside it if there are any, from a checkpoint or model folder.

    Raises CheckpointError for a broken folder, and for a model of another shape.
    """
    found = find_folder(folder)
    source = load_network(found, found.config("native"), dtype=torch.float32)
    try:
        losses.model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: its model has another shape than the recipe's; give the run a new `name`, or the recipe its old `model`"
        ) from error
    for name, head in losses.heads.items():
        file = folder / f"{name}.st"
        try:
            if file.exists():
                head.load_state_dict(load_file(file))
        except RuntimeError as error:
            raise CheckpointError(
                f"{file}: has another shape than that head of this version; remove it to begin with a new one"
            ) from error
