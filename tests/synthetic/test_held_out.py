"""The held-out documents never change, and there are enough of each sort."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.synthetic import document, held_out
from tests.synthetic.conftest import make_small

GOLDEN, PACKAGE = (
    json.loads((Path(__file__).parents[1] / "golden" / f"{name}.json").read_text("utf-8"))
    for name in ("held_out_documents", "held_out_package")
)


@pytest.mark.debian
def test_the_held_out_documents_are_the_frozen_ones() -> None:
    made = list(held_out.held_out_documents(len(GOLDEN["first"])))
    assert list(held_out.digests(made)) == GOLDEN["first"]


def test_documents_of_what_comes_with_minimonkey_are_the_frozen_ones() -> None:
    """The same code, on every machine."""
    made = list(held_out.held_out_documents(len(PACKAGE["documents"]["first"]), "package"))
    assert list(held_out.digests(made)) == PACKAGE["documents"]["first"]


@pytest.mark.debian
@pytest.mark.slow
def test_all_held_out_documents_are_the_frozen_ones() -> None:
    *_, last = held_out.digests(held_out.held_out_documents(GOLDEN["count"]))
    assert last == GOLDEN["sha256"]


def test_the_set_is_large_enough() -> None:
    assert GOLDEN["count"] == 600 and len(GOLDEN["first"]) >= 12
    assert GOLDEN["short"] >= 80 and GOLDEN["long"] >= 80
    least = {"line": 150, "region": 150, "unanswerable": 150, "where": 200, "field": 400}
    assert all(GOLDEN["questions"][kind] >= count for kind, count in least.items())


def test_the_plan_has_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(held_out, "make_document", lambda *words, **settings: calls.append((*words, settings)) or words)
    made = list(held_out.held_out_documents(28, "package"))
    assert {kind for _, kind in made} == set(document.KINDS)
    assert [seed for seed, _ in made] == list(range(30_000_000, 30_000_028))
    assert all(settings["split"] == "held_out" and settings["uniform"] for *_, settings in calls)
    ranges = Counter(settings["lines"] for *_, settings in calls if settings["lines"])
    assert ranges == {(5, 20): 6, (30, 60): 6}


def test_digests_see_everything() -> None:
    one = make_small(3, "sign")
    renamed = [replace(one.lines[0], text="x"), *one.lines[1:]]
    others = [
        document.Document(Image.new("RGB", one.picture.size), one.lines, one.kind, one.questions),
        document.Document(one.picture, renamed, one.kind, one.questions),
        document.Document(one.picture, one.lines, one.kind, one.questions[1:]),
        document.Document(one.picture, one.lines, one.kind, [replace(one.questions[0], answer="?"), *one.questions[1:]]),
        document.Document(one.picture, one.lines, "label", one.questions),
    ]
    assert len({next(held_out.digests([made])) for made in (one, *others)}) == 6
    assert len(list(held_out.digests([one, one]))) == 2
