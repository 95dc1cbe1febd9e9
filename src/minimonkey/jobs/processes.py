"""A job in several processes of this machine, each with a model of its own and its share of the cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from minimonkey.errors import ShortOfMemoryError
from minimonkey.jobs.records import Record

if TYPE_CHECKING:
    from minimonkey.jobs.job import Window, Work

AHEAD = 2
"""Windows that are handed to each process before its first is done, so that it never waits."""
_opened: list[Callable[[Sequence[Record], int], Any]] = []
"""In a worker: the work, once it is loaded."""


def run_in_processes(work: Work, workers: int, windows: Iterable[Window]) -> Iterator[list[dict[str, Any]]]:
    """Rows of one window after the other, in order.

    Raises ShortOfMemoryError if the system ends a worker; whatever the work raises.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads of torch hangs
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(threads,))
    under_way: deque[Future[list[dict[str, Any]]]] = deque()
    try:
        left = iter(windows)
        while True:
            for window in itertools.islice(left, workers * AHEAD - len(under_way)):
                under_way.append(pool.submit(_rows, work, window))
            if not under_way:
                return
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise ShortOfMemoryError(
            f"one of {workers} workers was ended by the system, as happens when memory runs out: give fewer workers, and resume"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):  # a window under way may take minutes
            process.terminate()


def _begin(threads: int) -> None:
    """In a worker, first of all. It ends when its parent does, however that ends; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    if "torch" in sys.modules:  # else it takes its number from the environment, once it is needed
        sys.modules["torch"].set_num_threads(threads)


def _rows(work: Work, window: Window) -> list[dict[str, Any]]:
    """In a worker: the rows of a window that aren't done, in order."""
    if not _opened:
        _opened.append(work.open())
    found = dict(_opened[0](window.records, window.done))
    return [found[index] for index in sorted(found) if index >= window.done]
