"""The loop of a run: steps, a bar, a JSONL log, atomic checkpoints, and a resume that goes on as if nothing had happened.

What a step is, and what a checkpoint holds, says the subclass. A run's folder:

    recipe.json            the recipe as it was resolved
    log.jsonl              one object every `log_every` steps, and for each evaluation
    checkpoint-00001200/   what the subclass writes, and progress.json, which is written last

With several processes all take the same steps; the first alone writes.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minimonkey.errors import CheckpointError, MiniMonkeyError, UsageError

CHECKPOINT = "checkpoint-"
BROKEN = (MiniMonkeyError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What a step may fail with that leaves the weights of the step before sound."""


@dataclass(frozen=True)
class LoopSettings:
    """How long, and how often what."""

    name: str
    steps: int
    log_every: int = 10
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    max_minutes: float | None = None
    evaluate_every: int = 0


class TrainingLoop(ABC):
    """One run in one folder."""

    def __init__(self, settings: LoopSettings, folder: Path, *, is_main: bool = True) -> None:
        self.settings, self.folder, self.is_main = settings, folder, is_main
        self.step = self.saved_step = 0
        self.stopping = False
        self.seconds = 0.0
        """Time spent in training, over all resumed parts."""
        self.bar_figures: Callable[[dict[str, float]], dict[str, str]] = shown_figures

    # -- what a subclass says ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def take_step(self) -> dict[str, float]:
        """Read the next batches and update the weights once; figures for the log, `loss` among them.

        Raises UsageError for a loss or gradient that isn't finite, with the weights still those of the step before.
        """

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all that a resume needs into a new folder."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Go on from what `write` has written."""

    @abstractmethod
    def is_sound(self) -> bool:
        """Whether the weights can be kept: they are finite, and give a finite loss."""

    def evaluate(self) -> dict[str, float]:
        """Figures of a look at other rows."""
        return {}

    def close(self) -> None:  # noqa: B027
        """End what the subclass has begun, workers for one."""

    def wait(self) -> None:  # noqa: B027
        """Until all processes are here."""

    # -- the loop ------------------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """From the last checkpoint, if there is one, to the last step, or as far as `max_minutes` lets it come.

        An interrupt (Ctrl-C, SIGTERM) lets the step end, leaves a checkpoint, raises KeyboardInterrupt; a second one just raises.
        """
        self.resume()
        with interrupts_call(self._stop):
            try:
                self._steps()
            finally:
                self.close()

    def _stop(self, *_: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True

    def _steps(self) -> None:
        settings = self.settings
        bar = tqdm(
            total=settings.steps, initial=self.step, desc=settings.name, unit="step", smoothing=0.05, disable=not self.is_main
        )
        started = last_saved = time.monotonic()
        earlier, window = self.seconds, list[dict[str, float]]()
        while self.step < settings.steps:
            try:
                window.append(self.take_step())
            except BROKEN:
                if self.step > self.saved_step and self.is_sound():
                    self.save()  # no step is lost, but the run goes on only once recipe or data is mended
                raise
            self.step += 1
            self.seconds = earlier + time.monotonic() - started
            bar.update()
            done = self.step == settings.steps
            if done or self.step % settings.log_every == 0:
                figures = means(window)
                self.log(figures)
                bar.set_postfix(self.bar_figures(figures))
                window.clear()
            if self.stopping:
                self._save_sound()
                raise KeyboardInterrupt
            spent = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            due = time.monotonic() - last_saved > 60 * settings.checkpoint_minutes
            evaluates = settings.evaluate_every and (done or self.step % settings.evaluate_every == 0)
            if evaluates:
                self.log(self.evaluate())
            if done or spent or evaluates or due:
                self._save_sound()
                last_saved = time.monotonic()
            if spent:
                break
        bar.close()

    def _save_sound(self) -> None:
        """Nobody has seen what the last update made of the weights, and a checkpoint takes the place of an older one."""
        if not self.is_sound():
            raise not_finite("loss after the update", self.step - 1)
        self.save()

    def log(self, figures: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {key: round(value, 5) if isinstance(value, float) else value for key, value in figures.items()}
        if self.is_main:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    # -- checkpoints ---------------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint beside its name and move it there in one go, then drop the oldest ones."""
        target = self.folder / f"{CHECKPOINT}{self.step:08d}"
        partial = self.folder / "partial"
        if self.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        self.wait()
        try:
            self.write(partial)
            if self.is_main:
                progress = {"step": self.step, "seconds": self.seconds}
                (partial / "progress.json").write_text(json.dumps(progress))
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UsageError(f"can't write {target}: {error.strerror or error}; make room, the same command goes on") from error
        self.wait()
        self.saved_step = self.step
        if self.is_main:
            for old in self._spare_checkpoints():
                shutil.rmtree(old)
        return target

    def _spare_checkpoints(self) -> list[Path]:
        return checkpoints(self.folder)[: -self.settings.keep_checkpoints]

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run's folder, if any."""
        found = checkpoints(self.folder)
        if not found:
            return
        try:
            progress = json.loads((found[-1] / "progress.json").read_text())
            self.step = self.saved_step = int(progress["step"])
            self.seconds = float(progress["seconds"])
            self.read(found[-1])
        except MiniMonkeyError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{found[-1]} is broken ({' '.join(str(error).split())[:120]}); remove it to go on from the one before"
            ) from error


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{CHECKPOINT}*") if (path / "progress.json").exists())


def not_finite(what: str, step: int, rows: Sequence[str] = ()) -> UsageError:
    """The error of a number that isn't finite; checkpoints are untouched."""
    of = f" (rows {', '.join(rows)})" if rows else ""
    return UsageError(
        f"step {step + 1}: the {what} isn't a finite number{of}; lower the rate or set clip_norm, then the same command goes on "
        "from the last checkpoint"
    )


def shown_figures(figures: dict[str, float]) -> dict[str, str]:
    return {key: f"{value:.4g}" for key, value in figures.items()}


def means(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over those that have it."""
    keys = {key: [figures[key] for figures in seen if key in figures] for figures in seen for key in figures}
    return {key: math.fsum(values) / len(values) for key, values in keys.items()}


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
