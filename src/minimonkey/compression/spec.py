"""The settings of compression: which image tokens may go, and who decides. Only tokens of the detail level are up for selection.

Where those stand in a prompt is in spans.py, how they are chosen in selectors.py, how a model reads what is left in prefill.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from minimonkey.errors import UsageError, check_keys, shown, unknown

SELECTORS = {
    "scm": "Mini-Monkey's Scale Compression Mechanism: the attention of later tokens to the detail tokens in the language model's "
    "second layer. One pass: two layers read everything, the others what is kept.",
    "scm-reference": "the same exactly as Mini-Monkey's code has it (`modeling_minimonkey_chat.py`), for comparison with published "
    "results: the model begins again with what is kept, and the token after the detail level is lost. One prompt with one picture.",
    "fastv": "as scm, but only the prompt's last token is asked, in the manner of FastV (arXiv 2403.06764).",
    "random": "any tokens, the same for the same `seed`.",
    "uniform": "every n-th token.",
    "downsample": "none is dropped: neighbours in a tile are averaged, down to at most as many tokens.",
    "visionzip": "the attention of the encoder's class token in its last layer, in the manner of VisionZip (arXiv 2412.04467), but "
    "without its merging of the others.",
    "divprune": "tokens far from each other: max-min diversity.",
    "cdpruner": "tokens far from each other, those like the tokens that ask first: conditional diversity.",
    "mmr": "tokens like those that ask and unlike each other: maximal marginal relevance.",
}
"""Who may choose, and how."""
IN_MODEL_SELECTORS = ("scm", "scm-reference", "fastv")
"""Selectors that go by the language model's attention; the others choose before it."""
QUERY_SELECTORS = (*IN_MODEL_SELECTORS, "cdpruner", "mmr")
"""Selectors that score detail tokens by queries, the tokens behind the detail level; the others go by the picture alone."""


@dataclass(frozen=True)
class CompressionSpec:
    """How the tokens of the detail level are thinned out at prefill. `dataclasses.asdict(spec)` is what JSON keeps of it."""

    selector: str = "scm"
    """Who chooses: a name in SELECTORS."""
    keep_ratio: float = 0.5
    """Share of the detail tokens that stays, rounded down: above 0, at most 1."""
    queries: Literal["all", "vision"] = "all"
    """Whose attention counts: "all", the picture's own image tokens after its detail level and all later text; or "vision", those
    image tokens alone, whatever the question."""
    positions: Literal["compact", "original"] | None = None
    """Positions of the tokens that stay: those that they had, or counted anew; scm then begins again with what it keeps. If not
    given "original", and "compact" for scm-reference."""
    budget: Literal["picture", "tile"] | None = None
    """Whether the share is that of a picture's detail level or that of each tile in it. If not given "picture", and "tile" for
    downsample, which knows no other, and for cdpruner, whose cost grows with the square of the group."""
    seed: int = 0
    """Of the random selector."""

    def __post_init__(self) -> None:
        if not (isinstance(self.selector, str) and self.selector in SELECTORS):
            raise UsageError(unknown("compression: no selector", self.selector, SELECTORS))
        if self.positions is None:
            object.__setattr__(self, "positions", "compact" if self.selector == "scm-reference" else "original")
        if self.budget is None:
            object.__setattr__(self, "budget", "tile" if self.selector in ("downsample", "cdpruner") else "picture")
        checks = (
            ("keep_ratio", _is_ratio(self.keep_ratio), "a number above 0, at most 1"),
            ("queries", self.queries in ("all", "vision"), '"all" or "vision"'),
            ("positions", self.positions in ("compact", "original"), '"compact" or "original"'),
            ("budget", self.budget in ("picture", "tile"), '"picture" or "tile"'),
            ("seed", type(self.seed) is int and 0 <= self.seed < 2**63, "a whole number, 0 or more"),
        )
        for name, is_right, expected in checks:
            if not is_right:
                raise UsageError(f"compression: {name}={shown(getattr(self, name))}: expected {expected}")
        for name, value, why in _FIXED.get(self.selector, ()):
            if getattr(self, name) != value:
                raise UsageError(f"compression: {name}={getattr(self, name)!r}: {self.selector} {why}, {value!r} only")

    @classmethod
    def parse(cls, text: str, **settings: Any) -> CompressionSpec:
        """Read the short form of the command line: "scm", "uniform:0.25".

        Args:
            text: a selector, and behind a colon the share that it keeps, if not the half.
            settings: other fields.

        Raises:
            UsageError: the text has another form, or a value is wrong.
        """
        name, colon, share = text.strip().partition(":")
        try:
            keep_ratio = float(share) if colon else cls.keep_ratio
        except ValueError as error:
            expected = 'expected a selector, or a selector and a share such as "scm:0.5"'
            raise UsageError(f"compression {text[:40]!r}: {expected}") from error
        return cls(name, keep_ratio, **settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> CompressionSpec:
        """The spec of saved JSON (`dataclasses.asdict(spec)`).

        Args:
            settings: any of the fields; the others have their defaults.

        Raises:
            UsageError: no mapping, an unknown key (the nearest setting is named), or a wrong value.
        """
        check_keys("compression", settings, [field.name for field in fields(cls)], UsageError)
        return cls(**settings)

    @property
    def depends_on_question(self) -> bool:
        """Whether another question may keep other tokens. If not, a picture is compressed before there is a question."""
        return self.selector in QUERY_SELECTORS and self.queries == "all"

    def before_questions(self) -> CompressionSpec:
        """The same with queries that are there before any question: the picture's own tokens.

        Raises:
            UsageError: the selector has no other queries than the question.
        """
        if not self.depends_on_question:
            return self
        free = [name for name in SELECTORS if "queries" not in (setting for setting, *_ in _FIXED.get(name, ()))]
        if self.selector not in free:
            why = f"compression={self.selector!r} asks the question, and a picture is opened before there is one"
            raise UsageError(f"{why}: take {', '.join(free)} or none, or use ask()")
        return replace(self, queries="vision")

    @property
    def needs_cls_attention(self) -> bool:
        """Whether the choice goes by the class token's attention in the vision encoder."""
        return self.selector == "visionzip"

    def kept(self, size: int) -> int:
        """How many of `size` tokens that share a budget stay; `downsample` may keep fewer."""
        return int(self.keep_ratio * size + 1e-9)  # as floats, 0.29 x 100 is a little less than 29

    def dropped(self, tiles: int, tile_tokens: int) -> int:
        """How many tokens of a detail level are dropped; `downsample` may drop more.

        Args:
            tiles: of the detail level.
            tile_tokens: image tokens of a tile.
        """
        groups, size = (tiles, tile_tokens) if self.budget == "tile" else (1, tiles * tile_tokens)
        return groups * (size - self.kept(size))


_PUBLISHED = "is what was published"
_FIXED = {
    "scm-reference": (("queries", "all", _PUBLISHED), ("positions", "compact", _PUBLISHED), ("budget", "picture", _PUBLISHED)),
    "fastv": (("queries", "all", "asks the last token"),),
    "downsample": (("budget", "tile", "pools each tile by itself"),),
}
"""Settings that a selector has no choice of: name, value, reason."""


def _is_ratio(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number <= 1
