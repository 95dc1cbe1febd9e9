"""Sentences of Debian's own documentation: running text that somebody wrote, beside random words. For training alone.

Where it isn't installed there are random words alone.

The Debian Reference in six languages (GPL-2+) and the Debian FAQ in Dutch (copies, changed or not, under the same notice), from
Debian's packages, as plain text. None of the documents in benchmarks/held_out/real.zip is among them.
"""

from __future__ import annotations

import gzip
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from minimonkey.errors import DataError
from minimonkey.synthetic.material.word_lists import SHARE

REFERENCE = "debian-reference/debian-reference.{}.txt.gz"
FAQ = "doc/debian/FAQ/debian-faq.nl.txt.gz"


class Book(NamedTuple):
    """A text: the package that holds it, and where that puts it below /usr/share."""

    package: str
    path: str


BOOKS = {
    "american-english": Book("debian-reference-en", REFERENCE.format("en")),
    "french": Book("debian-reference-fr", REFERENCE.format("fr")),
    "ngerman": Book("debian-reference-de", REFERENCE.format("de")),
    "spanish": Book("debian-reference-es", REFERENCE.format("es")),
    "italian": Book("debian-reference-it", REFERENCE.format("it")),
    "portuguese": Book("debian-reference-pt", REFERENCE.format("pt")),
    "dutch": Book("debian-faq-nl", FAQ),
}
"""For the word lists that have one, a text in the same language."""
SHORTEST, LONGEST = 25, 400
"""Characters of a sentence; the rest is headings, tables and what was put together wrongly."""
PLAIN = 0.9
"""Least share of letters, blanks, commas and full stops: no commands, no tables."""


@lru_cache
def sentences(word_list: str, known: str, share: str | None = SHARE) -> tuple[str, ...]:
    """The sentences of the text in the language of a word list, in their order, of the `known` characters alone.

    None where there is no such text, or it isn't installed below `share`.

    Raises:
        DataError: the text is broken; the message names its package.
    """
    if share is None or word_list not in BOOKS or not (path := Path(share, BOOKS[word_list].path)).exists():
        return ()
    again = f"install it anew: apt-get install --reinstall {BOOKS[word_list].package}"
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"documentation {path} can't be read ({error}); {again}") from error
    found: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"^\s*(?:[*•-]|\d+\.)\s+", "", " ".join(block.split()))
        found += re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-ÖØ-Þ¿¡«“\"(])", block)
    kept = tuple(sentence for sentence in found if _is_prose(sentence, known))
    if not kept:
        raise DataError(f"documentation {path} has no sentence to read; {again}")
    return kept


def missing_books(share: str = SHARE) -> list[str]:
    """The word lists whose text isn't installed."""
    return [name for name, book in BOOKS.items() if not Path(share, book.path).exists()]


def _is_prose(sentence: str, known: str) -> bool:
    if not (SHORTEST <= len(sentence) <= LONGEST and sentence[-1] in ".!?" and set(known).issuperset(sentence)):
        return False
    if re.search(r"\s\d+(\.\d+)*\.$", sentence):  # two entries of a table of contents
        return False
    return sum(character.isalpha() or character in " ,." for character in sentence) >= PLAIN * len(sentence)
