"""Open pictures: the answers of fresh calls, for the price of the question; what is kept is counted, bounded and let go of."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import minimonkey
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import PictureError, PromptError, UsageError
from minimonkey.inference import OpenPicture, VisionLanguageModel
from minimonkey.inference.prefix_cache import common_length
from minimonkey.language_model.layers import CACHE
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.pyramid import Size

QUESTIONS = ["?", "What is the total?", "By whom is it signed, and when? Say it in a few words."]
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.9], "long_factor": [1.5, 2.5, 4.0, 9.0]}
LONG = {"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, **FACTORS}}
SLIDING = {"use_sliding_window": True, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": ("llama", {}),
    "llama, dynamic rope": ("llama", DYNAMIC),
    "qwen2": ("qwen2", {}),
    "qwen2 that sees 24 tokens in a layer": ("qwen2", SLIDING),
    "phi3": ("phi3", {}),
    "phi3 that sees 24 tokens": ("phi3", {"sliding_window": 24}),
    "phi3, longrope": ("phi3", LONG | {"original_max_position_embeddings": 1024}),
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


WIDE, TALL = picture(90, 40), picture(30, 100, seed=1)


@pytest.fixture
def made(tiny_config, tiny_processor):
    """Make a random model of a family: `made("llama", max_position_embeddings=64)` takes settings of the language model."""

    def make(text: str = "llama", **fields) -> VisionLanguageModel:
        config = tiny_config(text).to_dict()
        config["text_config"] |= fields
        model = MiniMonkeyForConditionalGeneration(MiniMonkeyConfig(**config)).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        return VisionLanguageModel(model, tiny_processor(detail=(1, 6), adaptive=(1, 4)))

    return make


@pytest.fixture
def vlm(made):
    return made()


def same(answer, fresh) -> None:
    """Two answers that say the same, for the same prompt, as surely."""
    for name in ("token_ids", "text", "prompt_tokens", "image_tokens", "pyramids", "boxes"):
        assert getattr(answer, name) == getattr(fresh, name), name
    assert answer.mean_logprob == pytest.approx(fresh.mean_logprob, abs=1e-4)
    assert kept(answer) == kept(fresh)


def kept(answer) -> list[tuple[int, list[int]]]:
    """Which detail tokens are left of which pictures."""
    return [(one.picture, one.selected.tolist()) for one in answer.selections]


def watch(vlm) -> tuple[list[int], list[int]]:
    """Lists to which each run of the language model adds its tokens a row, and each run of the vision encoder its tiles."""
    tokens, tiles = [], []

    def note(module, arguments, settings):
        tokens.append(settings["inputs_embeds"].shape[1])

    vlm.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    vlm.model.model.vision_tower.register_forward_pre_hook(
        lambda module, arguments, settings: tiles.append(len(settings["pixel_values"])), with_kwargs=True
    )
    return tokens, tiles


def ids_of(vlm, question: str) -> list[int]:
    """The prompt of a question about WIDE."""
    tiles = vlm.processor.image_processor.spec.plan(Size(WIDE.height, WIDE.width)).tile_count
    return vlm.processor.encode_chat(question, pictures=[tiles])


def prefix_length(vlm) -> int:
    """Tokens of a prompt about WIDE that don't depend on the question."""
    return common_length(ids_of(vlm, "a"), ids_of(vlm, "b"))


# -- the answers of fresh calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "fields"), FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("pictures", [[WIDE], [TALL, WIDE]], ids=["one picture", "two"])
def test_answers_are_those_of_fresh_calls(made, text, fields, pictures):
    vlm = made(text, **fields)
    fresh = [vlm.ask(pictures, question, max_new_tokens=10) for question in QUESTIONS]
    assert len({tuple(answer.token_ids) for answer in fresh}) > 1
    with vlm.open(pictures) as opened:
        assert opened.pyramids == fresh[0].pyramids
        for _ in range(2):
            for question, answer in zip(QUESTIONS, fresh, strict=True):
                same(opened.ask(question, max_new_tokens=10), answer)
            for together, answer in zip(opened.ask_many(QUESTIONS, max_new_tokens=10), fresh, strict=True):
                same(together, answer)
        assert "".join(opened.stream(QUESTIONS[1], max_new_tokens=10)) == fresh[1].text


