"""The few kinds of draws that layouts and questions are made by. Knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Draws from a generator; each costs one number of it, so that a seed's meaning is easy to follow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._random = rng.random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def between(self, low: int, high: int) -> int:
        """From `low` to `high`, both included; `low` where `high` is less."""
        return low + int(self._random() * (high - low + 1)) if high > low else low

    def one(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """A key, as often as its value says."""
        rest = self._random() * sum(weights.values())
        for choice, weight in weights.items():
            rest -= weight
            if rest < 0:
                return choice
        return choice

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """All of them in random order."""
        return [choices[index] for index in np.argsort([self._random() for _ in choices], kind="stable").tolist()]

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` different ones (all, if there are fewer), in the order that they have in `choices`."""
        return [choices[index] for index in sorted(self.shuffled(range(len(choices)))[:count])]
