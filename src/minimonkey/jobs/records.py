"""One record of a job: pictures, questions, and the columns that its rows begin with. Knows no file format and no model."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """What is asked together. It can be sent to other processes."""

    columns: dict[str, Any]
    """What each of its rows begins with, such as {"file": "report.pdf", "page": 3}."""
    pictures: tuple[str | bytes, ...]
    """Paths, or bytes of picture files."""
    pages: str | int | None = None
    """Which pages of its documents; None: all."""
    questions: tuple[str, ...] = ()
    """One row for each; a single one if there are none."""
    error: str | None = None
    """What is wrong with the record itself. It isn't asked."""

    @property
    def row_count(self) -> int:
        return max(1, len(self.questions))

    @property
    def key(self) -> Hashable:
        """Equal for records about the same pictures, which are encoded once for all of them."""
        return self.pictures, self.pages

    def columns_beside(self, taken: set[str]) -> dict[str, Any]:
        """Its columns; one whose name is `taken` gets `input_` in front, so that neither replaces the other."""
        return {f"input_{name}" if name in taken else name: value for name, value in self.columns.items()}
