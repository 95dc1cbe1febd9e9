"""Questions about a document, with their answers as printed and where each character of an answer is read.

Made of facts alone. What could be answered in two ways isn't asked: texts that are quoted stand once on the page, a named field
is the only one of its name, and what is said to be absent has neither a label nor anything like it on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from minimonkey.synthetic.material.content import Author
from minimonkey.synthetic.material.dice import Dice
from minimonkey.synthetic.material.facts import Entry, Facts, Field, Passage
from minimonkey.synthetic.material.wordings import all_labels, naming, near, noun, word_question, wordings
from minimonkey.synthetic.reading import Reading, words_in
from minimonkey.synthetic.rendering.sheet import Sheet
from minimonkey.synthetic.rendering.typesetting import Box

QuestionKind = Literal["line", "region", "everything", "field", "beside", "count", "yes_no", "where", "unanswerable"]
WEIGHTS: dict[QuestionKind, float] = {
    "field": 6,
    "line": 2,
    "where": 1.8,
    "region": 1.6,
    "unanswerable": 1.4,
    "beside": 2,
    "yes_no": 1,
    "count": 0.7,
    "everything": 1,
}
"""How often each kind is asked, where it can be."""
SHORTEST, LONGEST, WHOLE = 6, 14, 400
"""Questions a document, and how many characters "read everything" may answer with."""
PATIENCE = 5
"""Attempts at a question of a kind: many find nothing that could be asked without doubt."""
UNANSWERABLE = "unanswerable"
Source = tuple[int, int] | None


@dataclass(frozen=True)
class Question:
    """A question, its answer, and for each character of the answer the (line, character) it is read from, or None."""

    text: str
    answer: str
    kind: QuestionKind
    sources: tuple[Source, ...]


class Asker:
    """Asks about one document. `box` tells where a passage stands in a picture of `size` (width, height)."""

    def __init__(
        self, dice: Dice, author: Author, sheet: Sheet, facts: Facts, box: Callable[[Passage], Box], size: tuple[int, int]
    ) -> None:
        self.dice, self.author, self.sheet, self.facts, self.box, self.size = dice, author, sheet, facts, box, size
        self.page = Reading(dice, sheet)
        self._keys = [field.key for field in facts.fields]
        self._makers: dict[QuestionKind, Callable[[], Question | None]] = {
            "field": self.field,
            "line": self.line,
            "where": self.where,
            "region": self.region,
            "unanswerable": self.unanswerable,
            "beside": self.beside,
            "yes_no": self.yes_no,
            "count": self.count,
            "everything": self.everything,
        }

    def ask(self, most: int = LONGEST) -> list[Question]:
        """From 6 to `most` questions (fewer where there is little to ask), of many kinds, in random order."""
        wanted = self.dice.between(SHORTEST, most)
        asked: dict[str, Question] = {}
        known: set[tuple[str, str]] = set()
        plan: list[QuestionKind] = ["line", "region", "where", "unanswerable", "field"]
        for attempt in range(3 * wanted):
            if len(asked) == wanted:
                break
            kind = plan[attempt] if attempt < len(plan) else self.dice.weighted(WEIGHTS)
            for _ in range(PATIENCE):
                question = self._makers[kind]()
                if question is None or question.text.casefold() in asked:
                    continue
                # The same thing isn't asked twice; two refusals or two words yes may well be.
                if kind not in ("unanswerable", "yes_no") and (kind, question.answer) in known:
                    continue
                known.add((kind, question.answer))
                asked[question.text.casefold()] = question
                break
        return self.dice.shuffled(list(asked.values()))

    def read(self, kind: QuestionKind, text: str, *passages: Passage) -> Question:
        """A question that is answered by what is printed at `passages`, one below the other or side by side."""
        answer = ""
        sources: list[Source] = []
        for index, passage in enumerate(passages):
            if index:
                answer += " " if passage.line == passages[index - 1].line else "\n"
                sources.append(None)
            answer += self.page.text(passage)
            sources += [(passage.line, character) for character in range(passage.start, passage.end)]
        return Question(text, answer, kind, tuple(sources))

    def say(self, kind: QuestionKind, text: str, answer: str) -> Question:
        """A question whose answer is printed nowhere."""
        return Question(text, answer, kind, (None,) * len(answer))

    def _word(self, intent: str, **parts: str) -> str:
        return word_question(self.dice, intent, **parts)

    # -- fields, items, cells --------------------------------------------------------------------------------------

    def _asked_for(self, field: Field) -> str | None:
        """A question for a field: by its name, or by the label beside it in the document's language."""
        named = self._keys.count(field.key) == 1
        language = self.facts.language
        by_label = bool(field.label) and self.page.word_once(field.label)
        if by_label and self.dice.chance(0.3 if named and language == "en" else 0.5 if named else 1):
            other = language != "en" and self.dice.chance(0.65)
            return self._word(f"labelled_{language}" if other else "labelled", label=field.label)
        return (
            naming(self.dice, self.facts.kind, field.key, loose=near(field.key).isdisjoint(set(self._keys) - {field.key}))
            if named
            else None
        )

    def field(self) -> Question | None:
        facts = self.facts
        cells = sum(len(entry.cells) for entry in facts.entries)
        if facts.fields and self.dice.chance(1 if not cells else max(0.4, len(facts.fields) / (len(facts.fields) + cells))):
            field = self.dice.one(facts.fields)
            text = self._asked_for(field)
            return self.read("field", text, *field.value) if text else None
        if not facts.entries:
            return None
        entry = self.dice.one(facts.entries)
        name = self.page.text(entry.name)
        if not entry.cells or not self.page.once(name):
            return None
        column = self.dice.one(list(entry.cells))
        return self.read("field", self._ask_cell(entry, name, column), entry.cells[column])

    def _ask_cell(self, entry: Entry, name: str, column: str) -> str:
        name = name.lower() if self.dice.chance(0.2) else name
        intent = self.facts.entry_intents.get(column, "cell")
        return self._word(intent, item=name, row=name, column=column)

    # -- lines and regions -----------------------------------------------------------------------------------------

    def line(self) -> Question | None:
        dice, count = self.dice, len(self.page.texts)
        intent = dice.weighted({"begins": 4, "holds": 2, "after": 2, "before": 1.5, "nth": 2, "last": 0.7})
        index = dice.between(0, count - 1)
        if intent == "last":
            index = count - 1
            return self.read("line", self._word("line_last"), self.page.line(index)) if self.page.plain() == count else None
        if intent == "nth":
            index = dice.between(0, min(9, self.page.plain() - 1))
            if self.page.plain() == 0:
                return None
            return self.read("line", self._word("line_nth", n=str(index + 1), nth=ordinal(index + 1)), self.page.line(index))
        if not self._whole(index):
            return None
        if intent in ("after", "before"):
            first = index if intent == "after" else index - 1
            if first < 0 or not self.page.follows(first) or not (self._whole(first) and self._whole(first + 1)):
                return None
            known, asked = (first, first + 1) if intent == "after" else (first + 1, first)
            quote = (
                self.page.texts[known]
                if len(self.page.texts[known]) < 30 and self.page.once(self.page.texts[known])
                else self.page.beginning(known)
            )
            return self.read("line", self._word(f"line_{intent}", x=quote), self.page.line(asked)) if quote else None
        if intent == "begins":
            quote = self.page.beginning(index)
        else:
            quote = dice.one(self.page.texts[index].split(" "))
            quote = quote if self.page.once(quote) and len(quote) > 3 else None
        if not quote or quote == self.page.texts[index]:
            return None
        return self.read("line", self._word(f"line_{intent}", x=quote), self.page.line(index))

    def _whole(self, index: int) -> bool:
        """Whether the line is what every reader calls one; columns of running text are read one by one."""
        return self.sheet.columns[index] >= 0 and ("columns_text" in self.facts.counts or self.page.alone(index))

    def region(self) -> Question | None:
        dice, count = self.dice, len(self.page.texts)
        named = [region for region in self.facts.regions if region.last - region.first < 6]
        if named and dice.chance(0.45):
            region = dice.one(named)
            return self._region(region.first, region.last, "region_named", **noun(dice.one(wordings()["regions"][region.key])))
        size = dice.between(2, min(6, count))
        if count < 2:
            return None
        intent = dice.weighted({"lines": 1.5, "first": 1, "last": 1, "from": 3})
        if intent == "from":
            first = dice.between(0, count - size)
            begin, end = self.page.beginning(first), self.page.beginning(first + size - 1)
            if not begin or not end or not all(map(self._whole, range(first, first + size))):
                return None
            return self._region(first, first + size - 1, "region_from", n=str(size), x=begin, y=end)
        if (self.page.plain() < count) if intent == "last" else (self.page.plain() < size):
            return None
        if intent == "last":
            return self._region(count - size, count - 1, "region_last", n=str(size))
        first = 0 if intent == "first" else dice.between(0, min(8, self.page.plain() - size))
        return self._region(first, first + size - 1, f"region_{intent}", n=str(size), a=str(first + 1), b=str(first + size))

    def _region(self, first: int, last: int, intent: str, **parts: str) -> Question | None:
        """The lines from `first` to `last`, if each stands below the one before."""
        if not all(self.page.follows(index) for index in range(first, last)):
            return None
        return self.read("region", self._word(intent, **parts), *map(self.page.line, range(first, last + 1)))

    def everything(self) -> Question | None:
        if min(self.sheet.columns) < 0 or len(self.page.whole) > WHOLE:
            return None
        return self.read("everything", self._word("everything"), *map(self.page.line, range(len(self.page.texts))))

    # -- places ----------------------------------------------------------------------------------------------------

    def where(self) -> Question | None:
        dice, facts = self.dice, self.facts
        passage, text = None, ""
        if facts.fields and dice.chance(0.45):
            field = dice.one(facts.fields)
            passage = field.value[0]
            if len(field.value) > 1 or self._keys.count(field.key) > 1:
                return None
            loose = near(field.key).isdisjoint(set(self._keys) - {field.key})
            text = naming(dice, facts.kind, field.key, "where_field", loose)
        else:
            passage = self.page.any_passage()
            quote = self.page.text(passage)
            if not self.page.once(quote) or len(quote) > 60:
                return None
            text = self._word("where", x=quote)
        width, height = self.size
        left, top, right, bottom = self.box(passage)
        numbers = [left / width, top / height, right / width, bottom / height]
        place = ", ".join(str(min(1000, max(0, round(1000 * number)))) for number in numbers)
        before, shown, after = "<ref>", self.page.text(passage), f"</ref><box>[[{place}]]</box>"
        sources = [(passage.line, character) for character in range(passage.start, passage.end)]
        return Question(text, before + shown + after, "where", (*[None] * len(before), *sources, *[None] * len(after)))

    def beside(self) -> Question | None:
        dice, sheet = self.dice, self.sheet
        line = dice.between(0, len(self.page.texts) - 1)
        if dice.chance(0.45) and sheet.columns[line] >= 0:
            run = dice.between(0, len(sheet.rows[line]) - 2)
            if len(sheet.rows[line]) < 2:
                return None
            left, right = sheet.passage(line, run), sheet.passage(line, run + 1)
            intent, known, asked = ("right_of", left, right) if dice.chance(0.7) else ("left_of", right, left)
        else:
            pair = dice.one(self.facts.stacked) if self.facts.stacked and dice.chance(0.6) else self.page.stacked(line)
            if pair is None:
                return None
            intent, known, asked = ("below", *pair) if dice.chance(0.65) else ("above", pair[1], pair[0])
        quote = self.page.text(known)
        return self.read("beside", self._word(intent, x=quote), asked) if self.page.once(quote) and len(quote) < 60 else None

    # -- counts, yes and no, nothing -------------------------------------------------------------------------------

    def count(self) -> Question | None:
        counts = dict(self.facts.counts)
        if len(self.page.texts) <= 12 and not any(self.sheet.columns):
            counts["lines"] = len(self.page.texts)
        if not counts:
            return None
        key = self.dice.one(list(counts))
        return self.say("count", self._word("count", things=self.dice.one(wordings()["things"][key])), str(counts[key]))

    def yes_no(self) -> Question | None:
        dice, facts = self.dice, self.facts
        ways = {"mentions": 1.0, "has_field": 1.0 if facts.plausible else 0.0, "has_item": 1.0 if facts.absent_items else 0.0}
        ways |= {"more": 1.0 if facts.comparison else 0.0, "ticked": 2.5 if facts.ticks else 0.0}
        way, yes = dice.weighted(ways), dice.chance(0.5)
        text = None
        if way == "mentions":
            quote = self.page.printed_word() if yes else self._absent_word()
            text = self._word("mentions", x=quote) if quote else None
        elif way == "has_field":
            key = (dice.one(self._keys) if self._keys else None) if yes else self._absent_field()
            text = naming(dice, facts.kind, key, "has_field") if key and (not yes or key in facts.plausible) else None
        elif way == "has_item":
            item = self.page.text(dice.one(facts.entries).name) if yes and facts.entries else self._absent_item()
            intent = "has_item" if facts.absent_intent == "absent_item" else "has_entry"
            text = self._word(intent, item=item) if item and (not yes or self.page.once(item)) else None
        elif way == "more":
            one, other = dice.one(facts.entries), dice.one(facts.entries)
            x, y = self.page.text(one.name), self.page.text(other.name)
            yes = (one.figure or 0) > (other.figure or 0)
            text = (
                self._word(facts.comparison, x=x, y=y)
                if one.figure != other.figure and self.page.once(x) and self.page.once(y)
                else None
            )
        else:
            passage, yes = dice.one(facts.ticks)
            quote = self.page.text(passage)
            text = self._word("ticked", x=quote) if self.page.word_once(quote) else None
        return self.say("yes_no", text, "yes" if yes else "no") if text else None

    def _absent_word(self) -> str | None:
        """A word that isn't printed, not even within another one."""
        word = self.author.word()
        return word if len(word) > 3 and word.casefold() not in self.page.whole else None

    def _absent_item(self) -> str | None:
        """An item that could have been on the list; none of its words is on the page."""
        if not self.facts.absent_items:
            return None
        item = self.dice.one(self.facts.absent_items)
        return None if any(word.casefold() in self.page.whole for word in item.split() if len(word) > 2) else item

    def _absent_field(self) -> str | None:
        """A field that the document could have had; nothing like it is there, nor any of its labels."""
        if not self.facts.plausible:
            return None
        key = self.dice.one(list(self.facts.plausible))
        there = not near(key).isdisjoint(self._keys) or any(
            len(label) > 2 and words_in(label, self.page.whole) for label in all_labels(key)
        )
        return None if there else key

    def unanswerable(self) -> Question | None:
        way = self.dice.weighted({"field": 3, "item": 1.5 if self.facts.absent_items else 0, "text": 1.2})
        if way == "field":
            key = self._absent_field()
            text = naming(self.dice, self.facts.kind, key) if key else None
        elif way == "item":
            item = self._absent_item()
            columns = [column for entry in self.facts.entries for column in entry.cells]
            column = self.dice.one(columns) if columns else ""
            text = self._word(self.facts.absent_intent, item=item, row=item, column=column) if item else None
        else:
            word = self._absent_word()
            text = self._word("absent_text", x=word) if word else None
        return self.say("unanswerable", text, UNANSWERABLE) if text else None


def ordinal(number: int) -> str:
    """1 to 10 in words."""
    words: Sequence[str] = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return words[number - 1]
