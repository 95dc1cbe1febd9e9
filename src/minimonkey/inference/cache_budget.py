"""How much memory all open pictures of a model may keep, and which is closed when there is too little."""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from minimonkey.errors import UsageError

if TYPE_CHECKING:
    from minimonkey.inference.open_picture import OpenPicture


class CacheBudget:
    """The open pictures of one model, the one used longest ago first, and how many bytes they may keep together.

    It keeps none of them open: one that nobody has any more is gone. Threads may use it at once.
    """

    def __init__(self, max_bytes: int = 4 * 2**30) -> None:
        self.max_bytes = max_bytes
        self.lock = threading.RLock()
        self._pictures: weakref.WeakValueDictionary[int, OpenPicture] = weakref.WeakValueDictionary()

    def __reduce__(self) -> tuple[type[CacheBudget], tuple[int]]:
        """A copy, in another process say, has no open pictures yet."""
        return CacheBudget, (self.max_bytes,)

    @property
    def cache_bytes(self) -> int:
        with self.lock:
            return sum(picture.cache_bytes for picture in self._pictures.values())

    def has_room(self, more: int) -> bool:
        return self.cache_bytes + more <= self.max_bytes

    def make_room(self, more: int) -> None:
        """Close those used longest ago until there is room. Raises UsageError if there is too little even without any."""
        if more > self.max_bytes:
            needs = f"open pictures may keep {self.max_bytes} bytes, and this one needs {more}"
            raise UsageError(f"{needs}: raise vlm.max_cache_bytes, or lower the pyramid's budgets")
        with self.lock:
            for picture in itertools.takewhile(lambda _: not self.has_room(more), list(self._pictures.values())):
                picture.close(f"it made room for others (vlm.max_cache_bytes={self.max_bytes})")

    def touch(self, picture: OpenPicture) -> None:
        """Note that a picture is used now."""
        with self.lock:
            self._pictures.pop(id(picture), None)
            self._pictures[id(picture)] = picture

    def remove(self, picture: OpenPicture) -> None:
        with self.lock:
            self._pictures.pop(id(picture), None)