@pytest.mark.parametrize("name", ["minimonkey-internlm2-56", "internvl2-qwen2-56"])
@pytest.mark.parametrize("picture", ["wide_receipt", "near_square"])
def test_published_folders(golden, name, picture):
    vlm = minimonkey.load(golden / name, device="cpu", dtype="float32")
    page = Image.open(golden / "pixels" / f"{picture}.png")
    fresh = [vlm.ask(page, question, max_new_tokens=12) for question in QUESTIONS]
    with vlm.open(page) as opened:
        history = [(f"<image>\n{QUESTIONS[1]}", fresh[1].text)]
        for question, answer in zip(QUESTIONS, fresh, strict=True):
            same(opened.ask(question, max_new_tokens=12), answer)
        for together, answer in zip(opened.ask_many(QUESTIONS, max_new_tokens=12), fresh, strict=True):
            same(together, answer)
        same(opened.ask("And?", history=history, max_new_tokens=12), vlm.ask(page, "And?", history=history, max_new_tokens=12))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention(vlm, attention):
    vlm.model.set_attn_implementation(attention)
    fresh = [vlm.ask(WIDE, question, max_new_tokens=8) for question in QUESTIONS]
    with vlm.open(WIDE) as opened:
        for answer, expected in zip(opened.ask_many(QUESTIONS, max_new_tokens=8), fresh, strict=True):
            same(answer, expected)
        same(opened.ask(QUESTIONS[2], max_new_tokens=8), fresh[2])


def test_system_pyramid_and_settings_of_generate(vlm):
    plain = {"detail": (1, 2), "adaptive": None}
    with vlm.open(WIDE, system="Be brief.", pyramid=plain) as opened:
        fresh = vlm.ask(WIDE, "What?", system="Be brief.", pyramid=plain, max_new_tokens=12)
        assert opened.pyramids[0].level_tiles == (2, 0, 1)
        same(opened.ask("What?", max_new_tokens=12), fresh)
        stop = fresh.token_ids[3]
        assert fresh.token_ids.index(stop) == 3
        assert opened.ask("What?", max_new_tokens=12, eos_token_id=stop).token_ids == fresh.token_ids[:3]
        ended = opened.ask_many(["What?", "Who is it?"], max_new_tokens=12, eos_token_id=stop)
        assert ended[0].token_ids == fresh.token_ids[:3]
        settings = {"repetition_penalty": 1.7, "max_new_tokens": 12, "system": "Be brief.", "pyramid": plain}
        penalised = vlm.ask(WIDE, "What?", **settings)
        assert penalised.token_ids != fresh.token_ids
        assert opened.ask("What?", repetition_penalty=1.7, max_new_tokens=12).token_ids == penalised.token_ids


def test_text_alone(vlm):
    fresh = vlm.ask([], "Hello?", system="Be brief.", max_new_tokens=6)
    with vlm.open([], system="Be brief.") as opened:
        same(opened.ask("Hello?", max_new_tokens=6), fresh)
        assert opened.ask_many([]) == []


def test_histories(vlm):
    """Whatever they place where: those that begin with the pictures, those that don't, and marks in the middle."""
    marked = [("<image>\n<image>\nWhat is it?", "Two pages.")]
    middle = [("Is <image> as wide as <image>?", "No.")]
    tokens, tiles = watch(vlm)
    with vlm.open([WIDE, TALL]) as opened:
        encoded = len(tiles)
        known = tokens[0]
        for history in (marked, middle, [("Hello", "Hi.")], [("First <image>.", "Yes.")]):
            question = "And <image>?" if "First" in history[0][0] else "And?"
            tokens.clear()
            answers = [
                opened.ask(question, history=history, max_new_tokens=8),
                *opened.ask_many([question] * 2, history=history, max_new_tokens=8),
            ]
            fed = tokens[0]
            assert len(tiles) == encoded, "no picture is encoded again"
            fresh = vlm.ask([WIDE, TALL], question, history=history, max_new_tokens=8)
            encoded = len(tiles)
            for answer in answers:
                same(answer, fresh)
            assert (fed <= fresh.prompt_tokens - known) == (history is marked)


# -- the price of a question -------------------------------------------------------------------------------------------


def test_a_question_costs_its_own_tokens(vlm):
    tokens, tiles = watch(vlm)
    with vlm.open(WIDE) as opened:
        known = prefix_length(vlm)
        assert tokens == [known]
        assert sum(tiles) == opened.pyramids[0].tile_count
        del tiles[:]
        for question in QUESTIONS:
            tokens.clear()
            answer = opened.ask(question, max_new_tokens=3)
            assert tokens == [answer.prompt_tokens - known, 1, 1]
        tokens.clear()
        answers = opened.ask_many(QUESTIONS, max_new_tokens=3)
        assert tokens == [max(answer.prompt_tokens for answer in answers) - known, 1, 1]
        assert not tiles


def test_the_same_question_again_costs_one_token(vlm):
    tokens, _ = watch(vlm)
    with vlm.open(WIDE) as opened:
        once = opened.ask(QUESTIONS[1], max_new_tokens=4)
        tokens.clear()
        same(opened.ask(QUESTIONS[1], max_new_tokens=4), once)
        assert tokens == [1, 1, 1, 1]


