"""What samples are made of: typefaces and words, those that come with minimonkey and Debian's.

What a seed means depends on them. Whatever is there is used; "package" is the same on every machine; who promises a published
figure asks for "all".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from minimonkey.errors import DataError
from minimonkey.synthetic.material.documentation import BOOKS, missing_books
from minimonkey.synthetic.material.typefaces import Split, Typeface, available, catalogue, incomplete, packaged
from minimonkey.synthetic.material.word_lists import DICTIONARIES, missing_lists
from minimonkey.synthetic.material.words import Vocabulary, vocabulary

Choice = Literal["package", "available", "all"]
"""What comes with minimonkey alone; that and whatever of Debian's is installed; all that Debian has, or an error."""
INSTALL = "apt-get install $(minimonkey data packages)"


class Material(NamedTuple):
    """What the samples of a split are made of."""

    typefaces: tuple[Typeface, ...]
    words: Vocabulary


class Missing(NamedTuple):
    """What of Debian's isn't installed; texts are for training alone."""

    typefaces: list[Typeface]
    lists: list[str]
    texts: list[str]

    @classmethod
    def of(cls, split: Split) -> Missing:
        return cls(incomplete(split), missing_lists(), missing_books() if split == "train" else [])

    @property
    def packages(self) -> list[str]:
        names = {package for typeface in self.typefaces for package in typeface.packages}
        names |= {DICTIONARIES[name].package for name in self.lists} | {BOOKS[name].package for name in self.texts}
        return sorted(names)


@lru_cache(maxsize=6)
def material(choice: Choice, split: Split) -> Material:
    """The typefaces and words of a split.

    Raises:
        DataError: a font or text is broken, or for "all" missing; the message names Debian's packages.
    """
    if choice == "package":
        return Material(packaged(split), vocabulary(split, None))
    if choice == "all":
        demand(split)
    return Material(available(split), vocabulary(split))


def demand(split: Split) -> None:
    """Raise DataError unless all typefaces, word lists and texts of a split that Debian has are installed."""
    missing = Missing.of(split)
    if missing.packages:
        what = _counted((len(missing.typefaces), "typeface"), (len(missing.lists), "word list"), (len(missing.texts), "text"))
        raise DataError(
            f"of what published figures were drawn with, {what} of the {split} split are missing; "
            f"install them: apt-get install {' '.join(missing.packages)}"
        )


def packages() -> list[str]:
    """Debian's packages with all typefaces, word lists and texts of both splits."""
    names = {package for typeface in catalogue() for package in typeface.packages}
    return sorted(names | {each.package for each in DICTIONARIES.values()} | {book.package for book in BOOKS.values()})


def summary(split: Split) -> str:
    """One line: how many typefaces there are to draw with, and what more Debian has."""
    missing, there = Missing.of(split), len(available(split))
    more = sum(typeface.split == split for typeface in catalogue()) - there
    what = _counted(
        (more, "more typeface"),
        (0 if more else len(missing.typefaces), "fuller typeface"),
        (len(missing.lists), "longer word list"),
        (len(missing.texts), "text"),
    )
    return f"{there} typefaces; Debian has {what}: {INSTALL}" if what else f"{there} typefaces, all of the catalogue"


def _counted(*counts: tuple[int, str]) -> str:
    """ "2 typefaces, 8 word lists and 1 text", without what there is none of."""
    said = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
