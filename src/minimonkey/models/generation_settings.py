"""Which values can the settings of `generate` have? Others would fail inside of transformers or torch, at the first token.

Knows the names of transformers' GenerationConfig and the size of a vocabulary; no model, no call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from transformers import WatermarkingConfig

from minimonkey.errors import UsageError, shown

CACHES = ("dynamic", "static", "hybrid", "offloaded", "offloaded_static", "quantized")
"""Kinds of cache that `generate` makes; "paged" is another function."""

LONGEST_NGRAM = 1000
"""In tokens. transformers cuts a prompt into as many lists: a size of a thousand million takes all memory and ends the process."""


@dataclass(frozen=True)
class Rule:
    """What a setting may be. Every one may be None, too: then it has no effect, or transformers' default."""

    accepts: Callable[[Any, int], bool]
    """Whether a value can be used with a vocabulary of so many tokens; raises nothing, whatever the value."""
    expected: str
    convert: Callable[[Any], Any] = lambda value: value
    """The same value in the type that transformers insists on."""


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # of whole numbers that no float holds
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_id(value: Any, vocabulary: int) -> bool:
    return _is_whole(value) and 0 <= value < vocabulary


def _are_ids(value: Any, vocabulary: int) -> bool:
    return _is_list(value) and all(_is_id(token, vocabulary) for token in value)


def _are_numbers_of_tokens(value: Any, _: int) -> bool:
    """One whole number or several, within int64 and maybe beyond the vocabulary: such a token is never written."""
    many = value if _is_list(value) else [value]
    return len(many) > 0 and all(_is_whole(token) and -(2**63) <= int(token) < 2**63 for token in many)


def _written(value: Any) -> list[int] | int | None:
    """The ids that a model may write; none are below 0."""
    if not _is_list(value):
        return int(value) if value >= 0 else None
    return [int(token) for token in value if token >= 0] or None


def _is_bias(value: Any, vocabulary: int) -> bool:
    """{(id, ...): bias}, or the same as a list of [[id, ...], bias], as JSON has it. -inf forbids a token."""
    if not isinstance(value, dict) and not (_is_list(value) and all(_is_list(pair) and len(pair) == 2 for pair in value)):
        return False
    pairs = list(value.items() if isinstance(value, dict) else value)
    return len(pairs) > 0 and all(
        _are_ids(ids, vocabulary) and len(ids) > 0 and (_is_number(bias) or bias == -math.inf) for ids, bias in pairs
    )


def _biases(value: Any) -> Any:
    """The same form with ids and numbers of Python: a dict can't be saved as JSON, a list can."""
    if isinstance(value, dict):
        return {tuple(map(int, ids)): float(bias) for ids, bias in value.items()}
    return [[list(map(int, ids)), float(bias)] for ids, bias in value]


def _is_watermark(value: Any, vocabulary: int) -> bool:
    try:
        config = WatermarkingConfig(**value) if isinstance(value, dict) else value
        config.validate()
        config.construct_processor(vocabulary, "cpu")
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _whole(least: int, most: int = 2**31 - 1, note: str = "") -> Rule:
    upper = " or more" if most == 2**31 - 1 else f" to {most}"
    return Rule(lambda value, _: _is_whole(value) and least <= value <= most, f"a whole number, {least}{upper}{note}", int)


def _number(accepts: Callable[[float], bool], expected: str) -> Rule:
    return Rule(lambda value, _: _is_number(value) and accepts(value), f"a number {expected}", float)


_SWITCH = Rule(lambda value, _: isinstance(value, bool), "True or False")
_FACTOR = _number(lambda value: value > 0, "above 0, where 1 changes nothing")
_IDS = "ids of the vocabulary's tokens"
_STOP = Rule(_are_numbers_of_tokens, "a token's id, or a list of at least one", _written)
_SEVERAL = Rule(_are_ids, f"a list of {_IDS}", lambda value: list(map(int, value)))
_ONE_OR_SEVERAL = Rule(
    lambda value, size: _is_id(value, size) or (_are_ids(value, size) and len(value) > 0),
    f"{_IDS}: one, or a list of at least one",
    lambda value: list(map(int, value)) if _is_list(value) else int(value),
)
_NEVER = Rule(lambda value, _: False, "nothing: the code of this way of decoding would be fetched from the hub")