def test_a_conversation_costs_what_is_new(vlm):
    """Each turn is a fresh call's with that history, and reads neither picture nor earlier turns again."""
    tokens, tiles = watch(vlm)
    history, before = [], 0
    with vlm.open(WIDE) as opened:
        for turn, question in enumerate(QUESTIONS):
            asked = question if turn else f"<image>\n{question}"
            tokens.clear()
            tiles.clear()
            answer = opened.ask(asked, history=history, max_new_tokens=7)
            fed, seen = tokens[0], list(tiles)
            same(answer, vlm.ask(WIDE, asked, history=history, max_new_tokens=7))
            assert not seen
            if turn:  # all but the end of the answer before, whose text may have other tokens than were said
                assert fed <= answer.prompt_tokens - before
            before = answer.prompt_tokens
            history.append((asked, answer.text))


def test_an_answer_that_reads_as_it_was_said_isnt_read_again(vlm):
    said = vlm.processor.tokenizer("The cat.").input_ids + [vlm.processor.tokenizer.eos_token_id]
    steps = iter(said)

    def write(module, arguments, output):
        output.logits[:] = 0
        output.logits[:, -1, next(steps, said[0])] = 4

    with vlm.open(WIDE) as opened:
        vlm.model.register_forward_hook(write)
        first = opened.ask("<image>\nWho?")
        assert first.text == "The cat."
        tokens, _ = watch(vlm)
        second = opened.ask("Why?", history=[("<image>\nWho?", "The cat.")], max_new_tokens=1)
        assert tokens == [second.prompt_tokens - first.prompt_tokens - len(first.token_ids)]


def test_a_stream_that_is_closed_leaves_the_picture_open(vlm):
    with vlm.open(WIDE) as opened:
        expected = opened.ask("What?", max_new_tokens=30)
        stream = opened.stream("What?", max_new_tokens=30)
        next(stream)
        stream.close()
        same(opened.ask("What?", max_new_tokens=30), expected)


def test_nothing_that_is_kept_is_changed(vlm):
    with vlm.open(WIDE) as opened:
        kept = opened._cached.prefix
        copies = [tensor.clone() for layer in kept.layers for tensor in layer]
        opened.ask(QUESTIONS[1], max_new_tokens=5)
        later = opened._cached.prefix
        opened.ask_many(QUESTIONS, max_new_tokens=5)
        opened.ask("And?", history=[("<image>", "yes")], max_new_tokens=5)
        for tensor, copy in zip((tensor for layer in kept.layers for tensor in layer), copies, strict=True):
            assert torch.equal(tensor, copy)
        for tensor, copy in zip((tensor for layer in later.layers for tensor in layer), copies, strict=True):
            assert torch.equal(tensor[:, :, : len(kept.ids)], copy)


# -- positions that depend on the length -------------------------------------------------------------------------------


def windowed(made, room: int, family: str, **fields) -> VisionLanguageModel:
    """A model whose rope changes so many tokens behind the end of the prompt "What?" about WIDE."""
    window = len(ids_of(made(), "What?")) + room
    if family == "dynamic":
        return made("llama", rope_parameters=DYNAMIC["rope_parameters"] | {"factor": 8.0}, max_position_embeddings=window, **fields)
    return made("phi3", **LONG, original_max_position_embeddings=window, **fields)


@pytest.mark.parametrize("family", ["dynamic", "longrope"])
def test_a_question_beyond_the_window_is_read_anew(made, family):
    short, long = "What?", "What is the total, and who has signed it when, and in which place? " * 2
    vlm = windowed(made, 0, family)
    fresh = [vlm.ask(WIDE, question, max_new_tokens=8) for question in (short, long)]
    tokens, tiles = watch(vlm)
    with vlm.open(WIDE) as opened:
        encoded = len(tiles)
        for question, answer in zip((short, long, short), (*fresh, fresh[0]), strict=True):
            tokens.clear()
            same(opened.ask(question, max_new_tokens=8), answer)
            assert (tokens[0] == answer.prompt_tokens) == (question == long)
        for answer, expected in zip(opened.ask_many([short, long], max_new_tokens=8), fresh, strict=True):
            same(answer, expected)
        assert len(tiles) == encoded


@pytest.mark.parametrize("family", ["dynamic", "longrope"])
def test_an_answer_that_crosses_the_window(made, family):
    vlm = windowed(made, 3, family)
    history = []
    with vlm.open(WIDE) as opened:
        for question in ("<image>\nWhat?", "Why?", "Where?"):
            answer = opened.ask(question, history=history, max_new_tokens=12)
            same(answer, vlm.ask(WIDE, question, history=history, max_new_tokens=12))
            history.append((question, answer.text))
        same(opened.ask("What?", max_new_tokens=12), vlm.ask(WIDE, "What?", max_new_tokens=12))


