"""Standard output and standard error for the time of a command: what becomes of closed and full ones.

Nothing but results gets into standard output, and what it can't take ends in one line. Knows no command.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class OutputError(OSError):
    """Standard output takes no more: the disk is full, or whoever read it is gone."""


class _Output:
    """A text stream whose failures are told apart from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """For the time of a command: no standard error is as one that nobody reads, and standard output is written to its end.

    Without standard error `print(..., file=sys.stderr)` would print to standard output.

    Raises:
        SystemExit: with 1, standard output can't be written. One line on standard error says why, unless its reader just left.
    """
    output, errors = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stderr = errors or nowhere
        sys.stdout = output and cast(TextIO, _Output(output))
        try:
            try:
                yield
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OutputError as error:
            with suppress(OSError):  # what is left would fail once more when the interpreter ends
                os.dup2(nowhere.fileno(), output.fileno())
            if error.errno != errno.EPIPE:
                print(f"minimonkey: can't write to standard output: {error.strerror or error}", file=sys.stderr)
            raise SystemExit(1) from None
        finally:
            sys.stdout, sys.stderr = output, errors
