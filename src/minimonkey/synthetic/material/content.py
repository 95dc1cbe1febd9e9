"""What people and shops write: names, goods, addresses, money, dates, sentences. One language and one way of writing a document.

Words are of the vocabulary's split, and so are the goods and names of content.json: what is held out is never written for training.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.word_lists import DICTIONARIES
from minimonkey.synthetic.material.words import Vocabulary, Writer, is_held_out

LANGUAGES = {"en": 55, "de": 12, "fr": 10, "es": 8, "it": 5, "nl": 5, "pt": 5}
"""Languages and how often each is used."""
WORD_LISTS = {
    "en": "american-english",
    "de": "ngerman",
    "fr": "french",
    "es": "spanish",
    "it": "italian",
    "nl": "dutch",
    "pt": "portuguese",
}
MEASURES = ("250g", "500 g", "1 kg", "0.5 l", "330ml", "2 pack", "6 pcs", "XL", "small", "75cl", "no. 7")
WRITTEN_FROM = 60
"""Characters that a text should have for it to be of somebody's sentences, which are long."""
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprstvz"


@lru_cache(maxsize=1)
def content() -> dict[str, Any]:
    """content.json: stock names, goods and patterns."""
    stock: dict[str, Any] = json.loads(files(__package__).joinpath("content.json").read_text("utf-8"))
    return stock


@lru_cache(maxsize=64)
def stock(name: str, language: str, held_out: bool) -> tuple[str, ...]:
    """The goods or names of a list whose words are on one side of the split; a few at least."""
    listed = content()[name]
    chosen = listed[language] if isinstance(listed, dict) else listed
    return tuple(text for text in chosen if all(is_held_out(word) == held_out for word in text.split() if len(word) > 3))


