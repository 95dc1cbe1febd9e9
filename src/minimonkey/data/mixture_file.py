"""What a mixture of data sets is made of: our YAML, or the published meta JSON. Opens no rows, draws nothing.

    # recipes/data/receipts.yaml
    name: receipts
    root: /data                  # paths below start here; it is relative to the working directory, "." if left out
    general_ratio: 0.25          # as many general rows as a quarter of the domain rows (r in the Mini-InternVL paper, section 3.4)
    sets:
      - {name: mine, rows: receipts.jsonl, images: receipts, repeat: 2}
      - {name: scans, rows: scans.jsonl, images: scans, max_tiles: 6, template: "{question} Answer: {answer}"}
    include:
      - {file: general.yaml, kind: general}      # the sets of another mixture file, beside this one

How often the sets come is said by `balance`: "repeat" takes each row `repeat` times an epoch, "weight" shares the epoch by
`weight`, "sqrt" by the square root of the number of rows, as InternVL's `use_data_resampling` weighs. Every key is a field of
`DataSet` or `MixtureSpec` below. A wrong key or value is one line that names the file and the key.

The published form is read where the name ends in .json: an object of data sets by name, each with `root`, `annotation`,
`data_augment`, `repeat_time` and perhaps `max_dynamic_patch` and `length`. Source: `build_datasets` in InternVL's
`internvl_chat_finetune.py`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minimonkey.data.template import check_template
from minimonkey.errors import UsageError, shown, unknown
from minimonkey.recipe_file import build, read_recipe_file

Kind = Literal["general", "domain"]
Balance = Literal["repeat", "weight", "sqrt"]
PUBLISHED_KEYS = ("root", "annotation", "data_augment", "repeat_time")
OPTIONAL_KEYS = ("max_dynamic_patch", "length")
MOST = 10**12
"""The largest `repeat`, `weight` and `general_ratio`: more than any use of them, and far from where numbers overflow."""


@dataclass(frozen=True)
class DataSet:
    """One data set of a mixture: where its rows and pictures are, and how often they come."""

    name: str
    rows: str
    """File of the rows, below `root`."""
    images: str | None = None
    """Folder that the rows' picture names start from, below `root`; None where rows have no pictures."""
    image_folders: dict[str, str] = field(default_factory=dict)
    """Folders below `images` that the rows name, each with who publishes it: what `data check` looks for."""
    repeat: float = 1.0
    """How often each row comes an epoch. 0.5 takes one half in this epoch and the other in the next; 0 leaves the set out."""
    weight: float | None = None
    """Share of the epoch, beside the weights of the other sets; for `balance: weight`."""
    max_tiles: int | None = None
    """Most detail tiles of a picture, in place of the training's own setting."""
    augment: bool = False
    """Whether tiles are recompressed as JPEG at a random quality; the published `data_augment`."""
    kind: Kind = "domain"
    """On which side of `general_ratio` the set stands."""
    template: str | None = None
    """Makes conversations of rows with a question and an answer; see `template.conversation_from`."""
    row_count: int | None = None
    """Rows that the source says there are; only `data check` compares. None where no source says it."""
    rounded: bool = False
    """The source gives thousands."""
    recalled: bool = False
    """The number was not read in any source: an unsure memory of it."""
    provenance: str = ""
    """Which paper table or published file says that the set belongs here, and how often."""
    rows_from: str = ""
    """Who publishes the rows, by name."""
    images_from: str = ""
    """Who publishes the pictures, by name, where `image_folders` doesn't say it."""


@dataclass(frozen=True)
class Include:
    """The sets of another YAML mixture, taken over."""

    file: str
    """Path from the folder of the including file."""
    kind: Kind | None = None
    """In place of the sets' own."""
    repeat: float | None = None
    """In place of the sets' own."""


@dataclass(frozen=True)
class MixtureSpec:
    """Data sets and how they are mixed."""

    name: str
    sets: tuple[DataSet, ...] = ()
    include: tuple[Include, ...] = ()
    about: str = ""
    balance: Balance = "repeat"
    general_ratio: float | None = None
    """General rows an epoch as a multiple of its domain rows; None mixes all sets alike."""
    epoch_rows: int | None = None
    """Rows of an epoch; None takes what `repeat` amounts to, or else the sum of the sets' rows."""
    root: str = "."

    def path(self, name: str) -> Path:
        """Where a file or folder of the mixture is."""
        return Path(self.root, name)


def read_mixture(path: Path | str, *, root: str | None = None) -> MixtureSpec:
    """Read a mixture from YAML (.yaml, .yml) or from a published meta file (.json).

    Args:
        path: the file.
        root: folder that the paths in it start from, in place of the file's own; the working directory if neither says one.

    Returns:
        The mixture, with the sets of included files in `sets`.

    Raises:
        UsageError: the file can't be read, or a key or value in it is wrong; file and key are named.
    """
    path = Path(path)
    if path.suffix == ".json":
        spec = _published(path)
    elif path.suffix in (".yaml", ".yml"):
        spec = _ours(path)
    else:
        raise UsageError(f"{path}: expected a mixture as .yaml or .yml, or a published meta file as .json")
    spec = spec if root is None else dataclasses.replace(spec, root=root)
    _check(spec, str(path))
    return spec


def _ours(path: Path, including: tuple[Path, ...] = ()) -> MixtureSpec:
    """The mixture of a YAML file, with the sets of those that it includes. `including`: the files that lead here."""
    spec = build(MixtureSpec, read_recipe_file(path), str(path))
    files, sets = (*including, path.resolve()), list(spec.sets)
    for include in spec.include:
        file = path.parent / include.file
        if file.resolve() in files:
            raise UsageError(f"{path}: include: {include.file} includes itself")
        for each in _ours(file, files).sets:
            kind, repeat = include.kind or each.kind, each.repeat if include.repeat is None else include.repeat
            sets.append(dataclasses.replace(each, kind=kind, repeat=repeat))
    return dataclasses.replace(spec, sets=tuple(sets), include=())


