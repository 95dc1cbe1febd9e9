"""A row is the conversation that `ask` would have, and says for each character where it is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimonkey.training.nano.labels import IGNORE
from minimonkey.training.nano.rows import Turn, add_prefix_noise, make_row

TURNS = [
    Turn("Total?", "12.50", np.array([[0, -1, -1], [1, 5, -1], [1, -1, -1], [2, -1, -1], [2, -1, -1]], np.int32)),
    Turn("Where is Tea?", "<ref>Tea</ref>", np.full((14, 3), -1, np.int32)),
    Turn("The date?", "unanswerable", np.full((12, 3), -1, np.int32)),
]


@pytest.fixture
def processor(tiny_processor):
    return tiny_processor(detail=(1, 6), adaptive=None)


def test_a_row_is_the_prompt_with_its_history_and_answers(processor):
    row = make_row(processor, 2, TURNS, 0.0, np.random.default_rng(0))
    history = [(f"<image>\n{turn.question}" if number == 0 else turn.question, turn.answer) for number, turn in enumerate(TURNS)]
    for number, turn in enumerate(TURNS):
        prompt = processor.encode_chat(turn.question if number else history[0][0], pictures=[2], history=history[:number])
        whole = prompt + processor.encode_answer(turn.answer)
        assert row.input_ids[: len(whole)].tolist() == whole
        assert row.labels[len(prompt) : len(whole)].tolist() == whole[len(prompt) :], "the answer and its end are learnt"
    assert len(row.input_ids) == len(whole) == len(row.labels) == len(row.next_char_pos)
    learnt = sum(len(processor.encode_answer(turn.answer)) for turn in TURNS)
    assert (row.labels != IGNORE).sum() == learnt, "and nothing else"


def test_a_row_looks_at_image_tokens_from_the_position_before(processor):
    row = make_row(processor, 2, TURNS, 0.0, np.random.default_rng(0))
    image = row.input_ids.tolist().index(processor.image_token_id)
    at = (row.next_char_pos >= 0).any(axis=1).nonzero()[0]
    assert processor.tokenizer.decode(row.labels[at + 1]).startswith("12") and len(at) == 5
    assert row.next_char_pos[at].tolist() == [
        [image, -1, -1],
        [image + 1, image + 5, -1],
        [image + 1, -1, -1],
        *[[image + 2, -1, -1]] * 2,
    ]


def test_a_row_says_what_stands_where_in_questions_and_answers(processor):
    names = np.array([[-1, -1, -1]] * 9 + [[3, -1, -1], [4, 7, -1], [4, -1, -1], [-1, -1, -1]], np.int32)
    row = make_row(processor, 2, [TURNS[0], TURNS[1]._replace(named=names)], 0.0, np.random.default_rng(0))
    image = row.input_ids.tolist().index(processor.image_token_id)
    at = (row.this_char_pos >= 0).any(axis=1).nonzero()[0]
    assert processor.tokenizer.decode(row.input_ids[at]) == "12.50Tea"
    assert (row.this_char_pos[at][:5] == row.next_char_pos[at[:5] - 1]).all(), "what comes next at one place stands at the next"
    assert row.this_char_pos[at][5:].tolist() == [[image + 3, -1, -1], [image + 4, image + 7, -1], [image + 4, -1, -1]]


def test_a_rows_first_characters_point_to_what_the_question_names(processor):
    """The last three tokens of the question that stand somewhere, from the positions before an answer's first four characters."""
    names = np.array([[-1, -1, -1]] * 8 + [[3, -1, -1]] * 4 + [[-1, -1, -1]], np.int32)
    row = make_row(processor, 2, [TURNS[0], TURNS[1]._replace(answer="Ace Tea Room", named=names)], 0.0, np.random.default_rng(0))
    at = (row.query_word_pos >= 0).any(axis=1).nonzero()[0]
    assert processor.tokenizer.decode(row.labels[at + 1]) == "Ace "
    assert all(processor.tokenizer.decode(row.input_ids[places]) == "Tea" for places in row.query_word_pos[at])


def test_query_words_are_for_characters_alone(processor):
    """An answer of one character: neither it nor what ends it looks for anything that the question names."""
    names = np.array([[-1, -1, -1]] * 8 + [[3, -1, -1]] * 4 + [[-1, -1, -1]], np.int32)
    turn = Turn("Where is Tea?", "5", np.array([[4, -1, -1]], np.int32), names)
    row = make_row(processor, 2, [turn], 0.0, np.random.default_rng(0))
    (at,) = (row.query_word_pos >= 0).any(axis=1).nonzero()[0]
    assert processor.tokenizer.decode(row.labels[at + 1]) == "5"


def test_each_answer_has_one_first_token_whatever_slips_it_has(processor):
    """A slip that is read again leaves tokens within an answer for which nothing is asked."""
    row = make_row(processor, 2, TURNS, 0.5, np.random.default_rng(5))
    asked = (row.labels != IGNORE).astype(int)
    assert (np.diff(asked) == 1).sum() > len(TURNS), "some tokens within an answer aren't asked for"
    answers = [processor.encode_answer(turn.answer)[0] for turn in TURNS]
    assert row.labels[row.is_first].tolist() == answers


def test_a_row_says_where_lines_begin(processor):
    starts = np.array([0, 0, -1, 3, 3, -1, 3, 7], np.int32)
    row = make_row(processor, 2, TURNS, 0.0, np.random.default_rng(0), starts)
    image = row.input_ids.tolist().index(processor.image_token_id)
    assert row.line_start_pos[image : image + 8].tolist() == [[image + start if start >= 0 else -1, -1, -1] for start in starts]
    assert (np.delete(row.line_start_pos, range(image, image + 8), axis=0) == -1).all()


def test_noise_leaves_the_questions_alone(processor):
    clean, wrong = (make_row(processor, 1, TURNS, share, np.random.default_rng(5)) for share in (0.0, 0.5))
    assert (wrong.input_ids != wrong.labels)[wrong.labels != IGNORE].any()
    for row in (clean, wrong):
        ends = [index for index, label in enumerate(row.labels) if label == processor.tokenizer.eos_token_id]
        assert len(ends) == len(TURNS)


@given(st.integers(0, 40), st.integers(0, 3), st.floats(0, 1), st.integers(0, 99))
def test_noise_is_followed_by_how_the_true_text_goes_on(characters, ends, rate, seed):
    length = characters + ends
    written, asked = add_prefix_noise(np.random.default_rng(seed), characters, length, rate)
    assert len(written) == len(asked)
    truth = asked[asked >= 0].tolist()
    assert truth == sorted(truth), "in the order of the answer"
    assert written[len(written) - ends :].tolist() == list(range(characters, length)), "the end is never mistaken"
    reached = 0
    for wrote, right in zip(written.tolist(), asked.tolist(), strict=True):
        assert right in (-1, reached), "what is asked is the token after those that were written"
        if wrote < 0 or wrote >= reached:
            reached = max(reached, wrote) + 1
    assert reached == length


def test_without_noise_an_answer_stays_as_it_is():
    written, asked = add_prefix_noise(np.random.default_rng(0), 5, 6, 0.0)
    assert written.tolist() == asked.tolist() == [0, 1, 2, 3, 4, 5]


def test_all_sorts_of_slips_are_made():
    written, asked = add_prefix_noise(np.random.default_rng(0), 1000, 1001, 0.2)
    left_out = set(range(1001)) - set(asked.tolist())
    again = asked == -1
    assert 80 < (written == -1).sum() < 160 and 15 < len(left_out) < 70 and again.sum() > 40
