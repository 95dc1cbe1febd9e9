"""What a job has done so far, in the folder OUT.job beside its result: killed at any moment, it goes on from there.

OUT.job/settings.json   what was asked of what; a job that goes on must be the same
OUT.job/rows.jsonl      the rows in order, each whole or cut off at the end of the file; gone once OUT is there
OUT.job/lock            held by the process that writes, freed by the system however that ends
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minimonkey.errors import UsageError, shown
from minimonkey.jobs.tables import check_writable, write_rows


class Journal:
    """The rows of one job. `with Journal(...) as journal:` holds its lock."""

    def __init__(self, out: Path, settings: dict[str, Any], *, resume: bool = False) -> None:
        """Args:
        out: the table to be written at the end.
        settings: all that the rows depend on, as JSON has it.
        resume: whether to go on with rows that are there.
        """
        self.out, self.folder, self.settings, self._resume = out, out.with_name(f"{out.name}.job"), settings, resume
        self.done = 0
        """Rows that are written."""
        self.errors = 0
        """Those among them with an error."""
        self.finished: dict[str, Any] | None = None
        """What the job was, if `out` is there already."""
        self._rows = self.folder / "rows.jsonl"
        self._settings = self.folder / "settings.json"
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> Journal:
        """Raises UsageError: another process writes, there is something to go on with or there isn't, against `resume`; other
        settings; the folder can't be written; OUT is no name of a table. MissingExtraError: Parquet without pyarrow."""
        check_writable(self.out)
        fresh = not self.folder.exists()
        if self._resume and fresh:
            raise UsageError(f"nothing to resume: no job was begun for {self.out} (there is no {self.folder}); leave --resume out")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"{self.out}: another process writes it; wait for its end, or name another file") from error
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _begin(self) -> None:
        begun = self._begun()
        if not self._resume:
            if begun is not None and begun["finished"] is None:
                raise UsageError(f"{self.out} was begun already: --resume goes on with it, deleting {self.folder} starts over")
            if self.out.exists():
                raise UsageError(f"{self.out} exists: name another file, or delete it")
            begun = None
        elif begun is not None:  # else it was killed before anything was written
            self._check_same(begun["settings"])
            self.finished = begun["finished"] if self.out.exists() else None
        try:
            if begun is None or begun["finished"] is not None:
                self._rows.unlink(missing_ok=True)
            if self.finished is not None:
                return
            if begun is None:
                self._write_settings(None)
            self._cut()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _begun(self) -> dict[str, Any] | None:
        """What settings.json says."""
        try:
            found = json.loads(self._settings.read_text(encoding="utf-8"))
            return {"settings": dict(found["settings"]), "finished": found["finished"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise UsageError(f"can't read {self._settings} ({error}): delete {self.folder} to start over") from error

    def _check_same(self, begun: dict[str, Any]) -> None:
        now = json.loads(json.dumps(self.settings))
        for name in dict.fromkeys([*now, *begun]):
            if begun.get(name) != now.get(name):
                if name == "records":
                    raise UsageError(f"{self.out}: the files that are read have changed since it was begun; name another file")
                was, value = shown(begun.get(name)), shown(now.get(name))
                raise UsageError(f"{self.out} was begun with {name}={was}, not {value}: go on with that, or name another file")

    def _cut(self) -> None:
        """Count whole rows, and cut off what was being written when the process ended."""
        whole = 0
        with open(self._rows, "a+b") as file:
            file.seek(0)
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:  # zeros, after a power failure
                    row = None
                if not isinstance(row, dict):
                    break
                whole += len(line)
                self.done += 1
                self.errors += row.get("error") is not None
            file.truncate(whole)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write further rows; once this returns, they outlast the process and the machine. Raises UsageError if that fails."""
        found = list(rows)
        data = b"".join(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n" for row in found)
        try:
            with open(self._rows, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error
        self.done += len(found)
        self.errors += sum(row.get("error") is not None for row in found)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows so far."""
        with open(self._rows, "rb") as file:
            yield from map(json.loads, file)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the table, and what the job was beside it. Raises UsageError if that fails; the rows are kept then."""
        try:
            write_rows(self.out, self.rows)
            self._write_settings(summary)
            self._rows.unlink()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _write_settings(self, finished: dict[str, Any] | None) -> None:
        beside = self._settings.with_suffix(".tmp")
        text = json.dumps({"settings": self.settings, "finished": finished}, ensure_ascii=False, indent=1)
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, self._settings)

    def _cannot_write(self, error: OSError) -> UsageError:
        return UsageError(f"can't write {self.out}: {error.strerror or error}")
