"""What is known of a document beside its lines: named values, items, blocks, ticks. Questions are made of nothing else.

Everything points at printed characters: a `Passage` names a line (in reading order) and characters of its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Passage(NamedTuple):
    """Characters `start` up to `end` of the text of line `line`."""

    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Field:
    """A named value. `key` is one of wordings.json; `label` is what is printed beside or above it, "" if nothing is."""

    key: str
    value: tuple[Passage, ...]
    label: str = ""


@dataclass(frozen=True)
class Entry:
    """An item, a row of a table or a bar of a chart: its name, and its cells by the column's key or printed header."""

    name: Passage
    cells: dict[str, Passage]
    figure: float | None = None
    """What its main cell is worth, to compare entries by."""


@dataclass(frozen=True)
class Region:
    """A block of lines `first` up to `last`, both included. `key` is one of wordings.json's regions."""

    key: str
    first: int
    last: int


@dataclass
class Facts:
    """All of one document."""

    kind: str
    language: str
    fields: list[Field] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    entry_intents: dict[str, str] = field(default_factory=dict)
    """Which wordings ask for a cell, by the cell's key; "cell" for those that aren't named here."""
    comparison: str = ""
    """The wordings that compare two entries; "" if their figures don't compare."""
    regions: list[Region] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    ticks: list[tuple[Passage, bool]] = field(default_factory=list)
    stacked: list[tuple[Passage, Passage]] = field(default_factory=list)
    """Pairs of which the second stands right below the first."""
    plausible: Sequence[str] = ()
    """Keys of fields that a document of this sort could have."""
    absent_items: list[str] = field(default_factory=list)
    """Names of entries that could have been listed."""
    absent_intent: str = "absent_item"
    """The wordings that ask for one of those."""
