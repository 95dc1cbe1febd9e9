"""Running text that somebody wrote: whole sentences, only where it is installed, nothing that is held out."""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minimonkey.errors import DataError
from minimonkey.synthetic.material import documentation, typefaces, words
from minimonkey.synthetic.material.content import Author
from minimonkey.synthetic.material.dice import Dice

BOOK = """
2. What is Debian

    The Debian Project is an association of individuals who have made
    common cause. Its distribution is characterized by the following.

      * Keep it short and simple, as others do. (KISS)
      * www.debian.org/%7Ebug/x?y=1&z=2 | 3 | 4 | 5 | 6 |.

    Chinese stays out 中文 of what a typeface of ours can draw.
    2. Bug reports on this document 4. Support
    11. Documentation of all packages 2.6.3. Caching errors of the data 2.6.4. Files

    # apt-get install && rm -rf /tmp/*; echo $PATH > /dev/null.
"""
WHOLE = gzip.compress(b"Some words here. " * 300)
BROKEN = [b"no gzip", WHOLE[:-4], gzip.compress(b"\xff\xfe"), WHOLE[:20] + bytes([WHOLE[20] ^ 255]) + WHOLE[21:]]
Vocabularies = Callable[[typefaces.Split], words.Vocabulary]


def installed(folder: Path, text: bytes) -> str:
    path = folder / documentation.BOOKS["american-english"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    return str(folder)


def test_sentences_are_whole_and_plain(tmp_path: Path) -> None:
    folder = installed(tmp_path, gzip.compress(BOOK.encode()))
    assert documentation.sentences("american-english", words.ALPHABET, folder) == (
        "The Debian Project is an association of individuals who have made common cause.",
        "Its distribution is characterized by the following.",
        "Keep it short and simple, as others do.",
    )
    assert documentation.sentences("british-english", words.ALPHABET, folder) == (), "one text in English is enough"


@pytest.mark.parametrize("content", BROKEN)
def test_a_text_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    again = "install it anew: apt-get install --reinstall debian-reference-en"
    with pytest.raises(DataError, match=f"can't be read .*; {again}") as raised:
        documentation.sentences("american-english", words.ALPHABET, installed(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_where_nothing_is_installed_there_is_nothing_to_read(tmp_path: Path) -> None:
    for folder in (str(tmp_path / "nothing"), None):
        assert documentation.sentences("american-english", words.ALPHABET, folder) == ()
    assert documentation.missing_books(str(tmp_path)) == list(documentation.BOOKS)
    assert documentation.missing_books(installed(tmp_path, WHOLE)) == list(documentation.BOOKS)[1:]


@pytest.fixture
def reader(vocabulary: Vocabularies) -> words.Vocabulary:
    """Made-up words and two texts, of which the second is empty."""
    text = tuple(f"Sentence number {number} speaks of {word}." for number, word in enumerate(["houses", "trees", "rivers"] * 9))
    return dataclasses.replace(vocabulary("train"), texts=(text, ()))


def test_a_text_without_sentences_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no sentence to read; install it anew: apt-get install --reinstall debian"):
        documentation.sentences("american-english", words.ALPHABET, installed(tmp_path, gzip.compress(b"1 | 2 | 3\n")))


def test_excerpts_are_sentences_in_their_order(reader: words.Vocabulary) -> None:
    for seed in range(20):
        excerpt = reader.excerpt(np.random.default_rng(seed), 90)
        numbers = [int(re.findall(r"\d+", sentence)[0]) for sentence in excerpt]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert sum(map(len, excerpt)) >= 90 or numbers[-1] == 26, "long enough, where the text goes on"


def test_what_is_held_out_is_not_read(reader: words.Vocabulary) -> None:
    held_out = next(word for word in (f"w{letter}x" for letter in "abcdefghijklmnopqrstuvwxyzäöüß") if words.is_held_out(word))
    joined = next(word for word in (f"l'{letter}x" for letter in "abcdefghijklmnopqrstuvwxyzäöüß") if words.is_held_out(word))
    assert not words.is_held_out(joined[2:]), "as a whole alone"
    text = tuple(f"Line {number}: {held_out} or {joined} or o-{held_out} stands here." for number in range(9))
    strict = dataclasses.replace(reader, texts=(text,))
    for seed in range(9):
        for sentence in strict.excerpt(np.random.default_rng(seed), 60):
            assert held_out not in sentence and joined not in sentence and sentence.endswith(" stands here.")
            assert not any(map(words.is_held_out, re.findall(r"[^\W\d_]+", sentence)))


def test_lines_and_letters_are_partly_of_it(reader: words.Vocabulary, vocabulary: Vocabularies) -> None:
    """About a third of the phrases, whole words of about the length asked for; half of the prose, which begins with a sentence."""
    known = {"Sentence", "number", "speaks", "of", "houses", "trees", "rivers"}

    def written(text: str) -> bool:
        return all(word in known or word.isdigit() for word in re.findall(r"\w+", text))

    writer = words.Writer(np.random.default_rng(0), reader)
    phrases = [text for text in (writer.phrase(50) for _ in range(300)) if written(text)]
    assert 70 < len(phrases) < 140
    assert all(30 <= len(text) <= 60 or text.endswith("26 speaks of rivers.") for text in phrases)
    assert len({text.split()[0] for text in phrases}) > 3
    author = Author(Dice(np.random.default_rng(0)), reader, "en")
    prose = [author.prose(80) for _ in range(200)]
    assert 70 < sum(map(written, prose)) < 130
    assert all(text.startswith("Sentence number ") and text[-1] == "." for text in prose if written(text))
    plain = words.Writer(np.random.default_rng(0), vocabulary("train"))
    assert not any(written(plain.phrase(50)) for _ in range(100))


def test_one_language_has_its_own_text(vocabulary: Vocabularies) -> None:
    lists = tuple(f"\n{name}\n".encode() for name in words.DICTIONARIES)
    texts = tuple((f"{name} text.",) if name in documentation.BOOKS else () for name in words.DICTIONARIES)
    every = words.Vocabulary(lists, tuple(np.linspace(0.125, 1, 8)), "train", texts)
    for index, name in enumerate(words.DICTIONARIES):
        assert every.only(index).texts == (((f"{name} text.",),) if name in documentation.BOOKS else ())
    assert documentation.BOOKS.keys() < words.DICTIONARIES.keys()


def test_languages_are_as_frequent_as_their_word_lists(vocabulary: Vocabularies) -> None:
    """Of lists that share 5 : 2 : 1, the second has no text, and its words go with the first."""
    lists = vocabulary("train").lists * 3
    every = words.Vocabulary(lists, (0.625, 0.875, 1.0), "train", (("First one here.",), (), ("Third one here.",)))
    rng = np.random.default_rng(0)
    drawn = [every.excerpt(rng, 10)[0].split()[0] for _ in range(400)]
    assert 30 < drawn.count("Third") < 70


def test_without_a_text_of_its_language_an_author_makes_words_up(vocabulary: Vocabularies) -> None:
    for texts in ((), ((), ())):
        empty = dataclasses.replace(vocabulary("train"), texts=texts)
        assert not empty.reads
        assert Author(Dice(np.random.default_rng(0)), empty, "en").prose(80)
        assert words.Writer(np.random.default_rng(0), empty).phrase(50)
