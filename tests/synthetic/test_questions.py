"""Questions: answers are spelt by their sources, boxes are where the characters are, nothing is ambiguous, what is absent is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from minimonkey.synthetic import document, questions, reading
from minimonkey.synthetic.material import typefaces, words
from minimonkey.synthetic.material.wordings import all_labels, near, noun, wordings

Documents = dict[str, list[document.Document]]
BOX = re.compile(r"<ref>(.+)</ref><box>\[\[(\d+), (\d+), (\d+), (\d+)\]\]</box>")
PRINTABLE = set(words.ALPHABET) - set(typefaces.PILLOW.lacks)


def each(documents: Documents, *kinds: str) -> list[tuple[document.Document, questions.Question]]:
    """All questions of some kinds with their documents."""
    made = [(one, question) for listed in documents.values() for one in listed for question in one.questions]
    found = [(one, question) for one, question in made if question.kind in kinds or not kinds]
    assert len(found) > 5
    return found


def test_there_are_enough_and_of_many_kinds(documents: Documents) -> None:
    kinds = Counter(question.kind for _, question in each(documents))
    assert set(kinds) == set(questions.WEIGHTS)
    assert kinds["field"] > kinds["line"] > kinds["count"]
    for listed in documents.values():
        for one in listed:
            assert 4 <= len(one.questions) <= 14
            assert len({question.text.casefold() for question in one.questions}) == len(one.questions)
    assert np.mean([len(one.questions) for listed in documents.values() for one in listed]) > 8


def test_sources_spell_the_answer(documents: Documents) -> None:
    for one, question in each(documents):
        assert len(question.sources) == len(question.answer) > 0
        for character, source in zip(question.answer, question.sources, strict=True):
            if source is not None:
                line, index = source
                assert one.lines[line].text[index] == character
        read = sum(source is not None for source in question.sources)
        if question.kind in ("line", "region", "field", "beside", "everything"):
            assert read == len(question.answer) - question.answer.count("\n")
        elif question.kind != "where":
            assert read == 0


def test_answers_are_written_in_the_alphabet(documents: Documents) -> None:
    for _, question in each(documents):
        assert set(question.text) <= set(words.ALPHABET), question.text
        assert set(question.answer) <= PRINTABLE | {"\n"}, question.answer
        assert question.text == question.text.strip() and "  " not in question.text and "{" not in question.text


def test_boxes_are_about_the_characters(documents: Documents) -> None:
    for one, question in each(documents, "where"):
        found = BOX.fullmatch(question.answer)
        assert found, question.answer
        width, height = one.picture.size
        left, top, right, bottom = (int(number) for number in found.groups()[1:])
        assert 0 <= left < right <= 1000 and 0 <= top < bottom <= 1000
        sources = [source for source in question.sources if source is not None]
        assert "".join(one.lines[line].text[index] for line, index in sources) == found[1]
        edges = np.array([one.lines[line].edges[index] for line, index in sources])
        em = one.lines[sources[0][0]].em_px
        assert abs(left * width / 1000 - edges.min()) < 0.3 * em + width / 1000
        assert abs(right * width / 1000 - edges.max()) < 0.3 * em + width / 1000
        middles = np.array([one.lines[line].centers[index, 1] for line, index in sources])
        assert top * height / 1000 - 0.35 * em - 2 < middles.min() and middles.max() < bottom * height / 1000 + 0.35 * em + 2
        outer = one.lines[sources[0][0]].box
        assert outer[1] - 1 - height / 1000 <= top * height / 1000 and bottom * height / 1000 <= outer[3] + 1 + height / 1000


def test_counts_are_numbers_and_yes_is_yes(documents: Documents) -> None:
    assert all(question.answer.isdigit() for _, question in each(documents, "count"))
    answers = Counter(question.answer for _, question in each(documents, "yes_no"))
    assert set(answers) == {"yes", "no"} and 0.25 < answers["yes"] / answers.total() < 0.75


def test_quoted_texts_stand_once_on_the_page(documents: Documents) -> None:
    """Where a question quotes, the quotation is on the page exactly once; where it is unanswerable, not at all."""
    quotes = 0
    for one, question in each(documents, "line", "region", "beside", "where", "unanswerable"):
        whole = one.text.casefold()
        for quote in re.findall(r'"([^"]+)"', question.text):
            if '"' in one.text or "column" in question.text:
                continue  # a header may well be there, when the row isn't
            assert whole.count(quote.casefold()) == (question.kind != "unanswerable"), (question, one.text)
            quotes += 1
    assert quotes > 100


def test_lines_answer_what_they_are_asked(documents: Documents) -> None:
    checked = Counter()
    for one, question in each(documents, "line"):
        texts = [line.text for line in one.lines]
        index = texts.index(question.answer)
        for way, step in (("after", -1), ("below", -1), ("before", 1), ("above", 1)):
            if found := re.search(rf'the line (?:right )?{way} "(.+)"', question.text):
                assert texts[index + step].startswith(found[1]), question
                checked[way] += 1
        if found := re.search(r"line (\d+)", question.text):
            assert texts[int(found[1]) - 1] == question.answer
            checked["nth"] += 1
    assert checked["nth"] > 5 and checked["after"] + checked["below"] > 2 and checked["before"] + checked["above"] > 2


def test_regions_are_lines_in_a_row(documents: Documents) -> None:
    for one, question in each(documents, "region"):
        rows = question.answer.split("\n")
        assert 2 <= len(rows) <= 6
        texts = [line.text for line in one.lines]
        assert any(texts[index : index + len(rows)] == rows for index in range(len(texts)))


def test_everything_is_all(documents: Documents) -> None:
    for one, question in each(documents, "everything"):
        assert question.answer == one.text and len(one.text) <= 400


def names() -> dict[str, set[str]]:
    """Every English wording that asks for a field, and the keys that it may mean."""
    means: dict[str, set[str]] = defaultdict(set)
    for key, field in wordings()["fields"].items():
        for text in field.get("ask", []):
            means[text].add(key)
        for the in {name for way, listed in field.items() if way != "ask" for name in listed}:
            for wording in wordings()["intents"]["field"]:
                means[wording.format(**noun(the))].add(key)
    return means


def test_fields_are_the_only_ones_of_their_name(make: Callable[..., document.Document], askers: list[questions.Asker]) -> None:
    """A field's answer is its value, and no other field goes by the name that it is asked by; what is absent has no like."""
    means, asked = names(), Counter()
    for kind in document.KINDS:
        for seed in range(12):
            made = make(seed, kind, size_px=(9, 12))
            facts, texts = askers[-1].facts, [line.text for line in made.lines]
            values = defaultdict(list)
            for field in facts.fields:
                values[field.key].append("\n".join(texts[line][start:end] for line, start, end in field.value))
            for question in made.questions:
                keys = means.get(question.text, set())
                if question.kind == "field" and keys & set(values):
                    assert [value for key in keys for value in values[key]] == [question.answer], (question, facts.fields)
                    asked["field"] += 1
                elif question.kind == "unanswerable" and keys:
                    there = {field.key for field in facts.fields}
                    assert any(near(key).isdisjoint(there) for key in keys)
                    whole = made.text.casefold()
                    assert any(
                        not any(
                            re.search(rf"(?<!\w){re.escape(label)}(?!\w)", whole) for label in all_labels(key) if len(label) > 2
                        )
                        for key in keys
                    ), question
                    asked["absent"] += 1
    assert asked["field"] > 40 and asked["absent"] > 20


