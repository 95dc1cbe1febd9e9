"""The scores against the published scorers' values (tests/golden/metrics) and against plain restatements."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimonkey.errors import UsageError
from minimonkey.evaluation.metrics import anls, cer, cer_counts, confidence_interval, edit_distance

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
ANLS = json.loads((GOLDEN / "anls.json").read_text(encoding="utf-8"))
short_text = st.text(alphabet="abcdé ", max_size=12)


def table_distance(first: str, second: str) -> int:
    """The textbook table, row by row."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(short_text, short_text)
def test_edit_distance_equals_the_textbook_table(first, second):
    assert edit_distance(first, second) == table_distance(first, second)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2), ("Total", "total", 1), ("a" * 300, "b" * 200, 300)],
)
def test_edit_distance_examples(first, second, edits):
    assert edit_distance(first, second) == edit_distance(second, first) == edits


def test_edit_distance_beyond_a_machine_word():
    first, second = "the quick brown fox " * 20, "the quick brown cat " * 20
    assert edit_distance(first, second) == table_distance(first, second) == 60


def test_cer_pools_edits_over_rows():
    assert cer(["abcd", "x"], ["abcd", "y"]) == 1 / 5  # the mean of the rows' rates would be 1/2
    assert cer("Abc", "abc") == 1 / 3
    assert cer_counts(["abcd", "x"], ["abcd", "y"]) == ([0, 1], [4, 1])


def test_cer_of_empty_references():
    assert cer(["ab", "c"], ["", "cd"]) == 3 / 2
    assert cer([""], [""]) == 0.0
    assert cer(["a"], [""]) == math.inf


@pytest.mark.parametrize("lists", [(["a"], ["a", "b"]), ([], [])])
def test_lists_that_do_not_match_are_refused(lists):
    for metric in (cer, anls, confidence_interval):
        with pytest.raises(UsageError, match="expected two lists of one length"):
            metric(*lists)


@pytest.mark.parametrize("case", ANLS["cases"], ids=lambda case: case[0])
def test_anls_equals_the_published_scorers(case):
    _, prediction, answers, portal, normalised = case
    assert anls(prediction, answers) == pytest.approx(portal, abs=1e-9)
    assert anls(prediction, answers, normalised_length=True) == pytest.approx(normalised, abs=1e-9)


def test_anls_is_the_mean_over_rows():
    predictions, answers = [case[1] for case in ANLS["cases"]], [case[2] for case in ANLS["cases"]]
    assert anls(predictions, answers) == pytest.approx(ANLS["rrc"], abs=1e-9)
    assert anls(predictions, answers, normalised_length=True) == pytest.approx(ANLS["vlmevalkit_normalised"], abs=1e-9)


def test_anls_threshold_and_single_answer():
    assert anls("abcx", "abcd") == 0.75
    assert anls("abcx", ["abcd"], threshold=0.8) == 0.0
    assert anls(["abcx", "no"], ["abcd", "yes"]) == 0.375


def test_anls_needs_an_answer():
    with pytest.raises(UsageError, match="no answer to compare 'x' with"):
        anls("x", [])


def test_confidence_interval_is_seeded_and_covers():
    edits, lengths = [0] * 80 + [5] * 20, [10] * 100  # a rate of 0.1, standard error 0.02
    low, high = confidence_interval(edits, lengths)
    assert (low, high) == confidence_interval(edits, lengths)
    assert (low, high) != confidence_interval(edits, lengths, seed=1)
    assert 0.055 < low < 0.07
    assert 0.13 < high < 0.145
    narrow = confidence_interval(edits, lengths, level=0.5)
    assert low < narrow[0] < 0.1 < narrow[1] < high


def test_confidence_interval_of_the_mean():
    assert confidence_interval([0.5] * 10) == (0.5, 0.5)
    low, high = confidence_interval([0, 1] * 50)
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("settings", [{"level": 0}, {"level": 1.0}, {"resamples": 0}])
def test_confidence_interval_settings(settings):
    with pytest.raises(UsageError, match="expected a level between 0 and 1"):
        confidence_interval([1, 2], **settings)