def _check(spec: MixtureSpec, where: str) -> None:
    """What types can't say. Raises UsageError."""
    if not spec.sets:
        raise UsageError(f"{where}: sets: expected at least one data set")
    names = [each.name for each in spec.sets]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: two data sets are named {name!r}; resumes and reports tell them apart by their names")
    for each in spec.sets:
        _check_set(each, spec.balance, f"{where}: {each.name}")
    if spec.epoch_rows is not None and spec.epoch_rows < 1:
        raise UsageError(f"{where}: epoch_rows={spec.epoch_rows}: expected a number above 0")
    ratio = spec.general_ratio
    if ratio is not None:
        if not 0 < ratio <= MOST:
            expected = f"a number above 0, up to {MOST:,}"
            raise UsageError(f"{where}: general_ratio={ratio}: expected {expected}; leave it out to mix all sets alike")
        kinds = {each.kind for each in spec.sets}
        if len(kinds) < 2:
            raise UsageError(f"{where}: general_ratio={ratio} needs sets of both kinds, here all are {kinds.pop()!r}; see `kind`")


def _check_set(each: DataSet, balance: Balance, where: str) -> None:
    for name, number in (("repeat", each.repeat), ("weight", each.weight)):
        if number is not None and not 0 <= number <= MOST:
            raise UsageError(f"{where}: {name}={number}: expected a number from 0 on, up to {MOST:,}")
    if balance == "weight" and each.weight is None:
        raise UsageError(f"{where}: missing key 'weight', which `balance: weight` needs of every set")
    if balance != "weight" and each.weight is not None:
        raise UsageError(f"{where}: weight={each.weight} counts only with `balance: weight`, here it is {balance!r}")
    if balance != "repeat" and each.repeat not in (0, 1):
        raise UsageError(f"{where}: repeat={each.repeat} counts only with `balance: repeat`, here it is {balance!r}")
    if each.max_tiles is not None and each.max_tiles < 1:
        raise UsageError(f"{where}: max_tiles={each.max_tiles}: expected a number above 0")
    for folder, publisher in each.image_folders.items():
        if not isinstance(folder, str) or not isinstance(publisher, str):
            raise UsageError(f"{where}: image_folders: expected `folder: its publisher's name`, got {shown({folder: publisher})}")
    if each.template is not None:
        check_template(each.template, f"{where}: template")


# -- the published form ------------------------------------------------------------------------------------------------------------


def _published(path: Path) -> MixtureSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: no valid JSON ({error.msg} in line {error.lineno})") from error
    except RecursionError as error:
        raise UsageError(f"{path}: no valid JSON (it's nested too deeply)") from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: no JSON that can be read ({shown(str(error))})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected an object {{name: {{...}}}} of data sets, got {shown(content)}")
    return MixtureSpec(path.stem, tuple(_published_set(name, entry, f"{path}: {name}") for name, entry in content.items()))


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: the key {name!r} stands there twice, and the first would be lost")
    return dict(pairs)


def _published_set(name: str, entry: Any, where: str) -> DataSet:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected an object with {', '.join(PUBLISHED_KEYS)}, got {shown(entry)}")
    for key in entry:
        if key not in PUBLISHED_KEYS + OPTIONAL_KEYS:
            raise UsageError(f"{where}: " + unknown("unknown key", key, PUBLISHED_KEYS + OPTIONAL_KEYS))
    for key in PUBLISHED_KEYS:
        if key not in entry:
            meaning = {"repeat_time": "; 1 takes every row once", "data_augment": "; false leaves tiles as they are"}
            raise UsageError(f"{where}: missing key {key!r}{meaning.get(key, '')}")
    for key in ("root", "annotation"):
        _demand(isinstance(entry[key], str), where, key, entry[key], "a path as text")
    if not entry["annotation"].endswith(".jsonl"):
        hint = "a .jsonl file; a mixture in YAML takes other files too (`rows`)"
        _demand(False, where, "annotation", entry["annotation"], hint)
    _demand(isinstance(entry["data_augment"], bool), where, "data_augment", entry["data_augment"], "true or false")
    most = entry.get("max_dynamic_patch")
    _demand(most is None or _whole(most) and most > 0, where, "max_dynamic_patch", most, "a whole number above 0")
    length = entry.get("length")
    _demand(length is None or _whole(length) and length >= 0, where, "length", length, "a whole number, the rows of the file")
    repeat = _repeat_time(entry["repeat_time"], where)
    augment, root = entry["data_augment"], entry["root"]
    return DataSet(name, entry["annotation"], root, repeat=repeat, max_tiles=most, augment=augment, row_count=length)


def _repeat_time(value: Any, where: str) -> float:
    """0 to 1: a share of the rows, from the first on; above 1 a whole number. Published code asserts the latter, for 2.0 too."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _demand(number and 0 <= value <= MOST, where, "repeat_time", value, f"a number from 0 on, up to {MOST:,}")
    if value > 1 and not isinstance(value, int):
        instead = f"{int(value)}" if value == int(value) else f"{int(value)} or {int(value) + 1}"
        hint = f"{instead}: above 1 the published form repeats whole times; a mixture in YAML takes any number (`repeat`)"
        _demand(False, where, "repeat_time", value, hint)
    return float(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _demand(holds: bool, where: str, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise UsageError(f"{where}: {key}={shown(value)}: expected {expected}")
