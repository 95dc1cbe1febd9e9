"""How good is an answer? Pure functions on text, standard library only.

Knows nothing of models, pictures or files. Scores are fractions; every function takes the rows of a data set and gives one number,
or takes a single row (plain strings) and gives the value of that row alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from minimonkey.errors import UsageError


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance of two texts.

    Bit-parallel (Myers 1999, in Hyyro's 2003 form): one column of the table is two integers, so a step costs a few operations on
    whole numbers of len(longer) bits.

    Returns:
        The fewest inserted, deleted or replaced characters: code points, nothing is normalised.
    """
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    if not shorter:
        return len(longer)
    places: dict[str, int] = {}
    for place, character in enumerate(longer):
        places[character] = places.get(character, 0) | 1 << place
    all_bits, last_bit = (1 << len(longer)) - 1, 1 << (len(longer) - 1)
    rises, falls, distance = all_bits, 0, len(longer)  # vertical differences +1 and -1 of the column; its lowest value
    for character in shorter:
        equal = places.get(character, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal
        right_rises, right_falls = falls | ~(diagonal | rises), rises & diagonal
        distance += bool(right_rises & last_bit) - bool(right_falls & last_bit)
        right_rises, right_falls = right_rises << 1 | 1, right_falls << 1
        rises, falls = (right_falls | ~(equal | falls | right_rises)) & all_bits, right_rises & (equal | falls) & all_bits
    return distance


def cer(predictions: str | Sequence[str], references: str | Sequence[str]) -> float:
    """Character error rate: the sum of edits over the sum of reference lengths, case-sensitive; above 1 if much is invented.

    An empty reference adds its prediction's length to the edits and nothing to the divisor.

    Args:
        predictions: a text, or one for each row.
        references: what they should be.

    Returns:
        A fraction. If all references are empty, 0.0 where all predictions are empty too, else infinite.

    Raises:
        UsageError: lists of different or no length.
    """
    edits, lengths = cer_counts(predictions, references)
    return _ratio(sum(edits), sum(lengths))


def cer_counts(predictions: str | Sequence[str], references: str | Sequence[str]) -> tuple[list[int], list[int]]:
    """What `cer` sums and `confidence_interval` resamples.

    Args:
        predictions: a text, or one for each row.
        references: what they should be.

    Returns:
        Edits of each row, and lengths of the references, in characters.

    Raises:
        UsageError: lists of different or no length.
    """
    rows = _rows(predictions, references)
    return [edit_distance(prediction, reference) for prediction, reference in rows], [len(reference) for _, reference in rows]


def anls(
    predictions: str | Sequence[str],
    answers: str | Sequence[str] | Sequence[Sequence[str]],
    *,
    threshold: float = 0.5,
    normalised_length: bool = False,
) -> float:
    """Average normalised Levenshtein similarity (DocVQA, InfoVQA): the mean over rows of the best match among a row's answers.

    One row: `anls("12 May", ["12 May", "May 12"])`; many: `anls(predictions, lists_of_answers)`. Case and white space don't count
    as edits.

    Args:
        predictions: a text, or one for each row.
        answers: for each row a text or several, of which the nearest counts.
        threshold: similarities below it become 0.
        normalised_length: edits are divided by the longer length: of the strings as given, so that trailing blanks raise a score,
            as in the scorer of the RRC portal; or, if True, of the normalised strings, as in a later VLMEvalKit.

    Returns:
        From 0 to 1.

    Raises:
        UsageError: lists of different or no length, or a row without answers.
    """
    if isinstance(predictions, str):
        predictions, answers = [predictions], [answers]  # type: ignore[list-item]
    scores = [_anls_row(prediction, row, threshold, normalised_length) for prediction, row in _rows(predictions, answers)]
    return sum(scores) / len(scores)


def _anls_row(prediction: str, answers: str | Sequence[str], threshold: float, normalised_length: bool) -> float:
    answers = [answers] if isinstance(answers, str) else answers
    if not answers:
        raise UsageError(f"anls: no answer to compare {prediction!r} with; every row needs at least one")
    return max(_similarity(prediction, answer, threshold, normalised_length) for answer in answers)


def _similarity(prediction: str, answer: str, threshold: float, normalised_length: bool) -> float:
    ours, theirs = (" ".join(text.strip().lower().split()) for text in (prediction, answer))
    # The portal's scorer counts the upper-cased originals: no matter but for letters such as "ß" that become two.
    measured = (ours, theirs) if normalised_length else (prediction.upper(), answer.upper())
    longest = max(map(len, measured))
    similarity = 1.0 if longest == 0 else 1.0 - edit_distance(ours, theirs) / longest
    return similarity if similarity >= threshold else 0.0


def confidence_interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(values) / sum(weights), rows resampled together; without weights, of the mean.

    For a character error rate: `confidence_interval(*cer_counts(predictions, references))`. The same seed gives the same interval.

    Args:
        values: one for each row.
        weights: what their sum is divided by the sum of; 1 each if not given.
        level: the share of resamples within the interval.
        resamples: how often rows are drawn anew.
        seed: of the drawing.

    Returns:
        Its lower and upper end.

    Raises:
        UsageError: lists of different or no length, a level outside 0..1, or no resamples.
    """
    rows = _rows(values, [1] * len(values) if weights is None else weights)
    if not 0 < level < 1 or resamples < 1:
        raise UsageError(f"level={level!r}, resamples={resamples!r}: expected a level between 0 and 1, and at least one resample")
    generator = random.Random(seed)
    estimates = []
    for _ in range(resamples):
        drawn_values, drawn_weights = zip(*generator.choices(rows, k=len(rows)), strict=True)
        estimates.append(_ratio(sum(drawn_values), sum(drawn_weights)))
    estimates.sort()
    return _quantile(estimates, (1 - level) / 2), _quantile(estimates, (1 + level) / 2)


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    position = fraction * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below if below == above else below + (above - below) * (position - math.floor(position))


def _ratio(part: float, whole: float) -> float:
    if whole == 0:
        return math.inf if part else 0.0
    return part / whole


def _rows(predictions, references) -> list[tuple]:
    """Pairs of one data set; a plain string is a data set of one row."""
    if isinstance(predictions, str):
        predictions = [predictions]
    if isinstance(references, str):
        references = [references]
    if len(predictions) != len(references) or not predictions:
        raise UsageError(f"{len(predictions)} rows against {len(references)}: expected two lists of one length, at least 1")
    return list(zip(predictions, references, strict=True))
