"""Too little memory, told in one line that says what would need less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from minimonkey.errors import ShortOfMemoryError

REFUSALS = re.compile(r"out of memory|not enough memory|can(?:no|')t allocate memory|bad_alloc|failed to allocate", re.IGNORECASE)
"""What allocators say: those of torch for CUDA, MPS and CPUs, the system's, C++'s and OpenVINO's. All but the first raise no error
of a kind of its own."""


@contextmanager
def enough_memory(doing: str, remedies: str) -> Iterator[None]:
    """For a `with` block, or a function as a decorator: what allocators refuse becomes a ShortOfMemoryError, other errors stay.

    `doing` is what memory ran out at, `remedies` which settings would need less of it.
    """
    try:
        yield
    except ShortOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split()) or "the system refused"
        if not isinstance(error, MemoryError) and not REFUSALS.search(said):
            raise
        size = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", said)
        amount = f", {size[1]} more were needed" if size else ""
        raise ShortOfMemoryError(f"out of memory while {doing}{amount}: {remedies}") from error
