"""Values of settings: each that `checked` lets through is one that transformers takes, each other is one line with its name."""

import math

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WatermarkingConfig

from minimonkey.errors import UsageError
from minimonkey.models.generation_settings import RULES, SAMPLING, checked

SIZE = 50
"""Of the vocabulary."""
ANYTHING = [
    *(
        True,
        False,
        0,
        1,
        2,
        -1,
        49,
        50,
        10**9,
        10**30,
        -(10**400),
        10**5000,
        0.0,
        0.5,
        1.0,
        2.0,
        -0.5,
        1e-300,
        math.nan,
        math.inf,
        -math.inf,
    ),
    *("", "x", "dynamic", b"x", [], [1], [50], [[1]], [[]], ["x"], [""], [0.5], [True], (1,), (1, 1.5), (1, "x"), {}, {"a": 1}),
    *({(1,): 2.0}, {(1,): "x"}, {(): 1.0}, {(50,): 1.0}, [[[1], -2.0]], [[[1], None]], {"bias": -1.0}, {"greenlist_ratio": 2}),
    *(object(), np.int64(1), np.float32(0.5), np.bool_(True), np.array([1]), torch.tensor(1), WatermarkingConfig(), range(3)),
]


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "sampling"])
@pytest.mark.parametrize("name", sorted(RULES))
def test_any_value_is_taken_or_one_line(name, sampling):
    taken = []
    for value in ANYTHING:
        try:
            taken.append(checked({name: value}, SIZE, sampling=sampling)[name])
        except UsageError as error:
            assert str(error).startswith(f"{name}=") and ": expected " in str(error) and "\n" not in str(error)
            assert len(str(error)) < 300
    assert len(taken) < len(ANYTHING) / 2
    if not (sampling and name in SAMPLING):
        GenerationConfig().update(**{name: taken[0] if taken else None})
    assert checked({name: None}, SIZE, sampling=sampling) == {name: None}


@pytest.mark.parametrize(
    ("name", "given", "converted"),
    [
        ("repetition_penalty", 2, 2.0),
        ("repetition_penalty", np.float32(0.5), 0.5),
        ("min_new_tokens", np.int64(3), 3),
        ("max_new_tokens", np.uint8(3), 3),
        ("eos_token_id", (1, np.int64(2)), [1, 2]),
        ("eos_token_id", -1, None),
        ("eos_token_id", [-1, 70], [70]),
        ("suppress_tokens", (1, 2), [1, 2]),
        ("suppress_tokens", [], []),
        ("bad_words_ids", [(1, 2)], [[1, 2]]),
        ("sequence_bias", {(1, np.int64(2)): -3}, {(1, 2): -3.0}),
        ("sequence_bias", [[[1], -math.inf]], [[[1], -math.inf]]),
        ("exponential_decay_length_penalty", [np.int64(4), 2], (4, 2.0)),
        ("temperature", 2, 2.0),
        ("top_k", np.int64(4), 4),
        ("do_sample", True, True),
    ],
)
def test_values_become_what_transformers_insists_on(name, given, converted):
    found = checked({name: given}, SIZE, sampling=True)[name]
    assert found == converted and type(found) is type(converted)
    assert repr(found) == repr(converted)


def test_a_watermark_may_be_a_dict_of_its_settings():
    found = checked({"watermarking_config": {"bias": 3.0}}, SIZE, sampling=False)["watermarking_config"]
    assert (type(found), found.bias) == (WatermarkingConfig, 3.0)
    for wrong in ({"byas": 3.0}, {"greenlist_ratio": 1.0}, {"context_width": 0}, {"greenlist_ratio": "x"}, 5):
        with pytest.raises(UsageError, match="^watermarking_config=.*: expected a WatermarkingConfig"):
            checked({"watermarking_config": wrong}, SIZE, sampling=False)


def test_where_nothing_is_drawn_any_number_does():
    for name in SAMPLING:
        assert checked({name: -3}, SIZE, sampling=False) == {name: -3}
        with pytest.raises(UsageError, match=f"^{name}=-3: expected "):
            checked({name: -3}, SIZE, sampling=True)
        with pytest.raises(UsageError, match=f"^{name}='x': expected "):
            checked({name: "x"}, SIZE, sampling=False)


def test_other_names_stay_as_they_are():
    assert checked({"seed": "x", "max_length": -1}, SIZE, sampling=True) == {"seed": "x", "max_length": -1}