def test_a_picture_beyond_the_window(made):
    """Dynamic rope turns all positions anew with each token more: only the image tokens can be kept."""
    vlm = windowed(made, -25, "dynamic")
    with vlm.open(WIDE) as opened:
        assert opened.cache_bytes == 4 * opened.ask("?", max_new_tokens=1).image_tokens * 32
        for question in QUESTIONS:
            same(opened.ask(question, max_new_tokens=6), vlm.ask(WIDE, question, max_new_tokens=6))


def test_a_picture_beyond_the_first_window(made):
    """Longrope has one rule for all lengths beyond: what was read by it stays."""
    vlm = windowed(made, -25, "longrope")
    tokens, _ = watch(vlm)
    with vlm.open(WIDE) as opened:
        known = tokens[0]
        for question in QUESTIONS:
            tokens.clear()
            answer = opened.ask(question, max_new_tokens=6)
            assert tokens[0] <= answer.prompt_tokens - known
            same(answer, vlm.ask(WIDE, question, max_new_tokens=6))


# -- pictures that are compressed --------------------------------------------------------------------------------------

SCM = CompressionSpec("scm", 0.4, queries="vision")
SPECS = {
    "scm": SCM,
    "scm anew": CompressionSpec("scm", 0.4, queries="vision", positions="compact"),
    "scm by tile": CompressionSpec("scm", queries="vision", budget="tile"),
    "nothing stays": CompressionSpec("scm", 0.01, queries="vision"),
    "all stays": CompressionSpec("scm", 1, queries="vision"),
    "random": CompressionSpec("random", 0.3),
    "uniform": CompressionSpec("uniform"),
    "uniform anew": CompressionSpec("uniform", positions="compact"),
    "downsample": CompressionSpec("downsample"),
    "visionzip": CompressionSpec("visionzip"),
    "divprune": CompressionSpec("divprune", positions="compact"),
    "cdpruner": CompressionSpec("cdpruner", queries="vision"),
    "mmr": CompressionSpec("mmr", queries="vision"),
}
SHORT = [SPECS[name] for name in ("scm", "scm anew", "uniform", "uniform anew")]


def named(spec: CompressionSpec) -> str:
    return f"{spec.selector}-{spec.positions}"


def compare(vlm, pictures, spec, **settings) -> None:
    """Ask in every way, and with a history that goes on from the pictures and one that has them elsewhere."""
    settings["max_new_tokens"] = 6
    fresh = [vlm.ask(pictures, question, compression=spec, **settings) for question in QUESTIONS]
    marks = "<image>\n" * len(pictures)
    with vlm.open(pictures, compression=spec) as opened:
        for answer, question in zip(fresh, QUESTIONS, strict=True):
            same(opened.ask(question, **settings), answer)
        for answer, together in zip(fresh, opened.ask_many(QUESTIONS, **settings), strict=True):
            same(together, answer)
        assert "".join(opened.stream(QUESTIONS[1], **settings)) == fresh[1].text
        history = []
        for question in (marks + "What?", "Why?", "Where?"):
            answer = opened.ask(question, history=history, **settings)
            same(answer, vlm.ask(pictures, question, history=history, compression=spec, **settings))
            history.append((question, answer.text))
        history = [("Hello", "Hi.")]
        same(
            opened.ask("What?", history=history, **settings),
            vlm.ask(pictures, "What?", history=history, compression=spec, **settings),
        )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_compressed_answers_are_those_of_fresh_calls(made, spec):
    vlm = made(num_hidden_layers=4)
    compare(vlm, [TALL, WIDE], spec)
    plain, short = (vlm.ask([TALL, WIDE], "What?", compression=choice, max_new_tokens=1) for choice in (None, spec))
    assert [one.picture for one in short.selections] == [0, 1]
    assert (plain.mean_logprob == pytest.approx(short.mean_logprob, abs=1e-5)) == (spec.keep_ratio == 1)


@pytest.mark.parametrize("spec", SHORT, ids=named)
@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("llama", DYNAMIC),
        ("qwen2", {"layer_types": ["full_attention"] * 4}),
        ("qwen2", SLIDING | {"layer_types": SLIDING["layer_types"] * 2}),
        ("phi3", {"sliding_window": 24}),
        ("phi3", LONG | {"original_max_position_embeddings": 1024}),
    ],
    ids=["dynamic rope", "qwen2", "qwen2 with windows", "phi3 with windows", "longrope"],
)
def test_compressed_answers_of_every_family(made, text, fields, spec):
    compare(made(text, num_hidden_layers=4, **fields), [WIDE], spec)


@pytest.mark.parametrize("name", ["minimonkey-internlm2-56", "internvl2-qwen2-56"])
@pytest.mark.parametrize("spec", [SCM, SPECS["divprune"]], ids=named)
def test_compressed_pictures_of_published_folders(golden, name, spec):
    vlm = minimonkey.load(golden / name, device="cpu", dtype="float32")
    compare(vlm, [Image.open(golden / "pixels" / "near_square.png")], spec)


