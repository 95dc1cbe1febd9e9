"""The most memory that a process had for itself while something ran. Linux alone: it is read from /proc."""

from __future__ import annotations

import threading
from pathlib import Path

INTERVAL_SECONDS = 0.005


def private_bytes() -> int:
    """What this process has for itself (RssAnon): mapped files, such as weights that weren't touched, excepted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class PeakMemory:
    """The most of `private_bytes` while a `with` block runs, in `bytes`; looked at every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.bytes, self._done = private_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.bytes = max(self.bytes, private_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, private_bytes())
