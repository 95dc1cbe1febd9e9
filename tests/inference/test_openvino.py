"""OpenVINO in torch's place: the same answers, torch wherever it can't give them, and a network that nothing is done to."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import minimonkey
from minimonkey.compression import CompressionSpec
from minimonkey.errors import MissingExtraError, ShortOfMemoryError, UsageError
from minimonkey.inference import VisionLanguageModel, loading, openvino
from minimonkey.inference.openvino import OpenVINOBackend

MONKEY, PLAIN = "minimonkey-internlm2-56", "internvl2-qwen2-56"
ENCODER, PREFILL = 1, 3
"""Tensors that a compiled program takes."""
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6}
PICTURE = Image.effect_noise((90, 40), 90).convert("RGB")


@pytest.fixture(autouse=True)
def short_prompts(monkeypatch):
    monkeypatch.setattr(openvino, "MIN_PROMPT_TOKENS", 4)


@pytest.fixture
def runs(monkeypatch):
    """How many tensors each run of a compiled program took."""
    counted = []
    original = openvino.compiled

    def counting(*args):
        run = original(*args)
        return lambda *tensors: counted.append(len(tensors)) or run(*tensors)

    monkeypatch.setattr(openvino, "compiled", counting)
    return counted


@pytest.fixture
def pair(tiny_model, tiny_processor):
    """Make a model under torch and the same under OpenVINO: `pair("qwen2", change=...)`."""

    def make(text="qwen2", change=lambda model: None):
        processor = tiny_processor(detail=(1, 6), adaptive=(1, 4))
        models = [tiny_model(text) for _ in range(2)]
        for model in models:
            change(model)
        return VisionLanguageModel(models[0], processor), VisionLanguageModel(
            models[1], processor, None, OpenVINOBackend(models[1])
        )

    return make


def same(ours, torchs):
    assert (ours.text, ours.token_ids) == (torchs.text, torchs.token_ids)
    assert ours.mean_logprob == pytest.approx(torchs.mean_logprob, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "attention"), [("qwen2", "sdpa"), ("llama", "sdpa"), ("phi3", "sdpa"), ("qwen3", "sdpa"), ("llama", "eager")]
)
def test_answers_are_those_of_torch(pair, runs, text, attention):
    torchs, ours = pair(text, lambda model: model.set_attn_implementation("eager") if attention == "eager" else None)
    own = ours.model.model.language_model.config._attn_implementation
    same(ours.ask(PICTURE, "What is it?", **LENGTH), torchs.ask(PICTURE, "What is it?", **LENGTH))
    assert runs == [ENCODER, PREFILL], "tokens behind the prompt are torch's"
    same(ours.ask([], "What is it?", **LENGTH), torchs.ask([], "What is it?", **LENGTH))
    assert runs[2:] == [PREFILL]
    assert "".join(ours.stream(PICTURE, "?", **LENGTH)) == torchs.ask(PICTURE, "?", **LENGTH).text
    assert ours.model.model.language_model.config._attn_implementation == own


def test_features_are_those_of_torch(pair, runs):
    torchs, ours = pair()
    tiles = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    tiles[2] = tiles[0]
    expected = torchs.backend.encode(tiles).pooler_output
    torch.testing.assert_close(ours.backend.encode(tiles).pooler_output, expected, rtol=1e-4, atol=1e-4)
    expected = torchs.backend.encode(tiles, cls_attention=True).attentions[0]
    torch.testing.assert_close(ours.backend.encode(tiles, cls_attention=True).attentions[0], expected)
    assert runs == [ENCODER]


def test_bfloat16_stays_bfloat16(pair):
    torchs, ours = pair(change=lambda model: model.to(torch.bfloat16))
    tiles = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    before, after = (vlm.backend.encode(tiles).pooler_output for vlm in (torchs, ours))
    assert after.dtype == torch.bfloat16
    assert (after - before).float().norm() < 0.03 * before.float().norm()


@pytest.mark.parametrize("spec", ["scm", "uniform", "downsample", "visionzip", "divprune", "cdpruner"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_compressed_answers_are_those_of_torch(pair, runs, spec, positions):
    torchs, ours = pair()
    compression = CompressionSpec(spec, 0.5, positions=positions)
    answers = [vlm.ask(PICTURE, "What is it?", compression=compression, **LENGTH) for vlm in (ours, torchs)]
    same(*answers)
    assert [one.selected.tolist() for one in answers[0].selections] == [one.selected.tolist() for one in answers[1].selections]
    inside = spec == "scm" and positions == "original"
    assert runs == [ENCODER] * (spec != "visionzip") + [PREFILL] * (not inside)


def test_an_open_picture_is_read_by_it(pair, runs):
    torchs, ours = pair()
    with ours.open(PICTURE) as opened, torchs.open(PICTURE) as fresh:
        assert runs == [ENCODER, PREFILL]
        for question in ("What is it?", "Who signed it?"):
            same(opened.ask(question, **LENGTH), fresh.ask(question, **LENGTH))
        assert runs == [ENCODER, PREFILL], "a question costs its own tokens, which torch reads"
    spec = CompressionSpec("uniform", 0.5)
    with ours.open(PICTURE, compression=spec) as opened, torchs.open(PICTURE, compression=spec) as fresh:
        same(opened.ask("What is it?", **LENGTH), fresh.ask("What is it?", **LENGTH))
    assert runs[2:] == [ENCODER, PREFILL]


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_what_it_can_not_do_is_left_to_torch(pair, runs, settings):
    torchs, ours = pair()
    same(ours.ask(PICTURE, "?", **LENGTH, **settings), torchs.ask(PICTURE, "?", **LENGTH, **settings))
    rows = [(PICTURE, "?"), (PICTURE, "What is it?")]
    for one, other in zip(ours.batch(rows, **LENGTH), torchs.batch(rows, **LENGTH), strict=True):
        same(one, other)
    assert set(runs) == {ENCODER}


@pytest.mark.parametrize(("beyond", "read_by"), [(1, [ENCODER]), (0, [ENCODER, PREFILL])])
def test_a_window_smaller_than_the_prompt_is_left_to_torch(pair, runs, beyond, read_by):
    length = 0

    def narrow(model):
        model.model.language_model.config.sliding_window = length - beyond

    torchs, _ = pair("phi3")
    length = torchs.ask(PICTURE, "?", **LENGTH).prompt_tokens
    torchs, ours = pair("phi3", narrow)
    same(ours.ask(PICTURE, "?", **LENGTH), torchs.ask(PICTURE, "?", **LENGTH))
    assert runs == read_by


@pytest.mark.parametrize(("name", "window"), [(MONKEY, None), (MONKEY, 64), (PLAIN, None)])
def test_published_models_answer_as_under_torch(golden, runs, name, window):
    """InternLM2, within its dynamic rope's window and beyond, and Qwen2."""
    vlm, ours = (minimonkey.load(golden / name, device="cpu", dtype="float32", engine=engine) for engine in (None, "openvino"))
    if window is not None:
        for opened in (vlm, ours):
            opened.model.model.language_model.rotary_emb.trained_length = window
    picture = Image.open(golden / "pixels" / "wide_receipt.png").convert("RGB")
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    for question in ("What is the total?", "Read the text."):
        assert ours.ask(picture, question, **settings).token_ids == vlm.ask(picture, question, **settings).token_ids
    assert ENCODER in runs and runs.count(PREFILL) == 2, "each prompt, and nothing else"


