"""The stack that this thread's signals run on, kept through a call of a library that leaves its own there: OpenVINO compiling.

A workaround that can go once OpenVINO puts the stack back. How it was found stands in docs/log.md under 2026-11-20, third session,
"Speed on InternVL2-1B's shape".
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class SignalStack(ctypes.Structure):
    """Linux's `stack_t`."""

    _fields_: ClassVar = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    @classmethod
    def current(cls) -> SignalStack:
        stack = cls()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        return stack


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Compiling leaves this thread a stack for signals that OpenVINO frees later: the next Ctrl-C would crash the process."""
    before = SignalStack.current() if sys.platform == "linux" else None
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
