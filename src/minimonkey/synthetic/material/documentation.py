"""Sentences of Debian's own documentation: running text that somebody wrote, beside random words. For training alone.

The Debian Reference in six languages (GPL-2+) and the Debian FAQ in Dutch (copies, changed or not, under the same notice), from
Debian's packages, as plain text. None of the documents in benchmarks/held_out/real.zip is among them.
"""

from __future__ import annotations

import gzip
import re
import zlib
from functools import lru_cache
from pathlib import Path

from minimonkey.errors import DataError

REFERENCE = "debian-reference/debian-reference.{}.txt.gz"
BOOKS = {
    "american-english": REFERENCE.format("en"),
    "french": REFERENCE.format("fr"),
    "ngerman": REFERENCE.format("de"),
    "spanish": REFERENCE.format("es"),
    "italian": REFERENCE.format("it"),
    "portuguese": REFERENCE.format("pt"),
    "dutch": "doc/debian/FAQ/debian-faq.nl.txt.gz",
}
"""For the word lists that have one, a text in the same language; below /usr/share."""
PACKAGES = " ".join(f"debian-reference-{language}" for language in ("en", "fr", "de", "es", "it", "pt")) + " debian-faq-nl"
SHORTEST, LONGEST = 25, 400
"""Characters of a sentence; the rest is headings, tables and what was put together wrongly."""
PLAIN = 0.9
"""Least share of letters, blanks, commas and full stops: no commands, no tables."""


@lru_cache
def sentences(word_list: str, known: str, folder: str = "/usr/share") -> tuple[str, ...]:
    """The sentences of the text in the language of a word list, in their order, of the `known` characters alone; none for no text.

    Raises:
        DataError: the text isn't installed, or is broken; the message names the packages.
    """
    if word_list not in BOOKS:
        return ()
    path = Path(folder, BOOKS[word_list])
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"documentation {path} can't be read ({error}); install it: apt-get install {PACKAGES}") from error
    found: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        block = re.sub(r"^\s*(?:[*•-]|\d+\.)\s+", "", " ".join(block.split()))
        found += re.split(r"(?<=[.!?])\s+(?=[A-ZÀ-ÖØ-Þ¿¡«“\"(])", block)
    kept = tuple(sentence for sentence in found if _is_prose(sentence, known))
    if not kept:
        raise DataError(f"documentation {path} has no sentence to read; install it anew: apt-get install --reinstall {PACKAGES}")
    return kept


def _is_prose(sentence: str, known: str) -> bool:
    if not (SHORTEST <= len(sentence) <= LONGEST and sentence[-1] in ".!?" and set(known).issuperset(sentence)):
        return False
    if re.search(r"\s\d+(\.\d+)*\.$", sentence):  # two entries of a table of contents
        return False
    return sum(character.isalpha() or character in " ,." for character in sentence) >= PLAIN * len(sentence)