def test_the_network_stays_plain_torch(pair):
    torchs, ours = pair()
    for one, other in zip(ours.model.modules(), torchs.model.modules(), strict=True):
        assert type(one) is type(other) and "forward" not in vars(one) and one.training == other.training
        assert not one._forward_hooks and not one._forward_pre_hooks
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        in_place(ours.model)
    same(twin.ask(PICTURE, "?", **LENGTH), torchs.ask(PICTURE, "?", **LENGTH))
    assert twin.backend.network is twin.model is not ours.model


def in_place(model):
    for parameter in model.parameters():
        parameter.mul_(1.25)


def by_data(model):
    """As peft merges: torch's own counter of changes doesn't see it."""
    for parameter in model.parameters():
        parameter.data += 0.1 * parameter.data.sign()


def by_state_dict(model):
    model.load_state_dict({name: tensor * 1.25 for name, tensor in model.state_dict().items()})


def by_training(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.enable_grad():
        ids = torch.arange(20, 40)[None]
        model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("change", [in_place, by_data, by_state_dict, by_training])
def test_changed_weights_are_compiled_anew(pair, runs, change):
    torchs, ours = pair()
    before = ours.ask(PICTURE, "?", **LENGTH).mean_logprob
    with torch.no_grad():
        change(ours.model)
        change(torchs.model)
    same(ours.ask(PICTURE, "?", **LENGTH), torchs.ask(PICTURE, "?", **LENGTH))
    assert ours.ask(PICTURE, "?", **LENGTH).mean_logprob != before
    assert runs == [ENCODER, PREFILL] * 3, "compiled, and run by the new programs"


def test_hooks_and_training_are_torchs(pair, runs):
    torchs, ours = pair()
    seen = []
    handle = ours.model.model.language_model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    same(ours.ask(PICTURE, "?", **LENGTH), torchs.ask(PICTURE, "?", **LENGTH))
    assert seen and runs == []
    handle.remove()
    ours.model.train()
    ours.ask(PICTURE, "?", **LENGTH)
    assert runs == []
    ours.model.eval()
    ours.ask(PICTURE, "?", **LENGTH)
    assert runs == [ENCODER, PREFILL]


def test_a_foreign_module_is_torchs(pair, runs):
    """As an adapter of peft is, which can be switched off at any time."""

    class Adapter(torch.nn.Linear):
        pass

    torchs, ours = pair()
    for vlm in (torchs, ours):
        attention = vlm.model.model.language_model.layers[0].self_attn
        adapter = Adapter(attention.o_proj.in_features, attention.o_proj.out_features, bias=False)
        adapter.load_state_dict({"weight": 2 * attention.o_proj.weight.data})
        attention.o_proj = adapter
    same(ours.ask(PICTURE, "?", **LENGTH), torchs.ask(PICTURE, "?", **LENGTH))
    assert runs == []


def test_threads_get_their_own_answers(pair, runs):
    _, ours = pair("llama")
    pictures = [Image.effect_noise((90, 40), 10 * sigma).convert("RGB") for sigma in range(1, 9)]

    def answer(picture):
        return [ours.ask(picture, "?", **LENGTH).token_ids for _ in range(4)]

    serial = [answer(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, pictures)) == serial
    assert len(runs) == 2 * 2 * 32


def unknown_operation(model, monkeypatch):
    monkeypatch.setattr(
        type(model.model.language_model.layers[1].mlp), "forward", lambda self, hidden: torch.special.bessel_j0(hidden)
    )


def untraceable(model, monkeypatch):
    def stumble(self, hidden):
        raise TypeError("no such hidden states\nand more")

    monkeypatch.setattr(type(model.model.language_model.layers[1].mlp), "forward", stumble)


def refused_setting(model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: -5)


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (unknown_operation, r"Model wasn't fully converted\. .*aten::special_bessel_j0"),
        (untraceable, "no such hidden states and more"),
        (refused_setting, "Wrong value .* INFERENCE_NUM_THREADS.*"),
    ],
)
def test_a_refusal_is_one_line(tiny_model, monkeypatch, obstacle, reason):
    model = tiny_model("llama")
    obstacle(model, monkeypatch)
    with pytest.raises(UsageError, match=rf"^this model can't run under engine='openvino' \({reason}\): leave engine out$") as info:
        OpenVINOBackend(model)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("reason", "wrong", "said"),
    [
        ("no such shape", UsageError, r"^this model can't run under engine='openvino' \(no such shape\): leave engine out$"),
        ("std::bad_alloc", ShortOfMemoryError, "^out of memory while answering: leave engine out, which keeps"),
    ],
)
def test_an_answer_that_openvino_gives_up_is_one_line(tiny_model, monkeypatch, reason, wrong, said):
    def give_up(*args, **kwargs):
        raise RuntimeError(f"Check 'ok' failed at src/x.cpp:1:\n{reason}")

    monkeypatch.setattr(openvino, "_program", lambda *args: give_up)
    with pytest.raises(wrong, match=said):
        OpenVINOBackend(tiny_model("qwen2")).encode(torch.zeros(1, 3, 28, 28))


def test_other_language_models_are_refused(tiny_model):
    with pytest.raises(UsageError, match="^engine='openvino' reads with .*; this language model is gemma: leave engine out$"):
        OpenVINOBackend(tiny_model("gemma"))


def test_without_openvino(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minimonkey\[openvino\]'"):
        OpenVINOBackend(tiny_model("qwen2"))


def test_numbers_that_it_does_not_compute_in(tiny_model):
    with pytest.raises(
        UsageError, match=r"^engine='openvino' computes float32 .* this model has torch\.float16 on cpu: leave engine out$"
    ):
        OpenVINOBackend(tiny_model("qwen2").to(torch.float16))


def test_load_takes_it(monkeypatch):
    monkeypatch.setattr(loading, "OpenVINOBackend", lambda network: ("a backend", network))
    vlm = minimonkey.load(engine="openvino")
    assert vlm.backend == ("a backend", vlm.model)
    assert type(minimonkey.load().backend).__name__ == "TorchBackend"
    with pytest.raises(UsageError, match="^engine='onnx': expected 'openvino', or nothing for torch$"):
        minimonkey.load(engine="onnx")
