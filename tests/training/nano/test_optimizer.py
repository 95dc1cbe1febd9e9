"""Muon equals torch's; groups, schedule and saved memory."""

import pytest
import torch
from torch import nn

from minimonkey.errors import UsageError
from minimonkey.training.nano.config import OptimizerConfig
from minimonkey.training.nano.optimizer import Muon, MuonWithAdamW, orthogonal

SHAPES = [(16, 16), (16, 16), (32, 16), (16, 48)]


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_muon_equals_torchs():
    ours, theirs = parameters(), parameters()
    muon = Muon([{"params": ours, "lr": 0.02}], weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for step in range(4):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * step + index))
            b.grad = a.grad.clone()
        muon.step()
        reference.step()
    for a, b, start in zip(ours, theirs, parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # bfloat16 products, batched against single
        assert (a - start).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 24), (2, 24, 8)])
def test_orthogonal_brings_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))).float())
    assert values.min() > 0.4 and values.max() < 1.3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.tower = nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 5)


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    network = Network()
    optimizer = MuonWithAdamW(network.named_parameters(), OptimizerConfig(lr_multipliers={"tower": 0.5}), steps=10)
    muon, adamw = optimizer.optimizers
    assert [group["params"] for group in muon.param_groups] == [[network.tower.weight]]
    assert muon.param_groups[0]["base_lr"] == pytest.approx(0.01)
    assert {group["base_lr"]: len(group["params"]) for group in adamw.param_groups} == {1.5e-3: 3, 0.75e-3: 1}


def test_a_scale_of_zero_freezes():
    network = Network()
    MuonWithAdamW(network.named_parameters(), OptimizerConfig(lr_multipliers={"tower": 0}), steps=10)
    assert not network.tower.weight.requires_grad and network.lm_head.weight.requires_grad


def test_a_scale_that_matches_nothing_is_one_line():
    with pytest.raises(UsageError, match="no parameter's name begins with 'towr'; e.g. 'embed_tokens.weight' is one"):
        MuonWithAdamW(Network().named_parameters(), OptimizerConfig(lr_multipliers={"towr": 0}), steps=10)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_gradients_that_are_not_finite_change_nothing(value):
    network = Network()
    optimizer = MuonWithAdamW(network.named_parameters(), OptimizerConfig(), steps=10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    network.lm_head.bias.grad[2] = value
    with pytest.raises(UsageError, match="^step 4: the norm of the gradients is (nan|inf), so nothing of this step is kept; lower"):
        optimizer.step(3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert optimizer.tensors() == {}


def test_schedule_warms_up_holds_and_falls_to_zero():
    optimizer = MuonWithAdamW(Network().named_parameters(), OptimizerConfig(warmup_steps=4, decay_fraction=0.5), steps=20)
    assert [optimizer.factor(step) for step in (0, 1, 3, 9, 10, 15, 20)] == [0.25, 0.5, 1, 1, 1, 0.5, 0]


def test_saved_memory_continues_the_same_way():
    def run(network, optimizer, start, stop):
        for step in range(start, stop):
            loss = (network.lm_head(network.tower(network.embed_tokens(torch.arange(5)))) ** 2).sum()
            loss.backward()
            optimizer.step(step)

    torch.manual_seed(3)
    whole, parts = Network(), Network()
    parts.load_state_dict(whole.state_dict())
    settings = OptimizerConfig(warmup_steps=2)
    run(whole, MuonWithAdamW(whole.named_parameters(), settings, 6), 0, 6)
    first = MuonWithAdamW(parts.named_parameters(), settings, 6)
    run(parts, first, 0, 3)
    second = MuonWithAdamW(parts.named_parameters(), settings, 6)
    second.load_tensors(first.tensors())
    run(parts, second, 3, 6)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
