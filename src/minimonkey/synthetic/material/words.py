"""Random text of the sorts that letters, receipts, tables and forms are made of. Knows nothing of fonts or pixels."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from minimonkey.synthetic.material.documentation import sentences
from minimonkey.synthetic.material.typefaces import Split
from minimonkey.synthetic.material.word_lists import DICTIONARIES, SHARE, word_list

ASCII = "".join(map(chr, range(32, 127)))
LETTERS = "àâäáãåçéèêëíìîïñóòôöõøúùûüßæœÿÀÂÄÁÃÅÇÉÈÊËÍÌÎÏÑÓÒÔÖÕØÚÙÛÜÆŒŸ"
SIGNS = "€£¥°§·–—‘’“”«»¿¡…©®™•×±²³½"
ALPHABET = ASCII + LETTERS + SIGNS
"""Every character that synthetic text may hold."""

COMMON = (
    "the of and a to in is was for on that with as at by from it this be are or an not have you which but all one we can our "
    "total tax date name address phone invoice order number amount price item quantity subtotal cash change card thank page "
    "Mr Mrs Dr Street Road January February March April May June July August September October November December Monday Friday "
    "le la les de des et un une est que pour dans der die das und ist nicht von mit den ein el los una por con il di che per "
    "o os uma com para het een van niet en do no"
).split()
"""Words of which text is mostly made; the lists alone would make each as rare as any other."""
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
"""A word, as the lists have them: "l'idea", "mother-in-law"."""
WRITTEN = 0.35
"""Share of the running text that somebody wrote, where there are such texts."""
FOLDED = frozenset(word.casefold() for word in COMMON)


def is_held_out(word: str) -> bool:
    """True for one word in twenty, by a hash of its lower case, and for no common word: such words are never trained on."""
    return (
        word.casefold() not in FOLDED
        and int.from_bytes(hashlib.blake2b(word.casefold().encode(), digest_size=8).digest(), "big") % 20 == 0
    )


@dataclass(frozen=True)
class Vocabulary:
    """Words to draw from: newline-separated UTF-8 lists, each with its share of the draws (cumulative, the last is 1)."""

    lists: tuple[bytes, ...]
    shares: tuple[float, ...]
    split: Split
    texts: tuple[tuple[str, ...], ...] = ()
    """Sentences that somebody wrote, one text after the other; none for what is held out, which was drawn before there were any."""

    def only(self, index: int) -> Vocabulary:
        """One list and its text alone, counted as DICTIONARIES are; all of them if there is no such list."""
        if len(self.lists) != len(DICTIONARIES):
            return self
        return Vocabulary((self.lists[index],), (1.0,), self.split, tuple(text for text in self.texts[index : index + 1] if text))

    @property
    def reads(self) -> bool:
        """Whether there is a text to read in."""
        return any(self.texts)

    def excerpt(self, rng: np.random.Generator, length: int) -> list[str]:
        """Whole sentences, of `length` characters or more together unless the text ends before.

        A text is as frequent as the word lists of its language; words that are held out are exchanged for others.
        """
        share = rng.random() * self.shares[-1]
        drawn = next((text for text, most in zip(self.texts, self.shares, strict=False) if share < most), ())
        text = drawn or next(text for text in self.texts if text)  # British words go with American English
        first = last = int(rng.random() * len(text))
        while last < len(text) and sum(map(len, text[first:last])) < length:
            last += 1

        def allowed(found: re.Match[str]) -> str:
            word = found.group()
            return self.draw(rng).lower() if any(map(is_held_out, (word, *re.split(r"\W", word)))) else word

        return [re.sub(WORD, allowed, sentence) for sentence in text[first:last]]

    def draw(self, rng: np.random.Generator) -> str:
        """A word of the split. Lists stay bytes, and words are sorted out when drawn: nothing is hashed or decoded in advance."""
        known = set(ALPHABET)
        while True:
            if self.split == "train" and rng.random() < 0.3:
                word = COMMON[int(rng.random() * len(COMMON))]
            else:
                share = rng.random()
                words = self.lists[next(i for i, s in enumerate(self.shares) if share < s)]
                start = words.find(b"\n", int(rng.random() * len(words))) + 1
                word = words[start : words.find(b"\n", start)].decode()
            if word and is_held_out(word) == (self.split == "held_out") and known.issuperset(word):
                return word


@lru_cache(maxsize=4)
def vocabulary(split: Split, share: str | None = SHARE) -> Vocabulary:
    """Word lists, and for training what there is to read in their languages, as installed below `share`; else our own short lists.

    Raises:
        DataError: an installed text is broken; the message names its package.
    """
    shares = np.cumsum([each.weight for each in DICTIONARIES.values()]) / sum(each.weight for each in DICTIONARIES.values())
    texts = tuple(sentences(name, ALPHABET, share) for name in DICTIONARIES) if split == "train" else ()
    return Vocabulary(tuple(word_list(name, share) for name in DICTIONARIES), tuple(map(float, shares)), split, texts)


class Writer:
    """Writes random text with the words of a vocabulary, leaving out the characters that a typeface lacks."""

    def __init__(self, rng: np.random.Generator, words: Vocabulary, lacks: str = "") -> None:
        self.rng, self.words = rng, words
        self._erase = str.maketrans("", "", lacks)

    def _int(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def _one(self, choices: str | tuple[str, ...]) -> str:
        return choices[int(self.rng.random() * len(choices))]

    def digits(self, low: int, high: int) -> str:
        count = self._int(low, high)
        return str(self._int(0, 10**count - 1)).zfill(count)

    def word(self) -> str:
        return self.words.draw(self.rng)

    def number(self) -> str:
        whole = int(10 ** (self.rng.random() * 6))
        shape = self._int(0, 5)
        if shape == 0:
            return f"{whole:,}"
        if shape == 1:
            return f"{whole:,}".replace(",", self._one(". "))
        return (str(whole), f"{whole}.{self.digits(1, 3)}", f"{whole},{self.digits(1, 3)}", f"-{whole}")[shape - 2]

    def price(self) -> str:
        amount = f"{int(10 ** (self.rng.random() * 4.5)):,}.{self.digits(2, 2)}"
        if self.rng.random() < 0.4:
            amount = amount.translate(str.maketrans(",.", ".,"))
        sign = self._one("$€£$€£¥")
        return (amount, amount, sign + amount, f"{amount} {sign}", f"{sign} {amount}", f"-{amount}", f"{amount} EUR")[
            self._int(0, 6)
        ]

    def date(self) -> str:
        day, month, year = self._int(1, 31), self._int(1, 12), self._int(1950, 2035)
        name = self._one(("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"))
        mark = self._one("/.-")
        shapes = (
            f"{day:02}{mark}{month:02}{mark}{year}",
            f"{year}-{month:02}-{day:02}",
            f"{day}{mark}{month}{mark}{year % 100:02}",
        )
        return (*shapes, f"{day} {name} {year}", f"{name} {day}, {year}", str(year))[self._int(0, 5)]

    def time(self) -> str:
        hour, minute = self._int(0, 23), self._int(0, 59)
        twelve = f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}"
        return (f"{hour:02}:{minute:02}", f"{hour}:{minute:02}:{self._int(0, 59):02}", twelve, f"{hour}h{minute:02}")[
            self._int(0, 3)
        ]

    def code(self) -> str:
        sets = ("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", "0123456789ABCDEF", "abcdefghijklmnopqrstuvwxyz0123456789", "0123456789")
        characters, count = self._one(sets), self._int(3, 12)
        code = "".join(self._one(characters) for _ in range(count))
        if count > 5 and self.rng.random() < 0.4:
            cut = count // 2
            code = code[:cut] + self._one("-/._ ") + code[cut:]
        return self._one(("", "", "", "#", "No. ", "Ref ")) + code

    def address(self) -> str:
        host = f"{self.word().lower()}.{self._one(('com', 'org', 'net', 'de', 'fr', 'co.uk', 'es', 'it', 'io'))}"
        name = self.word().lower()
        return (
            f"{name}@{host}",
            f"{name}.{self.digits(1, 3)}@{host}",
            f"www.{host}",
            f"https://{host}/{name}",
            f"{host}/?{name}={self.digits(1, 3)}",
        )[self._int(0, 4)]

    def percentage(self) -> str:
        return f"{self._int(0, 100)}{self._one(('', '.' + self.digits(1, 2), ',' + self.digits(1, 1)))}{self._one(('%', ' %'))}"

    def phone(self) -> str:
        three, two = self.digits(3, 3), self.digits(2, 2)
        shapes = (
            f"({three}) {self.digits(3, 3)}-{self.digits(4, 4)}",
            f"+{two} {self.digits(2, 3)} {self.digits(6, 8)}",
            f"{three}-{self.digits(4, 4)}",
        )
        return (*shapes, " ".join(self.digits(2, 2) for _ in range(5)))[self._int(0, 3)]

    def signs(self) -> str:
        """Any characters of the alphabet, so that rare ones are seen too."""
        return "".join(self._one(ALPHABET[1:]) for _ in range(self._int(1, 6)))

    def special(self) -> str:
        """Anything but a word."""
        makers = (self.number, self.number, self.price, self.price, self.date, self.time, self.code, self.code, self.percentage)
        return (*makers, self.phone, self.address, self.signs)[self._int(0, 11)]()

    def _dress(self, word: str) -> str:
        """A word with punctuation about it, now and then."""
        chance = self.rng.random()
        if chance < 0.1:
            return word + self._one(",,.;:")
        if chance < 0.13:
            return word + self._one(("!", "?", "...", "…", " –", " —", " -", " &", " /", " +", " ="))
        if chance < 0.16:
            return word.join(self._one(("()", "[]", '""', "''", "“”", "‘’", "«»", "()", "{}", "<>", "**", "__")))
        if chance < 0.18:
            return f"{word}{self._one('-/_')}{self.word()}"
        return word

    def phrase(self, length: int) -> str:
        """About `length` characters: whole words, at least one."""
        if self.words.reads and self.rng.random() < WRITTEN:
            text = " ".join(self.words.excerpt(self.rng, 2 * length + 40))
            start = 0 if self.rng.random() < 0.4 else text.find(" ", int(self.rng.random() * max(1, len(text) - length))) + 1
            return self._cut(text[start:], length)
        style = self._one(("prose", "prose", "prose", "lower", "title", "upper", "mixed"))
        specials = (0.04, 0.12, 0.4, 0.9)[self._int(0, 3)]
        parts: list[str] = []
        count = -1
        while count < length:
            if self.rng.random() < specials:
                part = self.special()
            else:
                word = self.word()
                shape = self._one(("prose", "lower", "title", "upper")) if style == "mixed" else style
                begins = not parts or parts[-1].endswith((".", "!", "?"))
                if shape == "upper":
                    word = word.upper()
                elif shape == "title" or (shape == "prose" and begins):
                    word = word[:1].upper() + word[1:]
                elif shape == "lower":
                    word = word.lower()
                part = self._dress(word)
            parts.append(part)
            count += len(part) + 1
        return self._cut(" ".join(parts), length)

    def _cut(self, text: str, length: int) -> str:
        """`text` in characters of the typeface, cut after the last word that makes it at most a fifth longer than `length`."""
        text = self.fit(text)
        cut = max(text.rfind(" ", 0, math.ceil(length * 1.2)), text.find(" "))
        return text[:cut] if cut > 0 and len(text) > length * 1.2 else text

    def program(self, length: int) -> str:
        """About `length` characters of something like source code or a command: names, calls, brackets, paths, options."""
        parts: list[str] = []
        while sum(map(len, parts)) + len(parts) < length:
            name, other = self.word().lower(), self.word().lower()
            value = self._one((other, f'"{other}"', f"'{other}'", self.digits(1, 4), f"0x{self.digits(2, 4)}", f"{name}.{other}"))
            calls = (f"{name}({value})", f"{name}[{value}]", f"{name}_{other}", f"{{{name}: {value}}}", f"--{name}={value}")
            path = f"/{name}/{other}.{self._one(('py', 'txt', 'c', 'html', 'conf'))}"
            names = (f"<{name}>", f"-{name[0]}", f"${name.upper()}", name, name, other, value)
            parts.append(self._one((*calls, path, *names)) + self._one(("", "", "", "", ";", ",", ":")))
            if self.rng.random() < 0.4:
                parts.append(self._one(tuple("= == != += -> := < >= | && + * : // # % \\".split())))
        return self.fit(" ".join(parts))

    def fit(self, text: str, length: int | None = None) -> str:
        """`text` without the characters that the typeface lacks, single-spaced, cut to `length` (after a word, if possible)."""
        text = " ".join(text.translate(self._erase).split())
        if length is not None and len(text) > length:
            cut = text.rfind(" ", length // 2, length + 1)
            text = text[: cut if cut > 0 else length].rstrip()
        # A text of nothing but lacking characters is rare; every typeface has digits.
        return text or self.digits(1, 3)
