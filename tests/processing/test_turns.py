"""Earlier turns as users have them: pairs, messages, answers; anything else is one line."""

from collections import OrderedDict
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from minimonkey.errors import PromptError
from minimonkey.inference import Answer
from minimonkey.processing.turns import text_of, turns_of

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}


def answer(text: str) -> Answer:
    return Answer(text, [1], -0.5, [], 3, 0, {}, [])


@pytest.mark.parametrize(
    ("history", "turns"),
    [
        (None, (None, [])),
        ([], (None, [])),
        ((), (None, [])),
        ([("a", "b"), ["c", "d"]], (None, [("a", "b"), ("c", "d")])),
        ((("a", answer("b")),), (None, [("a", "b")])),
        ([("role", "content")], (None, [("role", "content")])),
        ([USER, ASSISTANT], (None, [("a", "b")])),
        ([USER, ASSISTANT, {"role": "user", "content": "c", "name": "Ann"}, ASSISTANT], (None, [("a", "b"), ("c", "b")])),
        ([SYSTEM, USER, ASSISTANT], ("s", [("a", "b")])),
        ([SYSTEM], ("s", [])),
        ([{"role": "system", "content": ""}], ("", [])),
        ([MappingProxyType(USER), OrderedDict(role="assistant", content=answer("b"))], (None, [("a", "b")])),
        (
            [USER, {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}],
            (None, [("a", "bc")]),
        ),
        ([USER, {"role": "assistant", "content": []}], (None, [("a", "")])),
    ],
)
def test_forms_of_a_history(history, turns):
    assert turns_of(history) == turns


PAIRS = r"^history (is|has) .*: expected a list of pairs \(question, answer\), or of messages$"
MESSAGES = r"^history has .*: expected messages with role \(user, assistant, or one system message first\) and content$"
IN_TURN = "^history has messages of .*: expected user and assistant in turn, the last by assistant$"


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("ab", PAIRS),
        (b"ab", PAIRS),
        (5, PAIRS),
        (True, PAIRS),
        ({"a": "b"}, PAIRS),
        (USER, PAIRS),
        ({("a", "b")}, PAIRS),
        (iter([("a", "b")]), PAIRS),
        (np.array([["a", "b"]]), PAIRS),
        (["ab"], PAIRS),
        ([{"a", "b"}], PAIRS),
        ([("a",)], PAIRS),
        ([("a", "b", "c")], PAIRS),
        ([None], PAIRS),
        ([("a", None)], "^an answer of the history is None: expected text .str.$"),
        ([(b"a", "b")], "^a question of the history is b'a': expected text"),
        ([(5, "b")], "^a question of the history is 5: expected text"),
        ([("a", SimpleNamespace(text=5))], "^an answer of the history is .*: expected text"),
        ([("a", "b"), USER], MESSAGES),
        ([USER, ("a", "b")], MESSAGES),
        ([{"question": "a", "answer": "b"}], MESSAGES),
        ([{"role": "tool", "content": "x"}], MESSAGES),
        ([{"role": ["user"], "content": "x"}], MESSAGES),
        ([{"role": "user"}], MESSAGES),
        ([USER], IN_TURN),
        ([ASSISTANT, USER], IN_TURN),
        ([USER, USER, ASSISTANT], IN_TURN),
        ([USER, ASSISTANT, SYSTEM], IN_TURN),
        ([{"role": "user", "content": None}, ASSISTANT], "^the content of a message of user is None: expected text"),
        (
            [{"role": "user", "content": {"type": "text", "text": "a"}}, ASSISTANT],
            "^the content of a message of user is {.*expected",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}, ASSISTANT],
            "^history has a message with {'type': 'image'}: expected blocks of text; write <image> where a picture stands$",
        ),
        ([{"role": "user", "content": ["a"]}, ASSISTANT], "^history has a message with 'a': expected blocks of text"),
        ([{"role": "user", "content": [{"type": "text"}]}, ASSISTANT], "^a block of text in the history is None: expected text"),
    ],
)
def test_other_histories_are_one_line(history, message):
    with pytest.raises(PromptError, match=message) as caught:
        turns_of(history)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_one_system_message():
    assert turns_of([USER, ASSISTANT], "mine") == ("mine", [("a", "b")])
    assert turns_of(None, answer("mine")) == ("mine", [])
    with pytest.raises(PromptError, match="^there are two system messages, one in the history: leave one of them out$"):
        turns_of([SYSTEM, USER, ASSISTANT], "")


@pytest.mark.parametrize(
    "value", [None, b"text", 5, 1.5, True, ["text"], np.zeros((99, 99)), object(), 10**5000], ids=lambda value: str(type(value))
)
def test_what_is_no_text(value):
    with pytest.raises(PromptError, match="^the question is .*: expected text .str.$") as caught:
        text_of(value, "the question")
    assert "\n" not in str(caught.value)


def test_what_is_text():
    assert text_of(np.str_("a"), "it") == "a" and text_of(answer("b"), "it") == "b" and text_of("", "it") == ""
