"""Too little memory, told in one line that says what would need less."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from minimonkey.errors import ShortOfMemoryError

REFUSALS = re.compile(
    r"out of memory|not enough memory|can(?:no|')t allocate memory|unable to allocate|failed to allocate|bad_alloc|ALLOC_FAILED|"
    "invalid buffer size",
    re.IGNORECASE,
)
"""What allocators say in a RuntimeError without a class of its own: torch for MPS and CPUs, C++, cuBLAS, OpenVINO."""


@contextmanager
def enough_memory(doing: str, remedies: str) -> Iterator[None]:
    """For a `with` block, or a function as a decorator: what allocators refuse becomes a ShortOfMemoryError, other errors stay.

    `doing` is what memory ran out at, `remedies` which settings would need less of it.
    """
    try:
        yield
    except ShortOfMemoryError:
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        if not _refused(error):
            raise
        size = re.search(r"(?:tried|unable) to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
        amount = f", {size[1]} more were needed" if size else ""
        raise ShortOfMemoryError(f"out of memory while {doing}{amount}: {remedies}") from error


def _refused(error: Exception) -> bool:
    """Whether an error is about memory: by its class where there is one, else by what it says."""
    torch = sys.modules.get("torch")  # this module doesn't load it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return REFUSALS.search(str(error)) is not None
