"""Beyond the length of training: the base grows in steps and stays through an answer, later queries look harder, rows go alone."""

import math

import pytest
import torch
from transformers import DynamicCache

from minimonkey.language_model.layers import CACHE
from minimonkey.models.monkey.configuration import MonkeyTextConfig
from minimonkey.models.monkey.language_model import MonkeyRotary


def rotary(**settings) -> MonkeyRotary:
    return MonkeyRotary(MonkeyTextConfig(hidden_size=32, num_attention_heads=4, head_dim=8, **settings)).eval()


@pytest.mark.parametrize(
    ("length", "alpha"),
    [(1, 1), (2048, 1), (2049, 3), (2619, 3), (4096, 3), (4097, 7), (8192, 7), (8193, 15), (2048 * 64 + 1, 255)],
)
def test_growth_of_the_base(length, alpha):
    """alpha = max(2^ceil(log2(L / seq_length) + 1) - 1, 1), base = 10000 * alpha^(d / (d - 2)) as published."""
    assert alpha == max(2 ** math.ceil(math.log(length / 2048, 2) + 1) - 1, 1)
    exponents = torch.arange(0, 8, 2) / 8
    found = rotary().inverse_frequencies(torch.tensor([[length]]), exponents)
    torch.testing.assert_close(found[0], 1 / (10000 * alpha ** (8 / 6)) ** exponents)
    for plain in (rotary(use_dynamic_ntk=False), rotary().train()):
        torch.testing.assert_close(plain.inverse_frequencies(torch.tensor([[length]]), exponents)[0], 1 / 10000**exponents)


def test_reach_of_queries():
    positions = torch.tensor([[0, 2046, 2047, 2048, 5000]])
    reach = rotary()(torch.zeros(1, 5, 32), positions).reach[0, :, 0].tolist()
    assert reach == pytest.approx([1, 1, 1, math.log(2049) / math.log(2048), math.log(5001) / math.log(2048)])
    for plain in (rotary(use_logn_attn=False), rotary().train()):
        assert (plain(torch.zeros(1, 5, 32), positions).reach == 1).all()


def test_an_answer_turns_as_its_prompt(tiny_monkey, prompt):
    """A prompt of 60 tokens crosses 64 while it is answered: the base stays, as with the published cache."""
    network, ids = tiny_monkey(seq_length=64), prompt(0, words=60)
    written = network.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    rows = ids
    for _ in range(12):  # anew each time, with the base of the prompt
        plain = tiny_monkey(seq_length=64)
        plain.model.language_model.rotary_emb.grows = False
        rows = torch.cat((rows, plain(rows).logits[:, -1:].argmax(-1)), dim=1)
    assert written.tolist() == rows.tolist()
    with torch.no_grad():
        assert not torch.allclose(network(rows).logits, plain(rows).logits), "what is read at once beyond 64 turns otherwise"


def test_a_call_by_hand_keeps_the_base_too(tiny_monkey, prompt):
    network, ids = tiny_monkey(seq_length=64), prompt(0, words=66)
    with torch.no_grad():
        first = network(ids[:, :64], use_cache=True)
        rest = network(ids[:, 64:], **{CACHE: first[CACHE]}).logits
        network.model.language_model.rotary_emb.grows = False
        torch.testing.assert_close(rest, network(ids).logits[:, 64:], rtol=1e-4, atol=1e-4)


def test_rows_of_a_batch_go_by_themselves(tiny_monkey, prompt):
    """Beyond the published code, where the longest row and its padding decide for all."""
    network = tiny_monkey(seq_length=32)
    short, long = prompt(0, words=20), prompt(0, words=70)
    ids = torch.cat((torch.nn.functional.pad(short, (50, 0)), long))
    mask = torch.ones_like(ids)
    mask[0, :50] = 0
    together = network.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)[:, 70:]
    for row, alone in enumerate((short, long)):
        assert network.generate(alone, max_new_tokens=6, do_sample=False)[0, alone.shape[1] :].tolist() == together[row].tolist()


def test_threads_and_earlier_prompts_leave_nothing(tiny_monkey, prompt):
    network, short, long = tiny_monkey(seq_length=32), prompt(0, words=20), prompt(0, words=70)
    with torch.no_grad():
        before = network(short).logits
        network(long, **{CACHE: DynamicCache()})
        assert torch.equal(network(short).logits, before)


def test_implementations_of_attention_agree(tiny_monkey, prompt):
    network, ids = tiny_monkey(seq_length=32), prompt(0, words=70)
    with torch.no_grad():
        logits = network(ids).logits
        network.set_attn_implementation("eager")
        output = network(ids, output_attentions=True)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)
    assert output.attentions[0].shape == (1, 4, 70, 70)
