"""Rivals in turn, rounds that don't count, seconds that a call tells itself; every figure of `bench`, on a tiny model."""

import time
from dataclasses import asdict

import pytest
import torch

from minimonkey.errors import PromptError
from minimonkey.evaluation import speed
from minimonkey.inference import VisionLanguageModel
from minimonkey.pyramid import Size


@pytest.fixture
def vlm(tiny_model, tiny_processor):
    return VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 4), adaptive=None))


def test_rivals_take_turns_after_a_round_that_does_not_count():
    called = []
    calls = {"one": lambda: called.append("one"), "other": lambda: called.append("other")}
    taken = speed.alternate(calls, rounds=2, warm_up=1)
    assert called == ["one", "other"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"one": 2, "other": 2}


def test_what_is_timed_ends_when_the_accelerator_has_done_it(monkeypatch):
    begun, waited = [], []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append(len(begun)))
    speed.alternate({"one": lambda: begun.append("one")}, rounds=2, warm_up=0)
    assert waited == [0, 1, 1, 2]


def test_a_call_may_say_its_seconds_itself():
    said = iter((100.0, 3.0, 1.0, 8.0))
    calls = {"told": lambda: next(said), "timed": lambda: time.sleep(0.01)}
    taken = speed.alternate(calls, rounds=3)
    assert taken["told"] == [3.0, 1.0, 8.0]
    assert all(seconds >= 0.01 for seconds in taken["timed"])


def test_medians_without_warming_up():
    said = iter((5.0, 1.0, 3.0))
    assert speed.medians({"told": lambda: next(said)}, rounds=3, warm_up=0) == {"told": 3.0}


def test_a_page_of_noise_is_the_same_each_time_and_its_tiles_differ():
    page = speed.noise_page(Size(60, 40))
    assert page.size == (40, 60)
    assert page.tobytes() == speed.noise_page(Size(60, 40)).tobytes() != speed.noise_page(Size(60, 40), seed=1).tobytes()
    assert page.crop((0, 0, 20, 20)).tobytes() != page.crop((20, 0, 40, 20)).tobytes()


def test_every_figure(vlm):
    done = []
    found = speed.measure(vlm, speed.noise_page(Size(60, 90)), done=done.append)
    assert tuple(done) == speed.STAGES
    assert (found.tiles, found.image_tokens, found.new_tokens) == (5, 20, 32)
    asked = vlm.processor.encode_chat(speed.QUESTIONS[0], pictures=[5])
    assert found.prompt_tokens == len(asked)
    assert all(value > 0 for value in asdict(found).values())
    assert vlm.cache_bytes == 0, "the pictures that were opened are closed again"


def test_figures_follow_from_what_was_timed(vlm, monkeypatch):
    seconds = {"all": 0.5, "whole": 2.0, "half": 1.0, "total": 4.1, "first": 1.0}
    seconds |= {"open": 3.0, "second": 0.25, "eight": 5.0, "close": 0.0}
    monkeypatch.setattr(speed, "medians", lambda calls, rounds, warm_up: {name: seconds[name] for name in calls})
    found = speed.measure(vlm, speed.noise_page(Size(60, 90)))
    assert found.encode_ms_a_tile == 100.0
    assert found.prompt_tokens_a_s == found.prompt_tokens / 2
    assert (found.cut_s, found.first_token_s, found.open_s, found.second_question_s) == (0.5, 1.0, 3.0, 0.25)
    assert found.new_tokens_a_s == pytest.approx(31 / 3.1)
    assert (found.eight_questions_s, found.eight_fresh_s) == (8.0, pytest.approx(32.8))
    assert found.compressed_share == 0.5


def test_what_takes_long_is_timed_once(vlm, monkeypatch):
    rounds = []
    monkeypatch.setattr(
        speed, "medians", lambda calls, *how: rounds.append(how) or {name: float(place) for place, name in enumerate(calls, 1)}
    )
    for patience in (0.0, 1e9):
        monkeypatch.setattr(speed, "PATIENCE_S", patience)
        speed.measure(vlm, speed.noise_page(Size(60, 90)))
    assert rounds == [(1, 0)] * 5 + [(3, 1)] * 5


def test_half_of_the_detail_tokens_are_left_out(vlm, monkeypatch):
    parts = speed._Parts(vlm, speed.noise_page(Size(60, 90)))
    parts.encode()
    kept = []
    compress = vlm.model.model.compress
    monkeypatch.setattr(vlm.model.model, "compress", lambda *args, **how: kept.append(compress(*args, **how)) or kept[-1])
    parts.read()
    assert not kept
    parts.read(speed.HALF)
    assert kept[0].selections[0].selected.numel() == 8


def test_a_picture_of_one_tile_has_nothing_to_leave_out(vlm):
    assert speed.measure(vlm, speed.noise_page(Size(28, 28))).compressed_share is None


def test_a_picture_that_is_too_long_is_said_so(tiny_model, tiny_processor):
    vlm = VisionLanguageModel(tiny_model(max_position_embeddings=90), tiny_processor(detail=(4, 4), adaptive=None))
    with pytest.raises(PromptError, match="lower the pyramid's budgets"):
        speed.measure(vlm, speed.noise_page(Size(60, 90)))


def test_gradients_are_not_kept(vlm):
    parts = speed._Parts(vlm, speed.noise_page(Size(60, 90)))
    parts.encode()
    assert torch.is_grad_enabled()
    assert not parts.encoded.pooler_output.requires_grad
