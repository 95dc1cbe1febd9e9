"""Samples that need nothing installed."""

import pytest


@pytest.fixture
def pillow_text(monkeypatch):
    """Training draws in Pillow's own typeface and in made-up words."""
    from minimonkey.data.synthetic import lines, typefaces, words
    from minimonkey.training import batches

    text = "".join(f"\n{a}{b}" for a in "bdgklmnprst" for b in "aeiou") + "\n"

    def make(seed, kind, **settings):
        vocabulary = words.Vocabulary((text.encode(),), (1.0,), "train")
        return lines.make_sample(seed, kind, typefaces=[typefaces.PILLOW], words=vocabulary, **settings | {"split": "train"})

    monkeypatch.setattr(batches, "make_sample", make)