def reads(vlm) -> tuple[list[int], list[int]]:
    """Lists to which each run of the first and the last layer adds its tokens a row."""
    layers = vlm.model.model.language_model.layers
    seen = ([], [])
    for layer, tokens in zip((layers[0], layers[-1]), seen, strict=True):
        layer.register_forward_pre_hook(lambda layer, arguments, tokens=tokens: tokens.append(arguments[0].shape[1]))
    return seen


@pytest.mark.parametrize("spec", SHORT, ids=named)
def test_a_compressed_picture_is_read_once(made, spec):
    vlm = made(num_hidden_layers=4)
    known, dropped = prefix_length(vlm), 8 - int(8 * spec.keep_ratio)  # of two tiles
    _, tiles = watch(vlm)
    first, last = reads(vlm)
    with vlm.open(WIDE, compression=spec) as opened:
        assert opened.pyramids[0].level_tiles[0] == 2
        begins = {"scm-original": [known], "scm-compact": [known, known - dropped]}.get(named(spec), [known - dropped])
        assert (first, last) == (begins, [known - dropped])
        del tiles[:]
        for question in QUESTIONS:
            del first[:], last[:]
            answer = opened.ask(question, max_new_tokens=3)
            assert first == last == [answer.prompt_tokens - known, 1, 1]
        del first[:], last[:]
        answers = opened.ask_many(QUESTIONS, max_new_tokens=3)
        assert first == last == [max(answer.prompt_tokens for answer in answers) - known, 1, 1]
        history, before = [], 0
        for turn, question in enumerate(QUESTIONS):
            asked = question if turn else f"<image>\n{question}"
            del first[:], last[:]
            answer = opened.ask(asked, history=history, max_new_tokens=7)
            if turn:
                assert first[0] <= answer.prompt_tokens - before
            before = answer.prompt_tokens
            history.append((asked, answer.text))
        assert not tiles


@pytest.mark.parametrize("spec", SHORT, ids=named)
@pytest.mark.parametrize("family", ["dynamic", "longrope"])
def test_a_compressed_picture_beyond_the_window_is_read_anew(made, family, spec):
    short, long = "What?", "What is the total, and who has signed it when, and in which place? " * 2
    vlm = windowed(made, 0, family, num_hidden_layers=4)
    fresh = [vlm.ask(WIDE, question, compression=spec, max_new_tokens=6) for question in (short, long)]
    first, _ = reads(vlm)
    with vlm.open(WIDE, compression=spec) as opened:
        for question, answer in zip((short, long, short), (*fresh, fresh[0]), strict=True):
            del first[:]
            same(opened.ask(question, max_new_tokens=6), answer)
            assert (first[0] > len(ids_of(vlm, question)) - prefix_length(vlm)) == (question == long)
        for answer, expected in zip(opened.ask_many([short, long], max_new_tokens=6), fresh, strict=True):
            same(answer, expected)


@pytest.mark.parametrize("spec", [SPECS["scm anew"], SPECS["uniform anew"]], ids=named)
def test_the_window_as_positions_are_counted_anew(made, spec):
    """All prompts are beyond it as a whole; what is left of them is not, until a question follows."""
    vlm = windowed(made, prefix_length(made()) - 1 - len(ids_of(made(), "What?")), "longrope", num_hidden_layers=4)
    fresh = vlm.ask(WIDE, "What?", compression=spec, max_new_tokens=6)
    first, _ = reads(vlm)
    with vlm.open(WIDE, compression=spec) as opened:
        known = opened._cached.prefix
        assert len(known.ids) - known.dropped < len(known.ids) - 1
        del first[:]
        same(opened.ask("What?", max_new_tokens=6), fresh)
        assert first[0] > len(ids_of(vlm, "What?")) - prefix_length(vlm)


@pytest.mark.parametrize("spec", [SCM, SPECS["visionzip"]], ids=named)
def test_a_compressed_picture_beyond_the_window(made, spec):
    """Dynamic rope turns all positions anew with each token more: only what the encoder said can be kept."""
    vlm = windowed(made, -25, "dynamic", num_hidden_layers=4)
    _, tiles = watch(vlm)
    fresh = [vlm.ask(WIDE, question, compression=spec, max_new_tokens=4) for question in QUESTIONS]
    with vlm.open(WIDE, compression=spec) as opened:
        del tiles[:]
        assert opened.cache_bytes == 4 * fresh[0].image_tokens * (32 + 4 * (spec.selector == "visionzip"))  # patches make a token
        for answer, question in zip(fresh, QUESTIONS, strict=True):
            same(opened.ask(question, max_new_tokens=4), answer)
        for answer, together in zip(fresh, opened.ask_many(QUESTIONS, max_new_tokens=4), strict=True):
            same(together, answer)
        assert not tiles