class Author:
    """Writes the parts of one document."""

    def __init__(self, dice: Dice, words: Vocabulary, language: str) -> None:
        self.dice, self.language, self.words = dice, language, words
        held_out = words.split == "held_out"
        self._goods, self._first, self._last = (stock(name, language, held_out) for name in ("goods", "first", "last"))
        own = words.only(list(DICTIONARIES).index(WORD_LISTS[language])) if dice.chance(0.75) else words
        self._writer = Writer(dice.rng, own)
        english = language == "en"
        self.comma = "." if english or dice.chance(0.15) else ","
        self._thousands = dice.one((",", ",", "") if self.comma == "." else (".", " ", ""))
        signs = ("$", "£", "€", "USD ", "") if english else ("€", "€", "EUR", "")
        self.sign = dice.one(signs)
        self._sign_after = not english or (self.sign == "€" and dice.chance(0.3))
        self._date = dice.between(0, 5)
        self._mark = dice.one("/.-" if english else "./-")
        self._clock = dice.between(0, 3)

    def pattern(self, text: str) -> str:
        """9 becomes a digit, A a capital letter."""
        parts = [str(self.dice.between(0, 9)) if c == "9" else chr(65 + self.dice.between(0, 25)) if c == "A" else c for c in text]
        return "".join(parts)

    def word(self) -> str:
        word = self._writer.word()
        # Half of the English lists are genitives.
        return self._writer.word() if word.endswith("'s") else word

    def name_word(self) -> str:
        """A capitalised word, from the vocabulary or made up; made-up words keep to the split too."""
        while True:
            if self.dice.chance(0.5):
                word = self.word().split("'")[0]
                if 3 <= len(word) <= 11 and word.isalpha() and is_held_out(word) == (self.words.split == "held_out"):
                    return word[:1].upper() + word[1:].lower()
            else:
                count = self.dice.between(2, 3)
                word = "".join(self.dice.one(CONSONANTS) + self.dice.one(VOWELS) for _ in range(count)) + self.dice.one("nrsl")
                if is_held_out(word) == (self.words.split == "held_out"):
                    return word.capitalize()

    def item(self) -> str:
        """A name of goods or work."""
        if self.dice.chance(min(0.55, 0.03 * len(self._goods))):
            name = self.dice.one(self._goods)
        else:
            name = " ".join(self.word() for _ in range(self.dice.between(1, 2)))
            name = name[:1].upper() + name[1:]
        chance = self.dice.between(0, 19)
        if chance < 3:
            return f"{name} {self.dice.one(MEASURES)}"
        return f"{name} {self.word().lower()}" if chance < 6 else name

    def different(self, count: int) -> list[str]:
        """Item names of which none is part of another."""
        names: list[str] = []
        for _ in range(3 * count):
            name = self.item()
            folded = name.casefold()
            if not any(folded in other.casefold() or other.casefold() in folded for other in names):
                names.append(name)
            if len(names) == count:
                break
        return names

    def first(self) -> str:
        return self.dice.one(self._first) if self._first and self.dice.chance(0.8) else self.name_word()

    def last(self) -> str:
        return self.dice.one(self._last) if self._last and self.dice.chance(0.6) else self.name_word()

    def person(self) -> str:
        return f"{self.first()} {self.last()}"

    def company(self) -> str:
        names = [self.last(), self.name_word(), f"{self.last()} {self.name_word()}", f"{self.name_word()} & {self.last()}"]
        ending = self.dice.one(content()["company"][self.language])
        return f"{self.dice.one(names)} {ending}" if self.dice.chance(0.85) else names[2]

    def street(self) -> str:
        pattern = self.dice.one(content()["street"][self.language])
        return pattern.format(w=self.name_word(), n=self.dice.between(1, 10 ** self.dice.between(1, 3)))

    def postcode(self) -> str:
        return self.pattern(self.dice.one(content()["postcode"][self.language]))

    def town(self) -> str:
        return self.dice.one(content()["town"][self.language]).format(w=self.name_word())

    def town_line(self) -> str:
        if self.language == "en":
            return f"{self.town()}, {self.postcode()}" if self.dice.chance(0.5) else f"{self.town()} {self.postcode()}"
        return f"{self.postcode()} {self.town()}"

    def country(self) -> str:
        return self.dice.one(content()["country"][self.language])

    def phone(self) -> str:
        shapes = (
            "(999) 999-9999",
            "+99 999 9999999",
            "999-9999",
            "99 99 99 99 99",
            "0999 / 999999",
            "999 999 999",
            "+99 (0)99 99999",
        )
        return self.pattern(self.dice.one(shapes))

    def host(self) -> str:
        plain = "".join(c for c in self.name_word().lower() if c.isascii())
        return f"{plain or 'x'}.{self.dice.one(content()['domain'][self.language])}"

    def email(self) -> str:
        return f"{self.dice.one(('info', 'office', 'mail', 'contact', 'hello', self.pattern('aA').lower()))}@{self.host()}"

    def website(self) -> str:
        return self.dice.one(("www.", "www.", "", "https://")) + self.host()

    def code(self) -> str:
        """A number of a document, a customer, a part."""
        shapes = (
            "9999",
            "99999",
            "999999",
            "AA-9999",
            "A999999",
            "9999/99",
            "2099-9999",
            "AA99-999",
            "99-9999-9",
            "AAA999",
            "A-99.999",
        )
        return self.pattern(self.dice.one(shapes))

    def tax_id(self) -> str:
        country = content()["iban"][self.language]
        return self.pattern(
            self.dice.one(("999999999", f"{country}999999999", "99-9999999", "99/999/99999", f"{country}A99999999"))
        )

    def iban(self) -> str:
        """Shaped like one; its check digits are random."""
        digits = self.pattern("99") + "".join(f" {self.pattern('9999')}" for _ in range(self.dice.between(4, 5)))
        return f"{content()['iban'][self.language]}{digits}"

    def card(self) -> str:
        return self.pattern(self.dice.one(("**** **** **** 9999", "************9999", "XXXX-9999", "9999", "****9999")))

    def day(self, low: int = 1995, high: int = 2031) -> str:
        day, month, year = self.dice.between(1, 28), self.dice.between(1, 12), self.dice.between(low, high)
        name = content()["months"][self.language][month - 1]
        mark = self._mark
        american = self.language == "en" and self._date == 2
        return (
            f"{day:02}{mark}{month:02}{mark}{year}",
            f"{year}-{month:02}-{day:02}",
            f"{month}/{day}/{year}" if american else f"{day}{mark}{month}{mark}{year % 100:02}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}" if self.language == "en" else f"{day}. {name} {year}",
            f"{day:02} {name[:3]} {year}",
        )[self._date]

    def clock(self) -> str:
        hour, minute = self.dice.between(7, 22), self.dice.between(0, 59)
        return (
            f"{hour:02}:{minute:02}",
            f"{hour:02}:{minute:02}:{self.dice.between(0, 59):02}",
            f"{(hour - 1) % 12 + 1}:{minute:02} {'AM' if hour < 12 else 'PM'}",
            f"{hour}:{minute:02}",
        )[self._clock]

    def money(self, cents: int, signed: bool = False) -> str:
        """An amount as this document writes it, with the sign of its currency if asked for."""
        text = f"{abs(cents) // 100:,}".replace(",", self._thousands) + self.comma + f"{abs(cents) % 100:02}"
        if signed and self.sign:
            text = f"{text} {self.sign.strip()}" if self._sign_after else self.sign + text
        return "-" + text if cents < 0 else text

    def prose(self, length: int) -> str:
        """Sentences of about `length` characters: words and punctuation, figures now and then, but no names of fields.

        Of longer ones half are somebody's, where such a text is at hand: whole sentences, which may well speak of a date.
        """
        if length >= WRITTEN_FROM and self._writer.words.reads and self.dice.chance(0.5):
            return " ".join(self._writer.words.excerpt(self.dice.rng, length))
        dice, parts, count = self.dice, [], 0
        left = dice.between(5, 16)
        begins = True
        while count < length:
            word = str(dice.between(2, 9999)) if dice.chance(0.03) else self.word()
            if begins:
                word = word[:1].upper() + word[1:]
            left -= 1
            begins = left <= 0
            if begins:
                word += dice.one("......?!")
                left = dice.between(5, 16)
            elif dice.chance(0.09):
                word += dice.one(",,,;:")
            elif dice.chance(0.015):
                word = dice.one(("({})", '"{}"', "“{}”")).format(word)
            parts.append(word)
            count += len(word) + 1
        text = " ".join(parts)
        return text if text[-1] in ".?!" else text.rstrip(",;:") + "."

    def mixed(self, length: int) -> str:
        """Text with prices, dates, codes and rare signs in it, where nothing is asked about such."""
        return self._writer.phrase(length)

    def heading(self) -> str:
        words = [self.word() for _ in range(self.dice.between(1, 4))]
        text = " ".join(words)
        return text.title() if self.dice.chance(0.3) else text[:1].upper() + text[1:]