def test_absent_items_are_not_listed(make: Callable[..., document.Document], askers: list[questions.Asker]) -> None:
    asked = 0
    for seed in range(25):
        made = make(seed, "receipt", size_px=(9, 12))
        whole = made.text.casefold()
        for question in made.questions:
            for item in askers[-1].facts.absent_items:
                if question.kind == "unanswerable" and item in question.text:
                    assert not any(word.casefold() in whole for word in item.split() if len(word) > 2)
                    asked += 1
    assert asked > 3


def test_lines_have_no_neighbour(make: Callable[..., document.Document], askers: list[questions.Asker]) -> None:
    """A row of a form's column isn't asked for as a line where another column has one at the same height."""
    beside = asked = 0
    for seed in range(60):
        made = make(seed, "form" if seed % 2 else "invoice", size_px=(9, 12), lines=(16, 24))
        rows, columns = askers[-1].sheet.rows, askers[-1].sheet.columns
        high = [row[0].baseline for row in rows]
        alone = [
            all(columns[other] == columns[index] or abs(high[other] - high[index]) > 1 for other in range(len(rows)))
            for index in range(len(rows))
        ]
        beside += alone.count(False)
        for question in made.questions:
            lines = {source[0] for source in question.sources if source}
            named = {line for region in askers[-1].facts.regions for line in range(region.first, region.last + 1)}
            if question.kind == "line" or question.kind == "region" and not lines <= named:
                assert all(alone[line] for line in lines), question
                asked += 1
    assert beside > 100 and asked > 60


