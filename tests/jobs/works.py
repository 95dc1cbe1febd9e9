"""Works for the tests of jobs, which need no model. They stand in a module, as other processes import them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from minimonkey.errors import UsageError


@dataclass(frozen=True)
class Echo:
    """Says where a record stands; slowly, and backwards within a window, if asked to."""

    word: str = "echo"
    seconds: float = 0.0
    backwards: bool = False
    log: str | None = None
    """A file that gets a line for each row that is made."""
    fail_on: str | None = None
    """The file name at which a row is an error."""
    raise_on: str | None = None
    """The file name at which the job ends."""
    kill_on: str | None = None
    """The file name at which the process is ended by the system."""

    @property
    def settings(self):
        return {"word": self.word}

    def open(self):
        return self.rows

    def rows(self, records, done):
        made, index = [], 0
        for record in records:
            for question in record.questions or (None,):
                made.append((index, self.row(record, question)))
                index += 1
        for index, row in reversed(made) if self.backwards else made:
            if index < done:
                continue
            self.work(row["file"])
            yield index, row

    def row(self, record, question):
        error = record.error or ("no luck" if record.columns["file"] == self.fail_on else None)
        return record.columns | {"question": question, "answer": None if error else f"{self.word} {question}", "error": error}

    def work(self, name):
        if name == self.raise_on:
            raise UsageError(f"{name}: a setting is wrong")
        if name == self.kill_on:
            os.kill(os.getpid(), 9)
        time.sleep(self.seconds)
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{name} {os.getpid()}\n")
