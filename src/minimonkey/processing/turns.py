"""What users hand over as text and as earlier turns: which forms count, and one form for all of them.

Knows no template and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minimonkey.errors import PromptError, shown

History = Sequence[tuple[Any, Any]] | Sequence[Mapping[str, Any]]
"""Earlier turns, the oldest first, in one of two forms; a text is a str or an Answer.

Pairs: `[("What is it?", "A receipt.")]`.
Messages: `[{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A receipt."}]`, maybe with one of role
"system" before them; `content` may be a list of `{"type": "text", "text": ...}`.
"""


def text_of(value: Any, what: str) -> str:
    """The text that a value stands for.

    Args:
        value: a str, or an object whose `text` is one, such as an Answer.
        what: what it is for, for the message.

    Raises:
        PromptError: it is something else.
    """
    text = value if isinstance(value, str) else getattr(value, "text", None)
    if not isinstance(text, str):
        raise PromptError(f"{what} is {shown(value)}: expected text (str)")
    return text


def turns_of(history: History | None, system: Any = None) -> tuple[str | None, list[tuple[str, str]]]:
    """The system message and the earlier turns, all as text.

    Args:
        history: pairs (question, answer), the oldest first. Or messages: dicts with `role` ("user" and "assistant" in turn, a
            "system" one before them) and `content` (text, or a list of `{"type": "text", "text": ...}`, which are joined).
        system: the system message, None for the template's own.

    Returns:
        The system message, which may come from the history, and the (question, answer) pairs.

    Raises:
        PromptError: the history has another form, a text is none, or both have a system message.
    """
    system = None if system is None else text_of(system, "the system message")
    if history is None:
        return system, []
    given: object = history
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise PromptError(f"history is {shown(history)}: expected a list of pairs (question, answer), or of messages")
    if not any(isinstance(turn, Mapping) for turn in history):
        return system, [_pair(turn) for turn in history]
    messages = [_message(turn) for turn in history]
    if messages[0][0] == "system":
        if system is not None:
            raise PromptError("there are two system messages, one in the history: leave one of them out")
        system = messages.pop(0)[1]
    roles = [role for role, _ in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise PromptError(f"history has messages of {', '.join(roles)}: expected user and assistant in turn, the last by assistant")
    texts = [text for _, text in messages]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _pair(turn: Any) -> tuple[str, str]:
    if not (isinstance(turn, tuple | list) and len(turn) == 2):
        raise PromptError(f"history has {shown(turn)}: expected a list of pairs (question, answer), or of messages")
    return text_of(turn[0], "a question of the history"), text_of(turn[1], "an answer of the history")


def _message(turn: Any) -> tuple[str, str]:
    """The role and the text of a message."""
    if not (isinstance(turn, Mapping) and turn.get("role") in ("system", "user", "assistant") and "content" in turn):
        raise PromptError(
            f"history has {shown(turn)}: expected messages with role (user, assistant, or one system message first) and content"
        )
    content = turn["content"]
    if not isinstance(content, list | tuple):
        return turn["role"], text_of(content, f"the content of a message of {turn['role']}")
    for block in content:
        if not (isinstance(block, Mapping) and block.get("type") == "text"):
            raise PromptError(
                f"history has a message with {shown(block)}: expected blocks of text; write <image> where a picture stands"
            )
    return turn["role"], "".join(text_of(block.get("text"), "a block of text in the history") for block in content)
