"""A job: every record of a source through some work, its rows into a table, in order, whatever happens in between.

Knows neither pictures nor models: what is done with records is the work's business, here, in other processes or on Ray.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from minimonkey.errors import DataError, UsageError, shown
from minimonkey.jobs.journal import Journal
from minimonkey.jobs.records import Record
from minimonkey.jobs.sources import Source

WINDOW = 16
"""Records that are looked at together: what is alike among them goes through the model at once. A window that was begun is begun
again by a job that goes on, so that its batches, and with them the last digits of its numbers, are the same."""

Rows = Iterator[tuple[int, dict[str, Any]]]
"""Rows as they come, each with its place among the rows of its window, in any order."""


class Work(Protocol):
    """What is done with records. It can be sent to other processes, where it is opened."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that rows depend on, as JSON has it."""

    def open(self) -> Callable[[Sequence[Record], int], Rows]:
        """Load what is needed. The result gives the rows of a window, those before the given one needn't be among them.

        A record that fails is a row whose `error` says why; errors that are raised end the job.
        """


class Window(NamedTuple):
    """Some records, and how many of their rows are done."""

    records: list[Record]
    done: int


class Summary(NamedTuple):
    """How a job ended."""

    out: Path
    records: int
    rows: int
    errors: int
    """Rows that have one."""
    resumed: int
    """Rows that were there when this call began."""
    seconds: float
    """Of this call."""

    def __str__(self) -> str:
        new = self.rows - self.resumed
        rate = f"{new} in {self.seconds:.1f} s" + (f", {new / self.seconds:.2f} a second" if new and self.seconds else "")
        before = f"{self.resumed} rows were there, " if self.resumed else ""
        failed = f"{self.errors} with an error" if self.errors else "no errors"
        return f"wrote {self.out}: {self.rows} rows of {self.records} records, {failed}; {before}{rate}"


def run_job(
    source: Source,
    work: Work,
    out: str | Path,
    *,
    resume: bool = False,
    workers: int = 1,
    ray: bool = False,
    max_errors: int | None = None,
    progress: bool = False,
) -> Summary:
    """Run a job to its end.

    Args:
        source: the records.
        work: what is done with each.
        out: the table, .jsonl, .csv or .parquet; it is there once all rows are. Until then they are in `OUT.job`.
        resume: go on with a job that was stopped. The same source, work and table are needed.
        workers: processes, each with a model of its own; 1: none besides this one. With `ray`, actors.
        ray: spread over a Ray cluster, or this machine where none is running.
        max_errors: stop once more rows than this have an error. None: never.
        progress: show a bar on standard error, if that is a terminal.

    Returns:
        What came of it.

    Raises:
        UsageError: settings that can't be, a table that can't be written or that another process writes; see `Journal`.
        DataError: more errors than `max_errors`.
        MissingExtraError: Ray, or pyarrow for Parquet, isn't installed.
        ShortOfMemoryError: there is no memory for the model, or the system ended a worker.
    """
    if type(workers) is not int or workers < 1:
        raise UsageError(f"workers={shown(workers)}: expected a whole number, 1 or more")
    if max_errors is not None and (type(max_errors) is not int or max_errors < 0):
        raise UsageError(f"max_errors={shown(max_errors)}: expected a whole number, 0 or more")
    begun = time.perf_counter()
    asked = {"questions": list(source.questions), "records": source.fingerprint()}
    settings = {"minimonkey": importlib.metadata.version("minimonkey"), **asked, **work.settings}
    with Journal(Path(out), settings, resume=resume) as journal:
        if journal.finished is not None:
            rows, errors = journal.finished["rows"], journal.finished["errors"]
            return Summary(journal.out, len(source), rows, errors, rows, 0.0)
        before = journal.done
        with _Progress(source, progress) as bar:
            bar.advance(before, journal.errors)
            for rows in _runner(work, workers, ray)(_windows(source, before)):
                journal.append(rows)
                bar.advance(len(rows), journal.errors)
                _check_errors(journal, max_errors, rows)
        summary = Summary(journal.out, len(source), journal.done, journal.errors, before, time.perf_counter() - begun)
        journal.finish({"rows": summary.rows, "errors": summary.errors, "seconds": round(summary.seconds, 3)})
    return summary


def _windows(source: Source, done: int) -> Iterator[Window]:
    """All windows of which a row isn't done."""
    records = iter(source)
    while window := list(itertools.islice(records, WINDOW)):
        rows = sum(record.row_count for record in window)
        if done < rows:
            yield Window(window, done)
        done = max(0, done - rows)


def _runner(work: Work, workers: int, ray: bool) -> Callable[[Iterable[Window]], Iterator[list[dict[str, Any]]]]:
    """What turns windows into lists of rows, in order."""
    if ray:
        from minimonkey.jobs.ray_data import run_on_ray

        return partial(run_on_ray, work, workers)
    if workers > 1:
        from minimonkey.jobs.processes import run_in_processes

        return partial(run_in_processes, work, workers)
    return partial(_run_here, work)


def _run_here(work: Work, windows: Iterable[Window]) -> Iterator[list[dict[str, Any]]]:
    """Rows as soon as all before them are there."""
    answer = None
    for window in windows:
        answer = answer or work.open()  # not before it is needed: a job may be done already
        waiting: dict[int, dict[str, Any]] = {}
        due = window.done
        for index, row in answer(window.records, window.done):
            waiting[index] = row
            ready = []
            while due in waiting:
                ready.append(waiting.pop(due))
                due += 1
            if ready:
                yield ready


def _check_errors(journal: Journal, most: int | None, rows: list[dict[str, Any]]) -> None:
    if most is not None and journal.errors > most:
        latest = next((row["error"] for row in reversed(rows) if row.get("error") is not None), "earlier")
        raise DataError(
            f"{journal.errors} rows of {journal.done} have an error, more than max_errors={most}, the latest: {latest}; "
            f"resume with another max_errors goes on"
        )


class _Progress:
    """One bar of records, with rate, errors and time left; on a standard error that nobody looks at, none."""

    def __init__(self, source: Source, shown: bool) -> None:
        quiet = not (shown and sys.stderr is not None and sys.stderr.isatty())
        self._bar = tqdm(total=len(source), unit=" records", disable=quiet, file=sys.stderr, dynamic_ncols=True)
        self._sizes = (record.row_count for record in source)
        self._rows = 0
        self._size = next(self._sizes, 0)

    def advance(self, rows: int, errors: int) -> None:
        """So many further rows are written; so many of all have an error."""
        if self._bar.disable:
            return
        self._rows += rows
        whole = 0
        while self._size and self._rows >= self._size:
            self._rows, whole, self._size = self._rows - self._size, whole + 1, next(self._sizes, 0)
        self._bar.set_postfix_str(f"{errors} errors", refresh=False)
        self._bar.update(whole)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
