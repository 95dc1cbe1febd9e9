"""The loss in chunks, by token, sample and square root; packed rows whose segments don't see each other."""

import pytest
import torch
from torch import nn

import minimonkey
from minimonkey.data.collation import collate
from minimonkey.data.packed_rows import packed_row, token_weights
from minimonkey.data.published import published_example
from minimonkey.training.objective import AnswerLoss, chunked_cross_entropy
from tests.data.published import IMAGES, ROWS, settings_of

ROW_NAMES = ("single", "text_only", "list_two", "multi_turn")


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_give_value_and_gradients_of_the_whole(chunk_tokens, with_bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    bias = torch.randn(50, requires_grad=True) if with_bias else None
    labels, weights = torch.randint(50, (30,)), torch.rand(30)
    inputs = [each for each in (hidden, weight, bias) if each is not None]
    whole = (nn.functional.cross_entropy(nn.functional.linear(hidden, weight, bias), labels, reduction="none") * weights).sum()
    expected = torch.autograd.grad(3 * whole, inputs)
    chunked = chunked_cross_entropy(hidden, weight, labels, weights, bias=bias, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(chunked, whole)
    for ours, theirs in zip(torch.autograd.grad(3 * chunked, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_output_layer_gets_no_gradient():
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
    chunked_cross_entropy(hidden, weight, torch.arange(5), torch.ones(5)).backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert chunked_cross_entropy(hidden, weight, torch.arange(5), torch.ones(5)).ndim == 0


def test_large_logits_stay_finite():
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), torch.ones(2))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize(("reduction", "expected"), [("token", 1.0), ("sample", 0.25), ("square", 0.5)])
def test_weights(reduction, expected):
    labels = torch.tensor([[-100, 1, 2, 3, 4], [-100] * 5])
    assert token_weights(labels, reduction).tolist() == [[0, *[expected] * 4], [0] * 5]


@pytest.fixture(scope="module")
def made(golden):
    setting = next(settings_of("internvl2-qwen2-56", "internvl"))
    processor = setting.processor
    examples = [published_example(ROWS[row], processor, images=IMAGES, pyramid=setting.spec) for row in ROW_NAMES]
    model = minimonkey.load(golden / "internvl2-qwen2-56", device="cpu", dtype="float32").model
    return model, processor, examples


def gradients(objective, batch):
    objective.zero_grad()
    loss = objective(batch)
    loss.backward()
    return loss.detach(), {name: each.grad.clone() for name, each in objective.named_parameters() if each.grad is not None}


def test_a_batch_has_the_loss_and_the_gradients_of_the_model(made):
    model, processor, examples = made
    batch = collate(examples, processor)
    model.zero_grad()
    expected = model(**batch).loss
    expected.backward()
    theirs = {f"model.{name}": each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    ours, found = gradients(AnswerLoss(model, chunk_tokens=5), batch)
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-5)
    assert found.keys() == theirs.keys()
    for name, each in found.items():
        torch.testing.assert_close(each, theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["token", "sample", "square"])
def test_packed_rows_do_not_see_each_other(made, reduction):
    model, processor, examples = made
    objective = AnswerLoss(model, reduction)
    whole, into_whole = gradients(objective, collate(examples, processor))
    loss, into_packed = gradients(objective, packed_row(examples))
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
    for name, each in into_packed.items():
        torch.testing.assert_close(each, into_whole[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["token", "sample", "square"])
def test_a_row_by_itself_counts_as_its_reduction_says(made, reduction):
    model, processor, examples = made
    objective = AnswerLoss(model, reduction)
    with torch.no_grad():
        alone = torch.stack([objective(collate([example], processor)) for example in examples])
        whole = objective(collate(examples, processor))
    learnt = torch.tensor([(example["labels"] != -100).sum() for example in examples]).float()
    share = {"token": learnt, "sample": torch.ones(4), "square": learnt.sqrt()}[reduction]
    torch.testing.assert_close(whole, (alone * share).sum() / share.sum(), rtol=1e-5, atol=1e-5)


def test_nothing_to_learn_is_no_nan(made):
    model, processor, examples = made
    batch = collate([examples[1]], processor)
    batch["labels"].fill_(-100)
    assert AnswerLoss(model)(batch).item() == 0