def test_compression_of_another_order_and_system(made):
    """The demo's adaptive tiles stand before those of the detail level."""
    vlm = made(num_hidden_layers=4)
    cut = {"pyramid": {"detail": (3, 6), "adaptive": (2, 2), "order": ("adaptive", "detail", "thumbnail")}, "system": "Be brief."}
    fresh = vlm.ask(WIDE, "What?", compression=SCM, max_new_tokens=6, **cut)
    assert all(fresh.pyramids[0].level_tiles)
    with vlm.open(WIDE, compression=SCM, **cut) as opened:
        same(opened.ask("What?", max_new_tokens=6), fresh)
        penalised = vlm.ask(WIDE, "What?", compression=SCM, max_new_tokens=6, repetition_penalty=1.7, **cut)
        assert penalised.token_ids != fresh.token_ids
        same(opened.ask("What?", max_new_tokens=6, repetition_penalty=1.7), penalised)


@pytest.mark.parametrize("spec", [SCM, SPECS["visionzip"]], ids=named)
def test_compressed_pictures_by_eager_attention(made, spec):
    vlm = made(num_hidden_layers=4)
    vlm.model.set_attn_implementation("eager")
    compare(vlm, [WIDE], spec)


def test_pictures_without_a_detail_level_are_not_compressed(made):
    vlm = made(num_hidden_layers=4)
    one_tile = {"detail": (1, 1), "adaptive": None}
    with vlm.open(WIDE, pyramid=one_tile, compression=SCM) as opened:
        answer = opened.ask("What?", max_new_tokens=4)
        same(answer, vlm.ask(WIDE, "What?", pyramid=one_tile, max_new_tokens=4))
        assert answer.selections == ()
    with vlm.open([], compression=SCM) as opened:
        same(opened.ask("Hello?", max_new_tokens=4), vlm.ask([], "Hello?", max_new_tokens=4))


def test_the_model_has_a_compression_of_its_own(made):
    vlm = made(num_hidden_layers=4)
    plain, short = (vlm.ask(WIDE, "What?", compression=choice, max_new_tokens=4) for choice in (None, SCM))
    vlm = VisionLanguageModel(vlm.model, vlm.processor, compression=SCM)
    for settings, expected in (({}, short), ({"compression": None}, plain), ({"compression": {"selector": "uniform"}}, None)):
        with vlm.open(WIDE, **settings) as opened:
            same(opened.ask("What?", max_new_tokens=4), expected or vlm.ask(WIDE, "What?", max_new_tokens=4, **settings))


@pytest.mark.parametrize("spec", [*SHORT, SPECS["visionzip"], SPECS["downsample"]], ids=named)
def test_bytes_of_compressed_pictures(made, spec):
    vlm = made(num_hidden_layers=4)
    keys_and_values = 2 * 2 * 8 * 4  # both, key heads, channels, bytes; of one token in one layer
    with vlm.open(WIDE, compression=spec) as opened:
        known, dropped = prefix_length(vlm), 8 - int(8 * spec.keep_ratio)
        image_tokens = 4 * opened.pyramids[0].tile_count
        tokens = 4 * (known - dropped) + (2 * known if named(spec) == "scm-original" else 0)
        cls_bytes = 4 * 4 * image_tokens if spec.selector == "visionzip" else 0  # float32 for each patch
        assert opened.cache_bytes == opened._planned_bytes() == tokens * keys_and_values + image_tokens * 32 * 4 + cls_bytes
        before = opened.cache_bytes
        answer = opened.ask("What?", max_new_tokens=5)
        new = answer.prompt_tokens - known
        extended = 6 * new if named(spec) == "scm-original" else 4 * (new + 4)
        assert opened.cache_bytes == before + extended * keys_and_values
        held = [tensor for layer in (*opened._cached.prefix.layers, *opened._cached.prefix.early_layers) for tensor in layer]
        assert sum(tensor.untyped_storage().nbytes() for tensor in held) == opened._cached.prefix.nbytes
    assert vlm.cache_bytes == 0


def test_nothing_that_is_kept_of_a_compressed_picture_is_changed(made):
    vlm = made(num_hidden_layers=4)
    for spec in (SCM, SPECS["uniform"]):
        with vlm.open(WIDE, compression=spec) as opened:
            before = opened._cached.prefix
            tensors = [tensor for layer in (*before.layers, *before.early_layers) for tensor in layer]
            copies = [tensor.clone() for tensor in tensors]
            opened.ask(QUESTIONS[1], max_new_tokens=5)
            opened.ask_many(QUESTIONS, max_new_tokens=5)
            assert opened._cached.prefix.ids[: len(before.ids)] == before.ids
            assert all(map(torch.equal, tensors, copies))


