"""Batches are functions of their number; answers, labels and places to look at belong together."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from minimonkey.errors import UsageError
from minimonkey.pyramid import Size
from minimonkey.synthetic.document import make_document
from minimonkey.synthetic.material.choice import material
from minimonkey.synthetic.questions import WEIGHTS
from minimonkey.training.nano import batches
from minimonkey.training.nano.batches import Batches, named
from minimonkey.training.nano.config import AttentionLosses, Source
from minimonkey.training.nano.labels import IGNORE

OURS = material("package", "train")._asdict()


def test_a_batch_is_a_function_of_its_number(recipe, small):
    batches = Batches(recipe(), small, 7)
    first, again, second = batches[0], Batches(recipe(), small, 7)[0], batches[1]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["input_ids"].shape != second["input_ids"].shape or not torch.equal(first["input_ids"], second["input_ids"])
    assert len(first["tiles"]) >= 6 and first["tiles"].dtype == torch.uint8


def test_sizes_of_print_are_mixed_where_there_are_no_rows_to_pad(recipe, small, monkeypatch):
    """In stage "characters" each sample draws its own size and kind; in stage "read" a batch has one."""
    chosen = []
    choose = Batches._choose
    monkeypatch.setattr(Batches, "_choose", lambda self, rng: chosen.append(choose(self, rng)) or chosen[-1])
    for stage in ("characters", "read"):
        chosen.clear()
        Batches(recipe(stage=stage, mixture=(Source("tile"),)), small, 7)[0]
        assert len({source.size_px for source in chosen}) == (6 if stage == "characters" else 1)


def test_a_document_mixes_sizes_of_print(recipe, small, monkeypatch):
    """A receipt in training has a head larger than its items, as every receipt has."""
    made = []
    make = batches.make_document
    monkeypatch.setattr(batches, "make_document", lambda *words, **settings: made.append(make(*words, **settings)) or made[-1])
    mixture = (Source("receipt", size_px=(9, 20), lines=(5, 8)),)
    for number in range(3):
        Batches(recipe(mixture=mixture, tiles_per_batch=1), small, 7)[number]
    sizes = [{line.em_px for line in document.lines} for document in made]
    assert max(map(len, sizes)) > 1
    assert all(9 <= min(each) <= max(each) <= 20 for each in sizes)


def test_answers_are_labelled_and_image_tokens_match_the_tiles(recipe, small):
    batch = Batches(recipe(mixture=(Source("line", max_tiles=6),)), small, 7)[3]
    assert (batch["input_ids"] == small.image_token_id).sum() == len(batch["tiles"]) * small.image_seq_length
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        asked = labels != IGNORE
        assert torch.equal(ids[asked], labels[asked])
        answer = small.tokenizer.decode(labels[asked])
        assert answer.endswith("<|im_end|>") and len(answer) > len("<|im_end|>")


def test_max_tiles_keeps_larger_samples_out(recipe, small):
    batches = Batches(recipe(mixture=(Source("line", max_tiles=5),), tiles_per_batch=10), small, 7)
    assert all(10 <= len(batches[number]["tiles"]) < 10 + 5 for number in range(3))


def test_a_mixture_that_max_tiles_empties_is_one_line(recipe, small):
    config = recipe(mixture=(Source("region", size_px=(40, 40), max_tiles=1),))
    with pytest.raises(UsageError, match="max_tiles=1, exclude=.*: no region in 100 is that small"):
        Batches(config, small, 7)[0]


def test_a_batch_says_where_to_look(recipe, small):
    batch = Batches(recipe(attention_losses=AttentionLosses(next_char=1.0), mixture=(Source("line", max_tiles=6),)), small, 7)[1]
    asked = (batch["next_char_pos"] >= 0).any(-1)
    for row in range(len(asked)):
        for position in asked[row].nonzero()[:, 0].tolist():
            held = batch["next_char_pos"][row, position]
            assert (batch["input_ids"][row, held[held >= 0]] == small.image_token_id).all()
            assert batch["labels"][row, position + 1] != IGNORE, "the character that comes next is part of the answer"
    assert asked.sum() > 0.5 * (batch["labels"] != IGNORE).sum()
    assert "next_char_pos" not in Batches(recipe(stage="characters"), small, 7)[1]


def test_a_batch_says_where_lines_begin_at_some_of_the_tokens(recipe, small, monkeypatch):
    """At all of those with print, if none is forgotten; at an image token not behind, in the same row."""
    config = recipe(mixture=(Source("line", max_tiles=6),), tiles_per_batch=24)
    some = Batches(config, small, 7)[0]
    monkeypatch.setattr(batches, "UNSUPERVISED_SHARE", 0.0)
    every = Batches(config, small, 7)[0]
    kept, all_of_them = (batch["line_start_pos"][..., 0] >= 0 for batch in (some, every))
    assert 0 < kept.sum() < all_of_them.sum()
    rows, places = all_of_them.nonzero(as_tuple=True)
    starts = every["line_start_pos"][rows, places, 0]
    assert (every["input_ids"][rows, starts] == small.image_token_id).all() and (starts <= places).all()


def test_prefix_noise_changes_what_was_written_and_not_what_is_asked(recipe, small):
    mixture = (Source("tile", size_px=(9, 10)),)
    clean, wrong = (Batches(recipe(mixture=mixture, prefix_noise=share), small, 7)[3] for share in (0.0, 0.5))
    texts, slips = [], 0
    for batch in (clean, wrong):
        rows = [labels[labels != IGNORE] for labels in batch["labels"]]
        texts.append([row.tolist() for row in rows])
        asked = batch["labels"] != IGNORE
        slips = int((batch["input_ids"] != batch["labels"])[asked].sum())
        looked = (batch["next_char_pos"] >= 0).any(-1)
        assert not (looked[:, :-1] & ~asked[:, 1:]).any(), "only what is asked for is looked for"
    assert slips > 5
    assert all(any(set(asked) <= set(text) for text in texts[0]) for asked in texts[1]) and texts[0] != texts[1]


def test_questions_about_a_document_share_its_picture(recipe, small):
    """What is asked for is printed where the row looks: the image tokens' own labels say so."""
    receipts = (Source("receipt", lines=(5, 7), size_px=(16, 16), max_questions=4),)
    batch = Batches(recipe(mixture=receipts, tiles_per_batch=1, attention_losses=AttentionLosses(next_char=1.0)), small, 7)[0]
    assert len(batch["input_ids"]) == 1 and batch["tile_counts"].tolist() == [len(batch["tiles"])]
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert (ids == small.image_token_id).sum() == len(batch["tiles"]) * small.image_seq_length
    asked = small.tokenizer.decode(ids).split("<|im_start|>user")
    assert len(asked) == 5 and asked[1].count("<img>") == 1 and not any("<img>" in turn for turn in asked[2:])
    answers = small.tokenizer.decode(labels[labels != IGNORE]).split("<|im_end|>")
    assert len(answers) == 5 and all(answers[:4]) and answers[4].strip() == ""


