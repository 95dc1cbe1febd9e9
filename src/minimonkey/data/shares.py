"""How many rows of each data set an epoch has: what `balance`, `repeat`, `weight` and `general_ratio` amount to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minimonkey.data.mixture_file import DataSet, MixtureSpec
from minimonkey.errors import UsageError


def draws_per_epoch(spec: MixtureSpec, row_counts: Sequence[int]) -> tuple[int, ...]:
    """How many rows of each set an epoch has.

    Args:
        spec: the data sets and how they are mixed.
        row_counts: rows of each set.

    Raises:
        UsageError: a set that should give rows has none, or would never give one.
    """
    shares = [_share(each, size, spec) for each, size in zip(spec.sets, row_counts, strict=True)]
    for each, size in zip(spec.sets, row_counts, strict=True):
        if not size and each.repeat and each.weight != 0:
            raise UsageError(f"{spec.path(each.rows)}: no rows for {each.name!r}; leave it out with `repeat: 0`")
    if spec.general_ratio is None:
        everything = list(range(len(shares)))
        groups = [(everything, spec.epoch_rows or _rows_of_group(spec, row_counts, shares, everything))]
    else:
        domain, general = ([n for n, each in enumerate(spec.sets) if each.kind == kind] for kind in ("domain", "general"))
        for_domain = _rows_of_group(spec, row_counts, shares, domain)
        for_general = round(spec.general_ratio * for_domain)
        if spec.epoch_rows is not None:
            for_domain = round(spec.epoch_rows / (1 + spec.general_ratio))
            for_general = spec.epoch_rows - for_domain
        groups = [(domain, for_domain), (general, for_general)]
    draws = [0] * len(shares)
    for members, total in groups:
        for number, drawn in zip(members, _apportioned(total, [shares[number] for number in members]), strict=True):
            draws[number] = drawn
            if shares[number] and not drawn:
                name, setting = spec.sets[number].name, "repeat" if spec.balance == "repeat" else "epoch_rows"
                raise UsageError(f"{spec.name}: {name!r} would never give one of its {row_counts[number]} rows; raise `{setting}`")
    return tuple(draws)


def _share(each: DataSet, size: int, spec: MixtureSpec) -> float:
    if not each.repeat:
        return 0.0
    if spec.balance == "weight":
        return each.weight or 0.0
    return math.sqrt(size) if spec.balance == "sqrt" else size * each.repeat


def _rows_of_group(spec: MixtureSpec, row_counts: Sequence[int], shares: Sequence[float], members: Sequence[int]) -> int:
    if spec.balance == "repeat":
        return round(sum(shares[number] for number in members))
    return sum(row_counts[number] for number in members if shares[number])


def _apportioned(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with that sum, in proportion to the shares: rounded down, and the largest remainders rounded up."""
    whole = math.fsum(shares)
    if not whole:
        return [0] * len(shares)
    exact = [total * share / whole for share in shares]
    parts = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(shares)), key=lambda number: (parts[number] - exact[number], number))
    for number in by_remainder[: total - sum(parts)]:
        parts[number] += 1
    return parts