SAMPLING = {
    "temperature": _number(lambda value: value >= 1e-20, "above 0 (do_sample=False always takes the likeliest token)"),
    "top_k": _whole(0, note=" (0 for all tokens)"),
    "top_p": _number(lambda value: 0 <= value <= 1, "from 0 to 1"),
    "min_p": _number(lambda value: 0 <= value <= 1, "from 0 to 1"),
    "top_h": _number(lambda value: 0 < value <= 1, "above 0, up to 1"),
    "typical_p": _number(lambda value: 0 < value <= 1, "above 0, up to 1"),
    "epsilon_cutoff": _number(lambda value: 0 <= value < 1, "from 0, below 1"),
    "eta_cutoff": _number(lambda value: 0 <= value < 1, "from 0, below 1"),
}
"""Settings that count where tokens are drawn (`do_sample`). Without, any number does."""

RULES = SAMPLING | {
    "max_new_tokens": _whole(1),
    "min_length": _whole(0),
    "min_new_tokens": _whole(0),
    "max_time": _number(lambda value: value >= 0, "of seconds, 0 or more"),
    "stop_strings": Rule(
        lambda value, _: (
            bool(value) and (isinstance(value, str) or (_is_list(value) and all(isinstance(text, str) and text for text in value)))
        ),
        "a text, or a list of at least one, none of them empty",
    ),
    "do_sample": _SWITCH,
    "use_cache": _SWITCH,
    "cache_implementation": Rule(lambda value, _: isinstance(value, str) and value in CACHES, f"one of {', '.join(CACHES)}"),
    "cache_config": Rule(lambda value, _: isinstance(value, dict), "a dict"),
    "max_cache_len": _whole(1),
    "prefill_chunk_size": _whole(1),
    "repetition_penalty": _FACTOR,
    "encoder_repetition_penalty": _FACTOR,
    "no_repeat_ngram_size": _whole(0, LONGEST_NGRAM, " (0 for none)"),
    "encoder_no_repeat_ngram_size": _whole(0, LONGEST_NGRAM, " (0 for none)"),
    "bad_words_ids": Rule(
        lambda value, size: _is_list(value) and len(value) > 0 and all(_are_ids(word, size) and len(word) > 0 for word in value),
        f"a list of at least one list of {_IDS}",
        lambda value: [list(map(int, word)) for word in value],
    ),
    "sequence_bias": Rule(
        _is_bias,
        f"a dict of at least one number by a tuple of {_IDS}",
        _biases,
    ),
    "renormalize_logits": _SWITCH,
    "remove_invalid_values": _SWITCH,
    "forced_eos_token_id": _ONE_OR_SEVERAL,
    "suppress_tokens": _SEVERAL,
    "begin_suppress_tokens": _SEVERAL,
    "exponential_decay_length_penalty": Rule(
        lambda value, _: _is_list(value) and len(value) == 2 and _is_whole(value[0]) and value[0] >= 0 and _is_number(value[1]),
        "a pair (tokens before it begins, factor)",
        lambda value: (int(value[0]), float(value[1])),
    ),
    "guidance_scale": _number(lambda value: value >= 0, "of 0 or more, where 1 changes nothing"),
    "watermarking_config": Rule(
        _is_watermark,
        "a WatermarkingConfig of transformers, or a dict of its settings",
        lambda value: WatermarkingConfig(**value) if isinstance(value, dict) else value,
    ),
    "output_attentions": _SWITCH,
    "output_hidden_states": _SWITCH,
    "output_scores": _SWITCH,
    "output_logits": _SWITCH,
    "disable_compile": _SWITCH,
    "pad_token_id": Rule(_is_id, "the id of one of the vocabulary's tokens", int),
    "bos_token_id": _STOP,
    "eos_token_id": _STOP,
    "decoder_start_token_id": _STOP,
    "penalty_alpha": Rule(lambda value, _: _is_number(value) and value == 0, _NEVER.expected),
    "dola_layers": _NEVER,
    "constraints": _NEVER,
    "force_words_ids": _NEVER,
}


def checked(values: Mapping[str, Any], vocabulary: int, *, sampling: bool) -> dict[str, Any]:
    """Settings of `generate` in the types that transformers insists on: a penalty of 2 becomes 2.0.

    Args:
        values: by the names of GenerationConfig; those without a rule stay as they are.
        vocabulary: the number of tokens.
        sampling: whether tokens are drawn.

    Returns:
        The same names with the converted values.

    Raises:
        UsageError: a value that would fail once the model runs; the message names the setting.
    """
    converted = dict(values)
    for name, value in values.items():
        rule = RULES.get(name)
        if rule is None or value is None:
            continue
        drawn_alone = name in SAMPLING and not sampling
        if not (_is_number(value) if drawn_alone else rule.accepts(value, vocabulary)):
            raise UsageError(f"{name}={shown(value)}: expected {rule.expected}")
        if not drawn_alone:
            converted[name] = rule.convert(value)
    return converted
