"""The loop of a run: steps, a bar, a JSONL log, atomic checkpoints, and a resume that goes on as if nothing had happened.

What a step is, and what a checkpoint holds, says the subclass. A run's folder:

    recipe.json            the recipe as it was resolved
    log.jsonl              one object every `log_every` steps, and for each evaluation
    best.json              which checkpoint the evaluations like best
    checkpoint-00001200/   what the subclass writes, and progress.json, which is written last

With several processes all take the same steps and decisions; the first alone writes.
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
from typing import Any, NamedTuple

from safetensors import SafetensorError
from tqdm import tqdm

from minimonkey.errors import CheckpointError, MiniMonkeyError, UsageError, shown

CHECKPOINT, PROGRESS, BEST, LOG = "checkpoint-", "progress.json", "best.json", "log.jsonl"
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


class Look(NamedTuple):
    """What an evaluation saw."""

    figures: dict[str, float]
    score: float | None = None
    """What the best checkpoint has most of; None: none is the best."""


class TrainingLoop(ABC):
    """One run in one folder."""

    def __init__(self, settings: LoopSettings, folder: Path, *, is_main: bool = True, is_alone: bool = True) -> None:
        """`is_main`: whether this process writes; `is_alone`: whether it is the only one."""
        self.settings, self.folder, self.is_main, self.is_alone = settings, folder, is_main, is_alone
        self.step = self.saved_step = self.evaluated_step = 0
        self.stopping = False
        self.seconds = 0.0
        """Time spent in training, over all resumed parts."""
        self.window: list[dict[str, float]] = []
        """Figures of the steps since the last line of the log."""
        self.best: dict[str, float] | None = None
        """`step` and `score` of the best checkpoint."""
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

    def evaluate(self) -> Look:
        """Look at other rows."""
        return Look({})

    def track(self, figures: dict[str, Any]) -> None:  # noqa: B027
        """Tell others of figures that go to the log."""

    def close(self) -> None:  # noqa: B027
        """End what the subclass has begun, workers for one."""

    def agree(self, decisions: Sequence[bool]) -> list[bool]:
        """What all processes do: what any of them wants to."""
        return list(decisions)

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
        earlier = self.seconds
        if self._evaluates() and self.evaluated_step < self.step:  # the last call was stopped before it
            self._look()
        while self.step < settings.steps:
            self._take_step()
            self.seconds = earlier + time.monotonic() - started
            bar.update()
            done = self.step == settings.steps
            if done or self.step % settings.log_every == 0:
                figures = means(self.window)
                self.log(figures)
                bar.set_postfix(self.bar_figures(figures))
                self.window.clear()
            spent = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            due = time.monotonic() - last_saved > 60 * settings.checkpoint_minutes
            stops, spent, due = self.agree([self.stopping, spent, due])
            if done or stops or spent or due or self._evaluates():
                self.save_sound()
                last_saved = time.monotonic()
            if stops:
                raise KeyboardInterrupt
            if self._evaluates():
                self._look()
            if spent:
                break
        bar.close()

    def _take_step(self) -> None:
        try:
            self.window.append(self.take_step())
        except BROKEN:
            if self.is_alone and self.step > self.saved_step and self.is_sound():
                self.save()  # no step is lost, but the run goes on only once recipe or data is mended
            raise
        self.step += 1

    def _evaluates(self) -> bool:
        every = self.settings.evaluate_every
        return bool(every and self.step and (self.step % every == 0 or self.step == self.settings.steps))

    def _look(self) -> None:
        """Evaluate what the last checkpoint has, which may become the best."""
        figures, score = self.evaluate()
        self.log(figures)
        self.evaluated_step = self.step
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"step": self.step, "score": score}
        if self.is_main:
            replace_text(self.folder / BEST, json.dumps({"evaluated": self.step, "best": self.best}))
            self._drop_old()

    def save_sound(self) -> None:
        """Save weights that are sound: nobody has seen what the last update made of them, and a checkpoint takes the place of an
        older one. Raises UsageError for others."""
        if not self.is_sound():
            raise not_finite("loss after the update", self.step - 1)
        self.save()

    def log(self, figures: dict[str, Any]) -> None:
        """Add a line to log.jsonl; floats have the nine digits that a float32 needs."""
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {key: float(f"{value:.9g}") if isinstance(value, float) else value for key, value in figures.items()}
        if self.is_main:
            try:
                with (self.folder / LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
            except OSError as error:
                raise cant_write(self.folder / LOG, error) from error
        self.track(figures)

    # -- checkpoints ---------------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write a checkpoint beside its name and move it there in one go, then drop the oldest ones."""
        target = checkpoint_of(self.folder, self.step)
        partial = self.folder / "partial"
        if self.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        self.wait()
        try:
            self.write(partial)
            if self.is_main:
                progress = {"step": self.step, "seconds": self.seconds, "window": self.window}
                (partial / PROGRESS).write_text(json.dumps(progress))
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise cant_write(target, error) from error
        self.wait()
        self.saved_step = self.step
        if self.is_main:
            self._drop_old()
        return target

    def _drop_old(self) -> None:
        """Keep the newest checkpoints, and the best."""
        best = None if self.best is None else checkpoint_of(self.folder, int(self.best["step"]))
        for old in checkpoints(self.folder)[: -self.settings.keep_checkpoints]:
            if old != best:
                shutil.rmtree(old)

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run's folder, if any."""
        found = checkpoints(self.folder)
        if found:
            try:
                progress = json.loads((found[-1] / PROGRESS).read_text())
                self.step = self.saved_step = int(progress["step"])
                self.seconds, self.window = float(progress["seconds"]), list(progress.get("window", ()))
                self.read(found[-1])
            except MiniMonkeyError:
                raise
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                raise broken(found[-1], error) from error
        if self.is_main:
            self._forget_lost_steps()
        self._read_best()
        self.wait()

    def _forget_lost_steps(self) -> None:
        """Take what comes again out of the log."""
        log = self.folder / LOG
        if log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= self.step]
            if kept != lines:
                replace_text(log, "".join(kept))

    def _read_best(self) -> None:
        file = self.folder / BEST
        if not file.exists():
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            self.evaluated_step = found["evaluated"] if found["evaluated"] <= self.step else 0
            is_there = found["best"] and checkpoint_of(self.folder, int(found["best"]["step"])).exists()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is broken ({shown(str(error))}); remove it") from error
        self.best = found["best"] if is_there else None


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, if there is one."""
    return folder / f"{CHECKPOINT}{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{CHECKPOINT}*") if (path / PROGRESS).exists())


def not_finite(what: str, step: int, rows: Sequence[str] = ()) -> UsageError:
    """The error of a number that isn't finite; checkpoints are untouched."""
    of = f" (rows {', '.join(rows)})" if rows else ""
    return UsageError(
        f"step {step + 1}: the {what} isn't a finite number{of}; lower the rate or set clip_norm, then the same command goes on "
        "from the last checkpoint"
    )


def cant_write(path: Path, error: OSError) -> UsageError:
    """The error of a full disk, for one."""
    return UsageError(f"can't write {path}: {error.strerror or error}; make room, the same command goes on")


def broken(checkpoint: Path, error: Exception) -> CheckpointError:
    """The error of a checkpoint that can't be read."""
    reason = " ".join(str(error).split())[:120]
    return CheckpointError(f"{checkpoint} is broken ({reason}); remove it to go on from the one before")


def replace_text(file: Path, text: str) -> None:
    """Write a file beside its name and move it there. Raises UsageError: it can't be written."""
    beside = file.with_name(f".{file.name}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise cant_write(file, error) from error


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


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