def test_two_hundred_compressed_pictures_leave_nothing(made):
    vlm = made(num_hidden_layers=3)
    specs = [SCM, SPECS["visionzip"]]
    for spec in specs:
        with vlm.open(WIDE, compression=spec) as opened:
            opened.ask("?", max_new_tokens=1)
    del opened
    before = tensors()
    for turn in range(200):
        with vlm.open(WIDE, compression=specs[turn % 2]) as opened:
            if turn % 20 < 2:
                opened.ask("?", max_new_tokens=2)
                opened.ask_many(["?", "What?"], max_new_tokens=2)
    del opened
    assert tensors() <= before
    assert vlm.cache_bytes == 0


@pytest.mark.parametrize("spec", [SCM, SPECS["uniform anew"]], ids=named)
def test_lengths_of_compressed_pictures_count_the_whole_prompt(made, spec):
    vlm = made(num_hidden_layers=4)
    said = vlm.ask(WIDE, "What?", compression=spec, max_new_tokens=8).token_ids
    stops = [token for token in range(len(vlm.processor.tokenizer)) if token in said or token > 9]  # any that it would say
    settings = {"max_new_tokens": 8, "eos_token_id": stops, "min_length": len(ids_of(vlm, "What?")) + 4}
    fresh = vlm.ask(WIDE, "What?", compression=spec, **settings)
    assert len(fresh.token_ids) == 4
    with vlm.open(WIDE, compression=spec) as opened:
        same(opened.ask("What?", **settings), fresh)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_bytes_are_counted(vlm):
    with vlm.open(WIDE) as opened:
        known, image_tokens = prefix_length(vlm), opened.ask("?", max_new_tokens=1).image_tokens
        keys_and_values = 2 * 2 * 2 * 8 * 4  # both, layers, key heads, channels, bytes
        assert opened._planned_bytes() == known * keys_and_values + image_tokens * 32 * 4
        answer = opened.ask("What?", max_new_tokens=5)
        assert opened.cache_bytes == (answer.prompt_tokens + 4) * keys_and_values + image_tokens * 32 * 4
        with vlm.open(TALL) as other:
            assert vlm.cache_bytes == opened.cache_bytes + other.cache_bytes
        assert (other.closed, other.cache_bytes) == (True, 0)
        assert vlm.cache_bytes == opened.cache_bytes
    assert vlm.cache_bytes == 0


def test_many_questions_have_copies_that_fit(vlm):
    """Each row has one of what was read, and there are no more at a time than may be kept."""
    copies = []

    def note(module, arguments, settings):
        if (cache := settings[CACHE]).get_seq_length() == known:
            copies.append((len(settings["inputs_embeds"]), sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)))

    with vlm.open(WIDE) as opened:
        known, read = prefix_length(vlm), opened._cached.prefix.nbytes
        expected = opened.ask_many(QUESTIONS, max_new_tokens=4)
        vlm.model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
        opened.ask_many(QUESTIONS, max_new_tokens=4)
        assert copies == [(3, 3 * read)]
        vlm.max_cache_bytes = 3 * read - 1
        assert not opened.closed
        del copies[:]
        for answer, other in zip(opened.ask_many(QUESTIONS, max_new_tokens=4), expected, strict=True):
            same(answer, other)
        assert copies == [(2, 2 * read), (1, read)]


def test_the_picture_used_longest_ago_makes_room(vlm):
    one, two = vlm.open(WIDE), vlm.open(WIDE)
    vlm.max_cache_bytes = 2 * one.cache_bytes + 10
    one.ask("?", max_new_tokens=1)
    three = vlm.open(WIDE)
    assert [opened.closed for opened in (one, two, three)] == [False, True, False]
    assert vlm.cache_bytes <= vlm.max_cache_bytes
    with pytest.raises(UsageError, match=r"made room for others \(vlm.max_cache_bytes=\d+\): open it again$"):
        two.ask("?")
    vlm.max_cache_bytes = three.cache_bytes
    assert [opened.closed for opened in (one, two, three)] == [True, True, False]


def test_a_turn_that_finds_no_room_is_not_kept(vlm):
    opened = vlm.open(WIDE)
    before = vlm.max_cache_bytes = opened.cache_bytes
    answer = opened.ask("What?", max_new_tokens=5)
    assert opened.cache_bytes == before
    same(opened.ask("What?", max_new_tokens=5), answer)


def test_a_picture_that_needs_more_than_all_is_refused_before_it_is_encoded(vlm):
    tokens, tiles = watch(vlm)
    vlm.max_cache_bytes = 1000
    with pytest.raises(UsageError, match=r"may keep 1000 bytes, and this one needs \d+: raise vlm.max_cache_bytes"):
        vlm.open(WIDE)
    assert (tokens, tiles) == ([], [])


