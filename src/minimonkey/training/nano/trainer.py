"""The loop: batches in, updates, a JSONL log, atomic checkpoints, and a resume that continues as if nothing had happened.

Runs on whatever device accelerate finds. A run's folder:

    runs/NAME/recipe.json            the recipe as it was resolved
    runs/NAME/log.jsonl              one object every `log_every` steps and evaluation
    runs/NAME/checkpoint-00001200/   model folder, heads beside it, optimizer memory (safetensors) and progress (JSON)
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network
from minimonkey.errors import CheckpointError, MiniMonkeyError
from minimonkey.training.nano.batches import Batches
from minimonkey.training.nano.config import TrainConfig
from minimonkey.training.nano.losses import Losses
from minimonkey.training.nano.optimizer import MuonWithAdamW, check_finite

CHECKPOINT = "checkpoint-"


class Trainer:
    """One stage of training in one folder."""

    def __init__(
        self,
        losses: Losses,
        batches: Batches,
        config: TrainConfig,
        folder: Path,
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.optimizer = MuonWithAdamW(losses.named_parameters(), config.optimizer, config.steps)
        self.losses = self.accelerator.prepare(losses)
        self.batches, self.config, self.folder, self.evaluate = batches, config, folder, evaluate
        self.step = self.saved_step = 0
        self.stopping = False
        self.seconds = 0.0
        """Time spent in training, over all resumed parts."""

    @property
    def bare(self) -> Losses:
        return self.accelerator.unwrap_model(self.losses)

    def train(self) -> None:
        """From the last checkpoint, if there is one, to the last step, or as far as `max_minutes` lets it come.

        An interrupt (Ctrl-C, SIGTERM) lets the step end, leaves a checkpoint, raises KeyboardInterrupt; a second one just raises.
        """
        self.resume()
        with interrupts_call(self._stop):
            loader = self._loader()
            try:
                self._steps(loader)
            finally:
                loader.close()  # ends the workers, whatever still refers to them

    def _stop(self, *_: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True

    def _loader(self) -> Generator[dict[str, torch.Tensor], None, None]:
        per_step = self.config.batches_per_step
        loader = DataLoader(
            Subset(self.batches, range(self.step * per_step, self.config.steps * per_step)),
            batch_size=None,
            num_workers=self.config.workers,
            prefetch_factor=4 if self.config.workers else None,
            worker_init_fn=_leave_signals_to_the_parent,
        )
        batches = iter(loader)
        try:
            yield from batches
        finally:  # a traceback would keep them, and they don't listen to the signal that ends children
            if self.config.workers:
                batches._shutdown_workers()

    def _steps(self, loader: Iterator[dict[str, torch.Tensor]]) -> None:
        bar = tqdm(total=self.config.steps, initial=self.step, desc=self.config.name, unit="step", smoothing=0.05)
        started = last_saved = time.monotonic()
        earlier = self.seconds
        window: list[dict[str, float]] = []
        while self.step < self.config.steps:
            try:
                batches = [next(loader) for _ in range(self.config.batches_per_step)]
                window.append(self._gradients(batches))
            except (MiniMonkeyError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError):
                if self.step > self.saved_step and self._has_finite_weights():
                    self.save()  # no step is lost, but the run goes on only once recipe or code is mended
                raise
            check_finite("loss", window[-1]["loss"], self.step)
            self.optimizer.step(self.step)
            self.step += 1
            self.seconds = earlier + time.monotonic() - started
            bar.update()
            if self.step % self.config.log_every == 0:
                figures = means(window)
                self._log(figures | {"lr_factor": self.optimizer.factor(self.step - 1)})
                bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items() if key != "tiles"})
                window.clear()
            if self.stopping:
                self._save_sound(batches[-1])
                raise KeyboardInterrupt
            done = self.step == self.config.steps
            if self.evaluate and self.config.evaluate_every and (done or self.step % self.config.evaluate_every == 0):
                self._log(self.evaluate())
            spent = self.config.max_minutes is not None and time.monotonic() - started > 60 * self.config.max_minutes
            if done or spent or time.monotonic() - last_saved > 60 * self.config.checkpoint_minutes:
                self._save_sound(batches[-1])
                last_saved = time.monotonic()
            if spent:
                break
        bar.close()

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

    def _save_sound(self, batch: dict[str, torch.Tensor]) -> None:
        """Write a checkpoint of weights that read a batch of theirs with a finite loss. Raises UsageError for others: nobody has
        seen what the last update made of them, and a checkpoint takes the place of an older one."""
        with torch.no_grad(), self.accelerator.autocast():
            loss, _ = self.losses({key: value.to(self.accelerator.device) for key, value in batch.items()})
        check_finite("loss after the update", float(loss) if self._has_finite_weights() else math.nan, self.step - 1)
        self.save()

    def _has_finite_weights(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.bare.parameters())

    def _log(self, figures: dict[str, Any]) -> None:
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {key: round(value, 5) if isinstance(value, float) else value for key, value in figures.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def save(self) -> Path:
        """Write a checkpoint beside its name and move it there in one go, then drop the oldest ones."""
        target = self.folder / f"{CHECKPOINT}{self.step:08d}"
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.bare.model.save_pretrained(partial)
        self.bare.processor.save_pretrained(partial)
        for name, head in self.bare.heads.items():
            save_file({k: v.contiguous() for k, v in head.state_dict().items()}, partial / f"{name}.st")
        save_file({k: v.contiguous() for k, v in self.optimizer.tensors().items()}, partial / "optimizer.st")
        progress = {"step": self.step, "seconds": self.seconds}
        (partial / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        self.saved_step = self.step
        for old in checkpoints(self.folder)[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)
        return target

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run's folder, if any."""
        found = checkpoints(self.folder)
        if not found:
            return
        load_weights(self.bare, found[-1])
        self.optimizer.load_tensors(load_file(found[-1] / "optimizer.st"))
        progress = json.loads((found[-1] / "progress.json").read_text())
        self.step = self.saved_step = progress["step"]
        self.seconds = progress["seconds"]


@contextmanager
def interrupts_call(handler: Callable[..., object]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call the handler meanwhile, if this is the main thread.

    One that is ignored, as Ctrl-C is under nohup and in background jobs, stays so; what other code than Python's handles stays its.
    """
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    taken = [number for number in signals if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def means(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over those that have it: with a frozen encoder there are none of characters."""
    keys = {key: [figures[key] for figures in seen if key in figures] for figures in seen for key in figures}
    return {key: sum(values) / len(values) for key, values in keys.items()}


def _leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C and many a SIGTERM go to the whole group: workers go on until the trainer, which has its step to end, is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{CHECKPOINT}*") if (path / "progress.json").exists())


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
