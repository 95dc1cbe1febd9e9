"""How fields are labelled and questions are put: reads wordings.json, which holds nothing but words."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from minimonkey.synthetic.material.dice import Dice


@lru_cache(maxsize=1)
def wordings() -> dict[str, Any]:
    """labels, columns, titles, phrases by language; fields, near, intents, things, regions for questions."""
    words: dict[str, Any] = json.loads(files(__package__).joinpath("wordings.json").read_text("utf-8"))
    return words


def labels(key: str, language: str) -> list[str]:
    """What may be printed beside a value."""
    found: list[str] = wordings()["labels"][key][language]
    return found


@lru_cache(maxsize=128)
def all_labels(key: str) -> tuple[str, ...]:
    """The labels of a field in every language, in lower case: none of them stands where the field is absent."""
    return tuple({label.casefold() for listed in wordings()["labels"][key].values() for label in listed})


@lru_cache(maxsize=128)
def near(key: str) -> frozenset[str]:
    """Fields that somebody might mean by `key`, itself included."""
    return frozenset({key}.union(*(group for group in wordings()["near"] if key in group)))


def phrase(kind: str, language: str, dice: Dice) -> str:
    """A phrase to print, such as thanks."""
    return dice.one(wordings()["phrases"][kind][language])


def word_question(dice: Dice, intent: str, **parts: str) -> str:
    """One of an intent's wordings, filled in."""
    text: str = dice.one(wordings()["intents"][intent]).format(**parts)
    return text.replace("..", ".") if text.endswith("..") and not text.endswith("...") else text


def naming(dice: Dice, kind: str, key: str, intent: str = "field", loose: bool = True) -> str:
    """A question that names a field of a kind of document in English. `loose`: its vaguest names can mean nothing else there."""
    names = wordings()["fields"][key]
    if intent == "field" and dice.chance(0.4) and "ask" in names:
        return dice.one(names["ask"])
    the = names["the"] + names.get(kind, []) + (names.get("loose", []) if loose else [])
    return word_question(dice, intent, **noun(dice.one(the)))


def noun(the: str) -> dict[str, str]:
    """`the total` in the shapes that wordings use."""
    bare = the.removeprefix("the ")
    return {
        "the": the,
        "The": the[:1].upper() + the[1:],
        "bare": bare,
        "Bare": bare[:1].upper() + bare[1:],
        "a": ("an " if bare[0] in "aeiou" else "a ") + bare,
    }
