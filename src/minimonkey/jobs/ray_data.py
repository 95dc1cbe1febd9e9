"""A job on Ray: windows as a dataset, models as its actors, on one machine or a cluster. The only place that imports Ray Data.

Actors read the pictures themselves: on several machines, all see the files under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from minimonkey.errors import MiniMonkeyError, MissingExtraError, ShortOfMemoryError

if TYPE_CHECKING:
    from minimonkey.jobs.job import Window, Work

CPU_SHARE = 0.5
"""Of the cores, what actors hold together: where they hold every core, Ray's own tasks that feed them get none, and all wait."""


class _Actor:
    """A work that is opened once; batches are of one window each."""

    def __init__(self, work: Work, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._work = work
        self._answer: Callable[..., Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (window,) = batch["window"]
        try:
            answer = self._answer = self._answer or self._work.open()
            found = dict(answer(window.records, window.done))
        except MiniMonkeyError as error:  # it ends the job; Ray would wrap it into pages of its own
            return {"number": batch["number"], "rows": [error]}
        return {"number": batch["number"], "rows": [[found[index] for index in sorted(found) if index >= window.done]]}


def run_on_ray(work: Work, actors: int, windows: Iterable[Window]) -> Iterator[list[dict[str, Any]]]:
    """Rows of one window after the other, in order.

    Raises MissingExtraError without Ray, ShortOfMemoryError if an actor is ended; whatever the work raises.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("Ray", "scale", "spreading a job over machines") from error

    items = [{"number": number, "window": window} for number, window in enumerate(windows)]
    if not items:
        return
    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield from _rows_in_order(ray, work, actors, items)
    finally:
        if begun_here:
            ray.shutdown()


def _rows_in_order(ray: Any, work: Work, actors: int, items: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    cores = ray.cluster_resources()["CPU"]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(work, max(1, int(cores // actors))),
        batch_size=1,
        batch_format="numpy",
        num_cpus=CPU_SHARE * cores / actors,
        num_gpus=ray.cluster_resources().get("GPU", 0) / actors,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    due = 0
    try:
        for row in dataset.iter_rows():
            if row["number"] != due:
                raise AssertionError(f"window {row['number']} came in place of {due}")
            due += 1
            if isinstance(row["rows"], MiniMonkeyError):
                raise row["rows"]
            yield list(row["rows"])
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[-300:]
        raise ShortOfMemoryError(f"an actor of Ray was ended: give fewer workers, and resume ({reason})") from error
