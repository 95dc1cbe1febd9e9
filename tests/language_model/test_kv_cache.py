"""The cache that grows in place holds what transformers' own does, whatever is done to it on the way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from minimonkey.language_model.kv_cache import MIN_SPARE_TOKENS, GrowingCache


def tokens(count, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, count, 4, generator=generator), torch.randn(rows, 3, count, 4, generator=generator)


def same(ours, theirs):
    assert len(ours.layers) == len(theirs.layers) and ours.get_seq_length() == theirs.get_seq_length()
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


@given(st.lists(st.integers(1, 2 * MIN_SPARE_TOKENS), min_size=1, max_size=6))
def test_it_holds_what_transformers_own_holds(counts):
    ours, theirs = GrowingCache(), DynamicCache()
    for seed, count in enumerate(counts):
        for index in range(2):
            for one, other in zip(
                ours.update(*tokens(count, seed=seed), index), theirs.update(*tokens(count, seed=seed), index), strict=True
            ):
                assert torch.equal(one, other)
    same(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.crop(-3),
    ],
    ids=["beams", "samples", "rows", "crop"],
)
def test_it_can_be_changed_on_the_way(change):
    ours, theirs = GrowingCache(), DynamicCache()
    for cache in (ours, theirs):
        cache.update(*tokens(7), 0)
        cache.update(*tokens(1, seed=1), 0)
        change(cache)
        cache.update(*tokens(2, rows=len(cache.layers[0].keys), seed=2), 0)
        cache.update(*tokens(1, rows=len(cache.layers[0].keys), seed=3), 0)
    same(ours, theirs)


def test_tokens_before_stay_where_they_are():
    cache = GrowingCache()
    keys, _ = cache.update(*tokens(100), 0)
    later = [cache.update(*tokens(1, seed=seed), 0)[0] for seed in range(MIN_SPARE_TOKENS)]
    assert {part.data_ptr() for part in later} == {keys.data_ptr()}
    assert cache.update(*tokens(1), 0)[0].data_ptr() != keys.data_ptr(), "no room is left"


def test_gradients_flow():
    cache = GrowingCache()
    keys, values = (part.requires_grad_() for part in tokens(3))
    cache.update(*tokens(2), 0)
    sum(part.sum() for part in cache.update(keys, values, 0)).backward()
    assert keys.grad.eq(1).all() and values.grad.eq(1).all()
