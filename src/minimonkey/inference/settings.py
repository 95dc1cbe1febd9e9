"""What `generate` gets of a call's settings, all of them looked at before any picture is.

Knows GenerationConfig and a tokenizer; no model, no prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Number
from typing import Any

from transformers import GenerationConfig
from transformers.generation import GenerationMode
from transformers.utils import is_hqq_available, is_optimum_quanto_available

from minimonkey.errors import UsageError, shown
from minimonkey.models.generation_settings import RULES, SAMPLING, checked

ONE_ANSWER: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "token_healing": False,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": False,
}
"""Settings of `generate` that would give something else than one answer to the prompt as it is, token by token."""
OF_OTHER_WAYS: dict[str, Any] = {
    "early_stopping": False,
    "length_penalty": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "is_assistant": False,
    "num_assistant_tokens": None,
    "num_assistant_tokens_schedule": None,
    "assistant_confidence_threshold": None,
    "assistant_lookbehind": None,
    "assistant_ensemble_weight": None,
    "target_lookbehind": None,
    "max_matching_ngram_size": None,
    "speculation_type": None,
    "forced_bos_token_id": None,
    "decoder_start_token_id": None,
    "low_memory": None,
    "continuous_batching_config": None,
}
"""Settings without effect on one answer: those of beams, of helping models, of models with an encoder for text."""


def call_settings(
    own: GenerationConfig, tokenizer: Any, given: Mapping[str, Any], *, vocabulary: int, device: str
) -> dict[str, Any]:
    """The settings of one call: greedy unless it says otherwise, and the tokenizer's stop where the model names none.

    Args:
        own: the model's settings, which count where the call says nothing.
        tokenizer: names the stop and padding tokens where the model doesn't.
        given: what the call says, by the names of GenerationConfig.
        vocabulary: the number of the model's tokens.
        device: the type of the model's device, such as "cpu".

    Returns:
        Arguments for `generate`; the length of the answer isn't one of them.

    Raises:
        UsageError: a name that is unknown or would have no effect, or a value that would fail once the model runs.
    """
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    for name, value in given.items():
        _check_name(name, value, known)
    sampling = bool(given.get("do_sample"))
    stop = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    pad = tokenizer.pad_token_id if not RULES["pad_token_id"].accepts(own.pad_token_id, vocabulary) else own.pad_token_id
    base = {"do_sample": False, "eos_token_id": stop, "pad_token_id": pad}
    settings = base | checked(given, vocabulary, sampling=sampling)
    for name in RULES.keys() - settings.keys():
        if (value := getattr(own, name, None)) is not None:
            value = _own(name, value, vocabulary, sampling)
            settings |= {name: value} if sampling or name not in SAMPLING else {}
    settings["eos_token_id"] = _own("eos_token_id", settings["eos_token_id"], vocabulary, sampling)
    _check_together(settings, device)
    own_ways = {name: value for name, value in ONE_ANSWER.items() if name in known}  # older releases know fewer
    effective = copy.deepcopy(own)
    try:
        effective.update(**settings | own_ways)
    except (ValueError, TypeError) as error:
        raise UsageError(f"settings of the answer that don't go together: {' '.join(str(error).split())[:300]}") from error
    if (mode := effective.get_generation_mode()) not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UsageError(f"{mode.value}: ask() gives one answer, token by token; use vlm.model.generate for others")
    return settings | own_ways | {"tokenizer": tokenizer}


def new_tokens(value: Any) -> int | None:
    """The `max_new_tokens` of a call. Raises UsageError for anything but a whole number, 1 or more (NumPy's too)."""
    if value is None:
        return None
    return checked({"max_new_tokens": value}, 0, sampling=False)["max_new_tokens"]


def _check_name(name: str, value: Any, known: set[str]) -> None:
    if name == "max_length":
        raise UsageError(f"max_length={shown(value)}: an answer's length is max_new_tokens, which doesn't count the prompt")
    if name not in known:
        raise UsageError(f"{name}={shown(value)}: a setting neither of ask() nor of transformers' GenerationConfig")
    for names, why in (
        (ONE_ANSWER, "ask() gives one answer, token by token"),
        (OF_OTHER_WAYS, "has no effect on the answer of ask()"),
    ):
        same = value is None or (isinstance(value, Number) and value == names.get(name))
        if name in names and not same:
            raise UsageError(f"{name}={shown(value)}: {why}; use vlm.model.generate for others")


def _own(name: str, value: Any, vocabulary: int, sampling: bool) -> Any:
    """One of the model's own settings, as `checked` gives it."""
    try:
        return checked({name: value}, vocabulary, sampling=sampling)[name]
    except UsageError as error:
        raise UsageError(f"model.generation_config: {error}") from error


def _check_together(settings: Mapping[str, Any], device: str) -> None:
    """Raises UsageError for values that can't go with others, with this device or with what is installed."""
    stop = settings["eos_token_id"]
    stops = stop if isinstance(stop, list) else [stop]
    bad_words = settings.get("bad_words_ids")
    if bad_words and all(len(word) == 1 and word[0] in stops for word in bad_words):
        raise UsageError(
            f"bad_words_ids={shown(bad_words)}: forbids what ends the answer alone; give min_new_tokens to keep it from ending"
        )
    if settings.get("exponential_decay_length_penalty") is not None and stop is None:
        raise UsageError("exponential_decay_length_penalty: makes the stop token likelier, and eos_token_id is None; leave one out")
    cache, config = settings.get("cache_implementation"), settings.get("cache_config") or {}
    if cache in ("offloaded", "offloaded_static") and device == "cpu":
        raise UsageError(
            f"cache_implementation={cache!r}: keeps the cache of a GPU in memory, and the model is on the CPU; leave it out"
        )
    if cache == "quantized":
        packages = {"quanto": ("optimum-quanto", is_optimum_quanto_available), "hqq": ("hqq", is_hqq_available)}
        package, is_available = packages.get(config.get("backend", "quanto"), (None, None))
        if is_available is not None and not is_available():
            raise UsageError(f"cache_implementation='quantized': needs {package}, which isn't installed: pip install {package}")
