"""What was read needn't be read again: copies of a prefix, and when its keys still hold."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel, Phi3Config, Phi3Model, Qwen2Config, Qwen2Model

from minimonkey.inference.prefix_cache import EMPTY, PrefixCache, common_length, same_rotation, sees_all
from minimonkey.language_model.layers import CACHE
from minimonkey.language_model.rotary import make_stateless

LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
LAYERS |= {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def text_model(model, config, **fields):
    text = model(config(**LAYERS | fields)).eval()
    make_stateless(text)
    return text


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 9, 3], 1), ([2], [1], 0)],
)
def test_shared(one, other, length):
    assert common_length(one, other) == length


def prefix(length: int, layers: int = 2) -> PrefixCache:
    generator = torch.Generator().manual_seed(0)
    tensors = [
        (torch.rand(1, 2, length, 4, generator=generator), torch.rand(1, 2, length, 4, generator=generator)) for _ in range(layers)
    ]
    return PrefixCache(list(range(length)), tensors)


def test_a_cache_is_a_copy_of_the_first_tokens():
    kept = prefix(5)
    cache = kept.inputs(3, rows=2)[CACHE]
    assert cache.get_seq_length() == 3
    for layer, (keys, values) in zip(cache.layers, kept.layers, strict=True):
        assert torch.equal(layer.keys, keys[:, :, :3].repeat(2, 1, 1, 1))
        assert torch.equal(layer.values, values[:, :, :3].repeat(2, 1, 1, 1))
        layer.keys.zero_()
        assert keys.all()


def test_nothing():
    for cache in (EMPTY.inputs(0, rows=3)[CACHE], prefix(5).inputs(0, rows=1)[CACHE]):
        assert cache.get_seq_length() == 0
    assert (EMPTY.nbytes, EMPTY.ids) == (0, [])


def test_bytes():
    assert prefix(5, layers=3).nbytes == 3 * 2 * 2 * 5 * 4 * 4


def test_of_a_cache():
    kept = prefix(4)
    again = PrefixCache.of([7, 7, 7], kept.inputs(3, rows=1)[CACHE])
    assert again.ids == [7, 7, 7]
    for (keys, values), (first, second) in zip(again.layers, kept.layers, strict=True):
        assert torch.equal(keys, first[:, :, :3])
        assert torch.equal(values, second[:, :, :3])


@pytest.mark.parametrize("window", [None, 4])
def test_a_cut_cache_goes_on_as_a_whole_row(window):
    """Whatever was read behind the cut, and beyond a window too."""
    text = text_model(Phi3Model, Phi3Config, sliding_window=window)
    ids = torch.randint(1, 50, (1, 12), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache()
    with torch.no_grad():
        whole = text(ids).last_hidden_state
        text(torch.cat((ids[:, :7], ids[:, :4]), dim=1), **{CACHE: cache})
        kept = PrefixCache.of(ids[0, :7].tolist() + ids[0, :4].tolist(), cache)
        rest = text(ids[:, 7:].repeat(2, 1), **kept.inputs(7, rows=2)).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 7:].repeat(2, 1, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "config", "fields", "alike"),
    [
        (LlamaModel, LlamaConfig, {}, {(3, 16): True, (3, 17): True, (20, 300): True}),
        (LlamaModel, LlamaConfig, {"rope_parameters": DYNAMIC}, {(3, 16): True, (16, 17): False, (17, 17): True, (17, 18): False}),
        (
            Phi3Model,
            Phi3Config,
            {"rope_parameters": LONG, "original_max_position_embeddings": 16, "max_position_embeddings": 64},
            {(3, 16): True, (16, 17): False, (17, 60): True, (3, 4, 17): False, (3, 4, 5): True},
        ),
    ],
    ids=["plain", "dynamic", "longrope"],
)
def test_turn_alike(model, config, fields, alike):
    text = text_model(model, config, **fields)
    assert {lengths: same_rotation(text, *lengths) for lengths in alike} == alike


def test_positions_counted_anew_turn_by_their_own_rule():
    """Three of five tokens are left: prompts of 17 and 19 tokens are beyond the window of 16, and 15 of the first are not."""
    long = {"rope_parameters": LONG, "original_max_position_embeddings": 16, "max_position_embeddings": 64}
    text = text_model(Phi3Model, Phi3Config, **long)
    original = PrefixCache([7] * 5, [], kept_index=[0, 3, 4], positions=[0, 3, 4])
    compact = PrefixCache([7] * 5, [], kept_index=[0, 3, 4], positions=[0, 1, 2])
    assert (original.dropped, compact.dropped, prefix(5).dropped) == (2, 2, 0)
    assert [kept.same_rotation(text, 17, 19) for kept in (EMPTY, original, compact)] == [True, True, False]
    assert [kept.same_rotation(text, 16, 17) for kept in (EMPTY, original, compact)] == [False] * 3
    assert compact.same_rotation(text, 5, 16)


def compressed_prefix() -> PrefixCache:
    """Of five tokens the first, fourth and fifth are left, and two more follow; two of three layers."""
    ids, left = [*range(10, 17)], prefix(5, layers=3).layers
    return PrefixCache(ids, left, prefix(7, layers=2).layers, kept_index=[0, 3, 4], positions=[0, 3, 4])


def test_a_compressed_prefix_is_cut_behind_its_pictures_alone():
    kept = compressed_prefix()
    rows = {(10, 11, 12, 13, 14, 15, 16, 17): 7, (10, 11, 12, 13, 14, 15): 5, (10, 11, 12, 13, 14, 9): 5, (10, 11, 12, 13, 9): 0}
    assert {row: kept.reusable(list(row)) for row in rows} == rows
    assert [kept.kept_ids(length) for length in (0, 5, 6)] == [[], [10, 13, 14], [10, 13, 14, 15]]
    assert prefix(5).kept_ids(2) == [0, 1]
    assert prefix(5).reusable([0, 1, 9]) == 2
    assert kept.nbytes == (3 * 5 + 2 * 7) * 2 * 2 * 4 * 4


def test_what_generate_gets_of_a_compressed_prefix():
    kept = compressed_prefix()
    assert list(kept.inputs(0, rows=1)) == [CACHE]
    compressed = kept.inputs(6, rows=2)["compressed_prompt"]
    assert compressed.index.tolist() == compressed.positions.tolist() == [[0, 3, 4, 5]] * 2
    assert (compressed.mask.tolist(), compressed.prompt_mask.tolist()) == ([[1] * 4] * 2, [[1] * 6] * 2)
    for cache, layers, length in ((compressed.cache, kept.layers, 4), (compressed.early_cache, kept.early_layers, 6)):
        for layer, (keys, values) in zip(cache.layers, layers, strict=True):
            assert torch.equal(layer.keys, keys[:, :, :length].repeat(2, 1, 1, 1))
            assert torch.equal(layer.values, values[:, :, :length].repeat(2, 1, 1, 1))
    compact = PrefixCache(kept.ids, kept.layers, kept_index=[0, 3, 4], positions=[0, 1, 2]).inputs(7, rows=1)["compressed_prompt"]
    assert (compact.positions.tolist(), compact.early_cache, compact.prompt_mask) == ([[0, 1, 2, 3, 4]], None, None)


def test_what_was_said_is_kept_unless_it_had_seen_less():
    kept = compressed_prefix()
    ids, said = [*range(10, 20)], torch.rand(1, 2, 3, 4)
    inputs = kept.inputs(7, rows=1)
    for index in range(3):
        inputs["compressed_prompt"].cache.update(said, said, index)
    extended = kept.extended(ids, inputs)
    assert (extended.ids, extended.kept_index) == (ids[:7], kept.kept_index)
    assert all(torch.equal(one, other) for one, other in zip(extended.layers[2], kept.layers[2], strict=True))
    assert extended.nbytes == kept.nbytes
    whole = PrefixCache(kept.ids, kept.layers, kept_index=[0, 3, 4], positions=[0, 3, 4])
    inputs = whole.inputs(6, rows=1)
    for index in range(3):
        inputs["compressed_prompt"].cache.update(said, said, index)
    extended = whole.extended(ids, inputs)
    assert extended.ids == ids[:9]
    assert torch.equal(extended.layers[0][0][:, :, -3:], said)


def test_tokens_that_were_tried_and_not_said_are_not_kept():
    """A cache holds one token less than there are ids; whatever holds more has read something else."""
    compressed = PrefixCache([7] * 5, prefix(3).layers, kept_index=[0, 3, 4], positions=[0, 3, 4])
    for kept in (prefix(5), compressed):
        ids = [*kept.ids, 1, 2, 3]
        for more, known in ((2, 7), (3, 5), (4, 5)):
            inputs = kept.inputs(5, rows=1)
            cache = inputs["compressed_prompt"].cache if kept.kept_index else inputs[CACHE]
            for index in range(2):
                cache.update(torch.rand(1, 2, more, 4), torch.rand(1, 2, more, 4), index)
            extended = kept.extended(ids, inputs)
            assert extended.ids == ids[:known]
            assert extended.layers[0][0].shape[2] == known - kept.dropped


def test_sees_all():
    one_slides = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]}
    assert sees_all(text_model(Qwen2Model, Qwen2Config), 1000)
    assert sees_all(text_model(Qwen2Model, Qwen2Config, **one_slides), 8)
    assert not sees_all(text_model(Qwen2Model, Qwen2Config, **one_slides), 9)
    assert not sees_all(text_model(Phi3Model, Phi3Config, sliding_window=8), 9)