def test_a_recipe_may_exclude_kinds_of_questions(recipe, small):
    def asked(*exclude: str) -> str:
        receipts = (Source("receipt", lines=(5, 7), size_px=(16, 16), max_questions=20, exclude=exclude),)
        return "".join(
            small.tokenizer.decode(ids)
            for number in range(4)
            for ids in Batches(recipe(mixture=receipts, tiles_per_batch=1), small, 7)[number]["input_ids"]
        )

    assert "<box>" in asked() and "unanswerable" in asked()
    assert "<box>" not in asked("where") and "unanswerable" in asked("where")
    assert "unanswerable" not in asked("unanswerable", "line") and "<box>" in asked("unanswerable", "line")
    with pytest.raises(UsageError, match="exclude: unknown kind of question 'were'; the nearest is 'where'"):
        asked("were")
    with pytest.raises(UsageError, match=r"exclude=.*: no receipt in 100 is that small and has questions; raise max_tiles"):
        asked(*WEIGHTS)


def test_answers_about_documents_are_read_where_they_are_printed(small):
    document = make_document(3, "receipt", lines=(5, 8), **OURS)
    read = 0
    for question in document.questions:
        places = np.arange(3 * len(document.text)).reshape(-1, 3)
        turn = batches.turn_about(document, question, places)
        assert turn.places.shape == (len(question.answer), 3)
        for character, place in zip(question.answer, turn.places, strict=True):
            if place[0] >= 0:
                assert document.text[place[0] // 3] == character
                read += 1
    assert read > 20


def test_questions_find_what_they_quote_or_else_the_line_of_the_answer():
    """Each character's place is its number in the page's text here."""
    document = make_document(3, "receipt", lines=(5, 8), **OURS)
    places = np.repeat(np.arange(len(document.text))[:, None], 3, axis=1)
    kinds = set()
    for question in document.questions:
        found = batches.turn_about(document, question, places).named[:, 0]
        assert len(found) == len(question.text)
        if max(named(question.text, document.text), default=-1) >= 0:
            quoted = "".join(document.text[place] for place in found if place >= 0)
            assert quoted.lower() in question.text.lower()
            kinds.add("quotes")
        elif not any(question.sources):
            assert (found == -1).all()
            kinds.add("read nowhere")
        else:
            line, _ = next(source for source in question.sources if source is not None)
            line_start = sum(len(each.text) + 1 for each in document.lines[:line])
            assert found.tolist() == [-1] * (len(found) - 3) + [line_start] * 3
            kinds.add("finds a line")
    assert kinds == {"quotes", "read nowhere", "finds a line"}


@pytest.mark.parametrize(
    ("question", "quoted"),
    [
        ("What is the total?", "TOTAL"),
        ('Read the line after "Apple cake".', "Apple cake"),
        ("Where is Apple?", ""),  # it stands there twice
        ("What is the tea?", ""),  # three letters may stand anywhere
        ("Is 12/11 the date?", "12/11"),
    ],
)
def test_a_question_names_what_stands_on_the_page_once(question, quoted):
    page = "Apple cake 4.50\nApple pie 3.00\nTOTAL 7.50\nTea 12/11"
    places = named(question, page)
    assert len(places) == len(question)
    assert "".join(page[place] for place in places if place >= 0) == quoted


def test_more_is_asked_and_long_answers_are_cut(recipe, small):
    """Of what is read from the page, a cut answer's end isn't learnt, nor that of one just as long: behind as many characters
    there would be nothing but ends. A refusal is learnt whole."""

    def answers(**settings: object) -> list[str]:
        receipts = (Source("receipt", lines=(12, 14), size_px=(9, 9), exclude=("where", "count", "yes_no"), **settings),)
        batch = Batches(recipe(mixture=receipts, tiles_per_batch=1), small, 7)[3]
        assert len(batch["is_first"]) == 1
        starts = [*batch["is_first"][0].nonzero()[:, 0].tolist(), len(batch["labels"][0])]
        labels = [batch["labels"][0][start:stop] for start, stop in pairwise(starts)]
        return [small.tokenizer.decode(each[each != IGNORE]).replace("<|im_end|>", "|").rstrip("\n") for each in labels]

    whole = answers(max_questions=40)
    assert len(whole) > 14 and all(answer.endswith("|") for answer in whole) and max(map(len, whole)) > 12
    assert "unanswerable|" in whole and any(len(answer) == 8 for answer in whole)
    cut = answers(max_questions=40, answer_characters=7)
    assert cut == [answer if answer == "unanswerable|" or len(answer) < 8 else answer[:7] for answer in whole]
    assert len(answers(max_questions=14)) <= 14


def test_budgets_are_drawn_for_each_picture_and_nothing_too_small_is_asked(recipe, small, monkeypatch):
    seen, chosen = [], batches._asked
    monkeypatch.setattr(batches, "_asked", lambda *given: seen.append((given, chosen(*given))) or seen[-1][1])
    monkeypatch.setattr(batches, "MIN_X_HEIGHT_PX", 1.0)  # tiles are 28 px here
    pages = (Source("page", lines=(12, 20), size_px=(9, 12), budgets=(1, 12)),)
    training = Batches(recipe(mixture=pages, tiles_per_batch=1), small, 7)
    for number in range(6):
        training[number]
    most = {spec.detail[1] for (_, _, spec), _ in seen}
    assert len(most) > 2 and most <= set(range(1, 13))
    dropped = 0
    for (document, _, spec), asked in seen:
        detail = spec.plan(Size(document.picture.height, document.picture.width)).levels
        content = next(detail).content
        for question in document.questions:
            x_height_px = document.smallest_print(question) * (content.bottom - content.top) / document.picture.height
            assert (question in asked) == (x_height_px >= batches.MIN_X_HEIGHT_PX)
            dropped += question not in asked
    assert 0 < dropped < sum(len(document.questions) for (document, _, _), _ in seen)
