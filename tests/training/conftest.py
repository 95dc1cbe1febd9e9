"""Samples that need nothing installed."""

import pytest


@pytest.fixture
def pillow_text(monkeypatch):
    """Training draws in Pillow's own typeface and in made-up words."""
    from minimonkey.data.synthetic import document, lines, typefaces, words
    from minimonkey.training import batches

    text = "".join(f"\n{a}{b}" for a in "bdgklmnprst" for b in "aeiou") + "\n"

    ours = {"typefaces": [typefaces.PILLOW], "words": words.Vocabulary((text.encode(),), (1.0,), "train"), "split": "train"}
    monkeypatch.setattr(batches, "make_sample", lambda seed, kind, **settings: lines.make_sample(seed, kind, **settings | ours))
    monkeypatch.setattr(
        batches, "make_document", lambda seed, kind, **settings: document.make_document(seed, kind, **settings | ours)
    )
