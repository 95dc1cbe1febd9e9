"""Pillow while users' pictures are read: its settings of the whole process, and what it warns of, thread by thread.

Knows Pillow and no picture.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile


@contextmanager
def strict_pillow() -> Iterator[list[str]]:
    """Read pictures without Pillow's own limit of pixels, and never half a file.

    Any number of threads may be inside at once. The two settings are those of the whole process: the first thread that comes in
    changes them, the last one that leaves puts them back.

    Returns:
        What Pillow warns of in this thread, one line each. The list grows until the block ends. Deprecations and Pillow's warning
        of large pictures aren't in it. Warnings of other code, and of other threads, go where they always go.
    """
    notes: list[str] = []
    _SETTINGS.enter()
    outer, _heard.notes = getattr(_heard, "notes", None), notes
    try:
        yield notes
    finally:
        _heard.notes = outer
        _SETTINGS.leave()


class _Settings:
    """Pillow's two settings of the whole process, strict as long as at least one thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before: tuple[int | None, bool] = (None, False)

    def enter(self) -> None:
        with self._lock:
            if self._readers == 0:
                _listen()
                self._before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
            self._readers += 1

    def leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self._before


class _Warnings:
    """Stands for the module `warnings` in Pillow's modules.

    `warnings.catch_warnings` would hear all threads, and keep from them what it hears. This hears the calls of Pillow alone, and
    knows which thread makes them.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    def warn(self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1, **more: Any) -> None:
        notes: list[str] | None = getattr(_heard, "notes", None)
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        if notes is None or issubclass(kind, DeprecationWarning):
            warnings.warn(message, category, stacklevel + 1, **more)
        elif not issubclass(kind, Image.DecompressionBombWarning):
            notes.append(" ".join(str(message).split()))


_SETTINGS = _Settings()
_WARNINGS = _Warnings()
_heard = threading.local()
"""`notes` is the list of the thread that reads, if it does."""


def _listen() -> None:
    """Have all of Pillow's modules that are there warn through us; what no reading thread says is passed on as it is."""
    Image.init()  # its readers are modules too
    for name, module in list(sys.modules.items()):
        if name.startswith("PIL.") and getattr(module, "warnings", None) is warnings:
            setattr(module, "warnings", _WARNINGS)  # noqa: B010
