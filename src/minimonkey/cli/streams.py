"""Standard output and standard error for the time of a command: what becomes of closed and full ones.

Nothing but results gets into standard output, and what it can't take ends in one line. What standard error can't take is lost, and
changes nothing else. Knows no command.
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


class _Errors:
    """A text stream that is as one that nobody reads once it can't be written: a full disk, or its reader is gone."""

    def __init__(self, stream: TextIO, nowhere: TextIO) -> None:
        self._stream, self._nowhere = stream, nowhere

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):  # what is left would fail once more when the interpreter ends, and change its exit code
            os.dup2(self._nowhere.fileno(), self._stream.fileno())

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
    """For the time of a command: no or a full standard error is as one that nobody reads, standard output is written to its end.

    Without standard error `print(..., file=sys.stderr)` would print to standard output.

    Raises:
        SystemExit: with 1, standard output can't be written. One line on standard error says why, unless its reader just left.
    """
    output, errors = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stderr = cast(TextIO, _Errors(errors, nowhere)) if errors else nowhere
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
