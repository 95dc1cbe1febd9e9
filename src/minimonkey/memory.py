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

HINTS = {
    "load": "load with a smaller dtype, quantize='int8' or 'int4', or device_map='auto'",
    "open": "lower the pyramid's budgets, or close other pictures",
    "ask": "lower the pyramid's budgets, ask fewer at once, or load with a smaller dtype, quantize or a compression",
    "openvino": "leave engine out, which keeps the weights once more, or lower the pyramid's budgets",
    "train": "lower tiles_per_batch, or max_tiles of the sources",
}
"""Which settings need less memory for each of these."""


@contextmanager
def explain_out_of_memory(doing: str, hint: str) -> Iterator[None]:
    """For a `with` block, or a function as a decorator: what allocators refuse becomes a ShortOfMemoryError, other errors stay.

    Args:
        doing: what memory ran out at, for the message.
        hint: which settings would need less of it; one of HINTS.

    Raises:
        ShortOfMemoryError: in place of what torch, numpy, OpenVINO or the system raised.
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
        raise ShortOfMemoryError(f"out of memory while {doing}{amount}: {hint}") from error


def _refused(error: Exception) -> bool:
    """Whether an error is about memory: by its class where there is one, else by what it says."""
    torch = sys.modules.get("torch")  # this module doesn't load it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return REFUSALS.search(str(error)) is not None
