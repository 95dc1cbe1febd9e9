"""What of a mixture is there: which files and folders, which are missing, and who publishes them. Looks, downloads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from minimonkey.data.json_lines import JsonLines
from minimonkey.data.mixture_file import DataSet, MixtureSpec

ROUNDED_WITHIN = 0.1
"""How far the number of rows may be from one that a source gives in thousands, or that is recalled."""


class Item(NamedTuple):
    """A file of rows or a folder of pictures."""

    what: Literal["rows", "pictures"]
    path: Path
    data_sets: tuple[str, ...]
    """The sets that need it."""
    fault: str
    """What is wrong with it, such as "is missing"; empty if it's there."""
    remark: str
    """What doesn't stop a training, such as another number of rows than the source says."""
    source: str
    """Who publishes it, by name."""


@dataclass(frozen=True)
class Inventory:
    """Files and folders of a mixture, each once."""

    name: str
    items: tuple[Item, ...]

    @property
    def faults(self) -> tuple[Item, ...]:
        """What a training would stop on."""
        return tuple(item for item in self.items if item.fault)

    def lines(self) -> list[str]:
        """For people: the count, then each fault and each remark with the sets that it concerns and the source."""
        there = len(self.items) - len(self.faults)
        lines = [f"{self.name}: {there} of {len(self.items)} files and folders are there"]
        for item in self.items:
            if item.fault or item.remark:
                lines.append(f"  {item.path}: {item.fault or item.remark}")
                others = len(item.data_sets) - 2
                sets = ", ".join(item.data_sets[:2]) + (f" and {others} more" if others > 0 else "")
                lines.append(f"    {item.what} of {sets}" + (f"; from {item.source}" if item.source else ""))
        return lines


def take_inventory(spec: MixtureSpec) -> Inventory:
    """Look for every file and folder that a mixture names. Sets with `repeat: 0` or `weight: 0` are not looked for.

    Rows of JSONL files are counted where the mixture says how many there should be.

    Raises:
        DataError: a file is there and can't be read.
    """
    needed = [each for each in spec.sets if each.repeat and each.weight != 0]
    items = [_rows(each, spec) for each in needed]
    items += [folder for each in needed if each.images is not None for folder in _folders(each, each.images, spec)]
    merged: dict[Path, Item] = {}
    for item in items:
        if item.path in merged:
            item = merged[item.path]._replace(data_sets=merged[item.path].data_sets + item.data_sets)
        merged[item.path] = item
    return Inventory(spec.name, tuple(merged.values()))


def _rows(each: DataSet, spec: MixtureSpec) -> Item:
    path = spec.path(each.rows)
    fault = "" if path.is_file() else "is no file" if path.exists() else "is missing"
    remark = "" if fault or path.suffix != ".jsonl" or each.row_count is None else _other_count(len(JsonLines(path)), each)
    return Item("rows", path, (each.name,), fault, remark, each.rows_from)


def _other_count(count: int, each: DataSet) -> str:
    said = each.row_count or 0
    unsure = "recalled" if each.recalled else "rounded" if each.rounded else ""
    if abs(count - said) <= (ROUNDED_WITHIN * said if unsure else 0):
        return ""
    return f"has {count:,} rows, {said:,} were expected" + (f" (a {unsure} number)" if unsure else "")


def _folders(each: DataSet, images: str, spec: MixtureSpec) -> list[Item]:
    items = []
    for name, publisher in (each.image_folders or {"": each.images_from}).items():
        path = spec.path(images) / name
        if path.is_dir():
            fault = "" if any(path.iterdir()) else "is empty"
        else:
            fault = "is no folder" if path.exists() else "is missing"
        items.append(Item("pictures", path, (each.name,), fault, "", publisher or each.images_from))
    return items
