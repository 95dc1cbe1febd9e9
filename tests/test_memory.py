"""Too little memory: one line that says what would need less, whichever allocator refused; other errors stay as they are."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from minimonkey.errors import MiniMonkeyError, ShortOfMemoryError
from minimonkey.inference import VisionLanguageModel
from minimonkey.inference.prefix_cache import PrefixCache
from minimonkey.memory import explain_out_of_memory
from minimonkey.models.strict_loading import load_strictly

TOO_MUCH = 2**60


def test_what_torch_says_here():
    """The real allocator of this machine, whose wording is torch's to change."""
    refused = f"^out of memory while answering, {4 * TOO_MUCH} bytes more were needed: less$"
    with pytest.raises(ShortOfMemoryError, match=refused), explain_out_of_memory("answering", "less"):
        torch.empty(TOO_MUCH)


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 GiB free"),
            ", 2.50 GiB more were needed",
        ),
        (torch.OutOfMemoryError("the device has nothing left"), ""),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 1.5 GB on private pool."), ", 1.5 GB .*"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), ""),
        (RuntimeError("[CPU] std::bad_alloc"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (RuntimeError("Invalid buffer size: 14.00 GB"), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (9,)"), ", 7.45 GiB more were needed"),
        (MemoryError(), ""),
    ],
)
def test_what_others_say(error, amount):
    @explain_out_of_memory("training", "lower tiles_per_batch")
    def step():
        raise error

    with pytest.raises(ShortOfMemoryError, match=f"^out of memory while training{amount}: lower tiles_per_batch$") as info:
        step()
    assert isinstance(info.value, MiniMonkeyError) and isinstance(info.value, MemoryError) and info.value.__cause__ is error


def test_the_first_to_say_it_is_heard():
    with (
        pytest.raises(ShortOfMemoryError, match="^out of memory while loading: quantize$"),
        explain_out_of_memory("answering", "less"),
    ):
        with explain_out_of_memory("loading", "quantize"):
            raise MemoryError


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape '[2]' is invalid"),
        FileNotFoundError(2, "out of memory"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as info, explain_out_of_memory("answering", "less"):
        raise error
    assert info.value is error


def too_much(*args, **kwargs):
    torch.empty(TOO_MUCH)


def test_every_way_of_asking_says_it(tiny_model, tiny_processor, monkeypatch):
    tiny_vlm = VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 6), adaptive=(1, 4)))
    picture = np.zeros((40, 40, 3), dtype=np.uint8)
    page = tiny_vlm.open(picture)
    monkeypatch.setattr(tiny_vlm.model.model.language_model, "forward", too_much)
    refused = r"^out of memory while answering, .*: lower the pyramid's budgets, ask fewer at once, or load with"
    for ask in (
        lambda: tiny_vlm.ask(picture, "?"),
        lambda: list(tiny_vlm.stream(picture, "?")),
        lambda: tiny_vlm.batch([(picture, "?")]),
        lambda: page.ask("?"),
    ):
        with pytest.raises(ShortOfMemoryError, match=refused):
            ask()
    with pytest.raises(
        ShortOfMemoryError, match=r"^out of memory while reading the picture, .*: lower the pyramid's budgets, or close"
    ):
        tiny_vlm.open(picture)


def test_the_copies_that_answers_of_an_open_picture_need(tiny_model, tiny_processor, monkeypatch):
    page = VisionLanguageModel(tiny_model(), tiny_processor()).open(np.zeros((40, 40, 3), dtype=np.uint8))
    monkeypatch.setattr(PrefixCache, "inputs", too_much)
    with pytest.raises(
        ShortOfMemoryError, match="^out of memory while answering, .*: lower the pyramid's budgets, ask fewer at once"
    ):
        page.ask_many(["?", "!"])


def test_weights_that_do_not_fit_are_no_broken_folder():
    with pytest.raises(ShortOfMemoryError, match=r"^out of memory while loading here, .*: load with a smaller dtype, quantize"):
        load_strictly(too_much, "here")
