"""Documents that need nothing installed: Pillow's own typeface, made-up words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minimonkey.synthetic import document, questions
from minimonkey.synthetic.material import typefaces, words

MAKE = document.make_document


def made_up(split: typefaces.Split) -> words.Vocabulary:
    """Made-up words, so that no word lists have to be installed."""
    text = "".join(f"\n{a}{b}{c}{d}" for a in "bdgklmnprst" for b in "aeiouéü" for c in "lmnrst" for d in ("", "en", "ßig")) + "\n"
    return words.Vocabulary((text.encode(),), (1.0,), split)


def _make(seed: int, kind: str | None = None, *, split: typefaces.Split = "train", **settings: object) -> document.Document:
    ours = {"typefaces": [typefaces.PILLOW], "words": made_up(split)}
    return MAKE(seed, kind, split=split, **settings | ours)  # type: ignore[arg-type]


def make_small(seed: int, kind: str | None = None, **settings: object) -> document.Document:
    """A document of small print, for tests of others."""
    return _make(seed, kind, **settings | {"size_px": (9, 10)})  # type: ignore[arg-type]


@pytest.fixture
def make() -> Callable[..., document.Document]:
    """Make a document with Pillow's typeface: `make(seed, kind, **settings of make_document)`."""
    return _make


@pytest.fixture
def vocabulary() -> Callable[[typefaces.Split], words.Vocabulary]:
    return made_up


@pytest.fixture
def askers(monkeypatch: pytest.MonkeyPatch) -> list[questions.Asker]:
    """The askers of the documents that are made during a test, with their facts and sheets."""
    seen: list[questions.Asker] = []

    class Watched(questions.Asker):
        def ask(self, most: int = questions.LONGEST) -> list[questions.Question]:
            seen.append(self)
            return super().ask(most)

    monkeypatch.setattr(document, "Asker", Watched)
    return seen


@pytest.fixture(scope="session")
def documents() -> dict[str, list[document.Document]]:
    """Eight documents of each kind."""
    return {kind: [_make(seed, kind, size_px=(9, 24)) for seed in range(8)] for kind in document.KINDS}