def test_columns_of_text_are_read_one_by_one(make: Callable[..., document.Document], askers: list[questions.Asker]) -> None:
    """Running text in columns has lines all the same, though they stand side by side."""
    asked = 0
    for seed in range(20):
        made = make(seed, "page", size_px=(9, 12))
        columns = askers[-1].sheet.columns
        asked += sum(q.kind == "line" and columns[next(s[0] for s in q.sources if s)] > 0 for q in made.questions)
    assert asked >= 3


def test_what_is_read_up_to_a_line_includes_it() -> None:
    """The last line is quoted by its beginning, but is answered whole: every wording says which."""
    for wording in wordings()["intents"]["region_from"]:
        assert "{n}" in wording or re.search(r"(line|one) that (begins|starts) with \"\{y\}\"", wording), wording


def test_a_text_answer_is_not_asked_for_like_a_box() -> None:
    asked = [text for field in wordings()["fields"].values() for text in field.get("ask", [])]
    assert len(asked) > 60 and not [text for text in asked if text.lower().startswith("where is")]


def test_words_of_their_own() -> None:
    assert reading.words_in("total", "subtotal 5\ntotal 7 (total)") == 2
    assert reading.words_in("tax 5%", "tax 5%: 1") == 1
    assert reading.words_in("no.", "piano. no. 5") == 1
    assert questions.ordinal(3) == "third"


@pytest.mark.parametrize("intent", sorted(wordings()["intents"]))
def test_every_intent_has_many_wordings(intent: str) -> None:
    listed = wordings()["intents"][intent]
    assert len(set(listed)) == len(listed) >= 8


def test_wordings_hold_together() -> None:
    whole = wordings()
    for key, field in whole["fields"].items():
        assert field["the"] and all(the.startswith("the ") for way, listed in field.items() if way != "ask" for the in listed), key
        assert set(field) <= {"the", "loose", "ask", *document.KINDS}, key
        assert set(whole["labels"][key]) in (set(), {"en", "de", "fr", "es", "it", "nl", "pt"}), key
    assert all(key in whole["fields"] for group in whole["near"] for key in group)
    for sort in (document.receipts, document.invoices, document.forms, document.letters, document.pages, document.screens):
        assert set(sort.PLAUSIBLE) <= set(whole["fields"])


def test_as_many_questions_are_asked_as_wanted(make: Callable[..., document.Document]) -> None:
    few, many = (make(4, "receipt", lines=(14, 16), size_px=(9, 12), most_questions=most).questions for most in (6, 60))
    assert len(few) == 6 and len(many) > 14
    assert len({question.text.casefold() for question in many}) == len(many)


def test_the_smallest_print_of_an_answer(make: Callable[..., document.Document]) -> None:
    for seed in range(6):
        made = make(seed, "receipt", size_px=(9, 24))
        heights = [line.x_height_px for line in made.lines]
        for question in made.questions:
            read = {source[0] for source in question.sources if source}
            assert made.smallest_print(question) == min(heights[line] for line in (read or range(len(heights))))