def test_a_picture_that_nobody_has_is_gone(vlm):
    opened = vlm.open(WIDE)
    assert vlm.cache_bytes > 0
    del opened
    gc.collect()
    assert vlm.cache_bytes == 0


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_two_hundred_pictures_leave_nothing(vlm):
    vlm.open(WIDE).close()
    with vlm.open(WIDE) as opened:
        opened.ask("?", max_new_tokens=1)
    before, kept = tensors(), []
    for turn in range(200):
        with vlm.open(WIDE) as opened:
            kept += [weakref.ref(tensor) for layer in opened._cached.prefix.layers for tensor in layer]
            if turn % 20 == 0:
                opened.ask("?", max_new_tokens=2)
                opened.ask_many(["?", "What?"], max_new_tokens=2)
    assert len(kept) == 200 * 4
    assert tensors() <= before
    assert not [reference for reference in kept if reference() is not None]
    assert vlm.cache_bytes == 0


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_closed(vlm):
    opened = vlm.open(WIDE)
    opened.close()
    opened.close()
    for ask in (opened.ask, opened.stream, lambda question: opened.ask_many([question])):
        with pytest.raises(UsageError, match="^this picture can't be asked, it was closed: open it again$"):
            ask("?")


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        ({"selector": "scm"}, 'set its queries to "vision", pass compression=None, or use ask'),
        ({"selector": "fastv"}, "take scm, random, uniform, downsample, visionzip, divprune, cdpruner, mmr or none, or use ask"),
    ],
    ids=["scm", "fastv"],
)
def test_compression_that_asks_the_question(vlm, compression, message):
    for settings in ({"compression": compression}, {}):
        with pytest.raises(UsageError) as caught:
            vlm.open(WIDE, **settings)
        asks = f"compression={compression['selector']!r} asks the question, and a picture is opened before there is one: "
        assert str(caught.value).startswith(asks + message)
        vlm = VisionLanguageModel(vlm.model, vlm.processor, compression)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"use_cache": False}, UsageError, "use_cache=False: an open picture has a cache of its own"),
        ({"cache_implementation": "static"}, UsageError, "cache_implementation='static': an open picture"),
        ({"num_beams": 2}, UsageError, "num_beams=2: ask.. gives one answer"),
        ({"prompt_lookup_num_tokens": 2}, UsageError, "prompt_lookup_num_tokens=2: ask.. gives one answer, token by token"),
        ({"max_new_tokens": 0}, UsageError, "max_new_tokens=0: expected a whole number"),
        ({"history": [("<image> <image>", "yes")]}, PromptError, "2 <image> marks for 1 pictures"),
        ({"max_new_tokens": 5000}, PromptError, "trained on 2048 together"),
    ],
)
def test_wrong_settings(vlm, settings, error, message):
    with vlm.open(WIDE) as opened:
        kept = opened._cached.prefix
        with pytest.raises(error, match=message):
            opened.ask("?", **settings)
        assert opened._cached.prefix is kept


def test_pictures_that_cant_be_opened(made, tmp_path):
    vlm = made(max_position_embeddings=40)
    tokens, tiles = watch(vlm)
    with pytest.raises(PromptError, match="trained on 40 together: lower the pyramid's budgets"):
        vlm.open(WIDE)
    with pytest.raises(PictureError):
        vlm.open(tmp_path / "missing.png")
    assert (tokens, tiles) == ([], [])


def test_a_call_keeps_to_what_it_began_with(vlm, monkeypatch):
    """Another thread's question replaces what is kept, or closes the picture, between two steps of a call: nothing mixes."""
    one, other = [("<image>\nWhat is it?", "A receipt.")], [("<image>\nWho signed it?", "Nobody.")]
    fresh = vlm.ask(WIDE, "And when?", history=one, max_new_tokens=5)
    for meanwhile in (lambda opened: opened.ask("Why?", history=other, max_new_tokens=3), lambda opened: opened.close("evicted")):
        opened = vlm.open(WIDE)
        opened.ask("Read it.", history=one, max_new_tokens=3)
        known = OpenPicture._reusable

        def interrupted(self, *args, meanwhile=meanwhile, known=known):
            length = known(self, *args)
            monkeypatch.setattr(OpenPicture, "_reusable", known)
            meanwhile(self)
            return length

        monkeypatch.setattr(OpenPicture, "_reusable", interrupted)
        same(opened.ask("And when?", history=one, max_new_tokens=5), fresh)
    assert opened.closed and opened.cache_bytes == 0, "an answer that was under way doesn't open it again"
    with pytest.raises(UsageError, match="can't be asked, evicted: open it again"):
        opened.ask("And when?")


def test_eight_threads_on_one_picture(vlm):
    """Each conversation gets its own answers."""
    histories = [[(f"<image>\nQuestion {number}?", f"Answer {number}.")] for number in range(8)]
    expected = [vlm.ask(WIDE, "And?", history=history, max_new_tokens=4) for history in histories]
    with vlm.open(WIDE) as opened, ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            for answer, fresh in zip(
                threads.map(lambda history: opened.ask("And?", history=history, max_new_tokens=4), histories), expected, strict=True
            ):
                same(answer, fresh)
