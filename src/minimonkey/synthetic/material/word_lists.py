"""Lists of words by language: Debian's where they are installed, else the short ones that come with minimonkey.

Ours (word_lists.json, some 1,500 to 4,000 forms a language) are stems and their endings, "-" being none; they were written for this
package. Debian's have up to half a million.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

SHARE = "/usr/share"
"""Where Debian's packages put word lists and texts."""


class Dictionary(NamedTuple):
    """A word list of Debian's: the package that holds it, and how often it is used."""

    package: str
    weight: int


DICTIONARIES = {
    "american-english": Dictionary("wamerican", 5),
    "british-english": Dictionary("wbritish", 2),
    "french": Dictionary("wfrench", 2),
    "ngerman": Dictionary("wngerman", 2),
    "spanish": Dictionary("wspanish", 1),
    "italian": Dictionary("witalian", 1),
    "portuguese": Dictionary("wportuguese", 1),
    "dutch": Dictionary("wdutch", 1),
}
"""Word lists by the names that Debian's have in /usr/share/dict."""


def word_list(name: str, share: str | None = SHARE) -> bytes:
    """The words of a list in UTF-8, each followed by a line break: the one below `share` if it's there, else our short one."""
    path = None if share is None else _path(name, share)
    return short_list(name) if path is None or not path.exists() else path.read_bytes()


def missing_lists(share: str = SHARE) -> list[str]:
    """The word lists that aren't installed."""
    return [name for name in DICTIONARIES if not _path(name, share).exists()]


@lru_cache(maxsize=len(DICTIONARIES))
def short_list(name: str) -> bytes:
    """The short list that comes with minimonkey, each word once, sorted."""
    groups = json.loads(files(__package__).joinpath("word_lists.json").read_text("utf-8"))[name]
    words = {
        stem + ending.removeprefix("-") for endings, stems in groups.items() for stem in stems.split() for ending in endings.split()
    }
    return "".join(f"{word}\n" for word in sorted(words)).encode()


def _path(name: str, share: str) -> Path:
    return Path(share, "dict", name)
