"""Every error that minimonkey raises on purpose. Each message says what came, what was expected and which setting to change.

    MiniMonkeyError
    |-- UsageError        (also ValueError)   a setting, argument or recipe is wrong
    |   `-- PyramidError                      ... of the pyramid
    |-- PictureError      (also ValueError)   a picture can't be read, or is larger than the limits
    |-- PromptError       (also ValueError)   pictures and `<image>` marks don't match, or the prompt is too long
    |-- CheckpointError   (also ValueError)   a model folder is missing, broken or of an unknown kind
    |-- DataError         (also ValueError)   a line of a data file is wrong
    |-- ShortOfMemoryError (also MemoryError) this machine has too little memory for what was asked
    `-- MissingExtraError (also ImportError)  an optional package is not installed

The command line prints the message of these as one line and exits with 2; anything else is a mistake of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message about a name that isn't known: `what` it was meant for, the nearest one that is, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
    return f"{what} {shown(name)}; the nearest is {nearest!r}, all are {', '.join(names)}"


def check_keys(what: str, settings: object, known: Iterable[str], error: type[UsageError]) -> None:
    """Check settings that were saved, or written by hand.

    Args:
        what: the settings are of, for the message.
        settings: should be a mapping with some of the known keys.
        known: names of settings.
        error: is raised for anything else; its message names the nearest setting.
    """
    if not isinstance(settings, Mapping):
        raise error(f"{what}: settings are {shown(settings)}, expected a dict of {', '.join(known)}")
    names = list(known)
    for key in settings:
        if key not in names:
            raise error(unknown(f"{what} has no setting", key, names))


def shown(value: object) -> str:
    """A value as a message has it: on one line, and not too long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # of whole numbers with thousands of digits
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 99 else f"{text[:60]}...{text[-30:]}"


class MiniMonkeyError(Exception):
    """Base of all errors that minimonkey raises on purpose."""


class UsageError(MiniMonkeyError, ValueError):
    """A setting, argument or recipe is wrong."""


class PyramidError(UsageError):
    """A pyramid setting is wrong."""


class PictureError(MiniMonkeyError, ValueError):
    """A picture can't be read, or is larger than the limits."""


class PromptError(MiniMonkeyError, ValueError):
    """Pictures and `<image>` marks don't match, or the prompt is too long for the model."""


class CheckpointError(MiniMonkeyError, ValueError):
    """A model folder is missing, broken or of an unknown kind."""


class DataError(MiniMonkeyError, ValueError):
    """A line of a data file is wrong. `kind` says in a few words what is wrong with it, for counts."""

    def __init__(self, message: str, kind: str = "other") -> None:
        super().__init__(message)
        self.kind = kind


class ShortOfMemoryError(MiniMonkeyError, MemoryError):
    """This machine, or its GPU, has too little memory for what was asked; the message names settings that need less."""


class MissingExtraError(MiniMonkeyError, ImportError):
    """An optional package is not installed; the message names the pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'minimonkey[{extra}]'")
