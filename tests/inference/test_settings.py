"""Settings of a call: whatever they are, the call answers or is refused by itself, before any picture is prepared."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.inference import VisionLanguageModel
from minimonkey.inference.settings import OF_OTHER_WAYS, ONE_ANSWER, call_settings
from minimonkey.models.generation_settings import RULES

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))


@pytest.fixture
def vlm(tiny_model, tiny_processor):
    return VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 6), adaptive=(1, 4)))


HUB = "expected nothing: the code of this way of decoding would be fetched from the hub$"
WRONG = [
    ({"do_sample": True, "temperature": 0.0}, r"^temperature=0.0: expected a number above 0 \(do_sample=False always takes"),
    ({"do_sample": True, "temperature": -1}, "^temperature=-1: expected a number above 0"),
    ({"do_sample": True, "temperature": 1e-300}, "^temperature=1e-300: expected a number above 0"),
    ({"do_sample": True, "top_k": -1}, "^top_k=-1: expected a whole number, 0 or more"),
    ({"do_sample": True, "top_p": 1.5}, "^top_p=1.5: expected a number from 0 to 1$"),
    ({"do_sample": "yes"}, "^do_sample='yes': expected True or False$"),
    ({"repetition_penalty": 0}, "^repetition_penalty=0: expected a number above 0, where 1 changes nothing$"),
    ({"repetition_penalty": math.nan}, "^repetition_penalty=nan: expected a number above 0"),
    ({"stop_strings": []}, "^stop_strings=.*: expected a text, or a list of at least one, none of them empty$"),
    ({"stop_strings": ["a", ""]}, "^stop_strings=.*: expected a text"),
    ({"bad_words_ids": []}, "^bad_words_ids=.*: expected a list of at least one list of ids of the vocabulary's tokens$"),
    ({"bad_words_ids": [[10**6]]}, "^bad_words_ids=.*: expected"),
    ({"bad_words_ids": [[7]], "eos_token_id": 7}, "^bad_words_ids=.*: forbids what ends the answer alone; give min_new_tokens"),
    ({"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": None}, "^exponential_decay_length_penalty: .*; leave one out$"),
    ({"eos_token_id": "x"}, "^eos_token_id='x': expected a token's id, or a list of at least one$"),
    ({"eos_token_id": []}, "^eos_token_id=.*: expected a token's id"),
    ({"pad_token_id": 10**6}, "^pad_token_id=1000000: expected the id of one of the vocabulary's tokens$"),
    ({"prefill_chunk_size": 0}, "^prefill_chunk_size=0: expected a whole number, 1 or more$"),
    ({"encoder_no_repeat_ngram_size": 10**9}, r"^encoder_no_repeat_ngram_size=1000000000: expected a whole number, 0 to 1000 \(0"),
    ({"cache_implementation": "nonsense"}, "^cache_implementation='nonsense': expected one of dynamic, static, hybrid, offloaded"),
    ({"cache_implementation": "paged"}, "^cache_implementation='paged': expected one of"),
    (
        {"cache_implementation": "offloaded"},
        "^cache_implementation='offloaded': keeps the cache of a GPU in memory, and the model is on",
    ),
    ({"compile_config": 5}, "^settings of the answer that don't go together: You provided `compile_config`"),
    (
        {"suppress_tokens": [3], "forced_eos_token_id": 3},
        "^settings of the answer that don't go together: Every token in `forced_eos",
    ),
    ({"penalty_alpha": 0.6, "top_k": 4}, "^penalty_alpha=0.6: " + HUB),
    ({"dola_layers": "low"}, "^dola_layers='low': " + HUB),
    ({"force_words_ids": [[5]]}, "^force_words_ids=.*: " + HUB),
    ({"constraints": []}, "^constraints=.*: " + HUB),
    ({"max_length": 10}, "^max_length=10: an answer's length is max_new_tokens, which doesn't count the prompt$"),
    ({"max_length": None}, "^max_length=None: an answer's length is max_new_tokens"),
    ({"length_penalty": 2.0}, "^length_penalty=2.0: has no effect on the answer of ask"),
    ({"early_stopping": "never"}, "^early_stopping='never': has no effect"),
    ({"transformers_version": "4"}, "^transformers_version='4': a setting neither of ask"),
    ({"_from_model_config": True}, "^_from_model_config=True: a setting neither of ask"),
    ({"num_beams": np.array([1, 2])}, "^num_beams=array.*: ask.. gives one answer"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_every_way_of_asking_refuses_by_itself(vlm, monkeypatch, settings, message):
    with vlm.open(PICTURE) as page:
        for reader in (vlm.model.model, vlm.model.model.vision_tower):
            monkeypatch.setattr(reader, "forward", lambda *_, **__: pytest.fail("the model ran"))
        monkeypatch.setattr(vlm.processor.image_processor, "preprocess", lambda *_, **__: pytest.fail("a picture was prepared"))
        page_settings = {} if settings.keys() & {"prefill_chunk_size", "cache_implementation"} else settings
        asks = [vlm.ask, vlm.stream, lambda pictures, question, **given: vlm.batch([(pictures, question)], **given)]
        asks += [
            lambda _, question, **given: page.ask(question, **given),
            lambda _, question, **given: page.stream(question, **given),
        ]
        for ask in asks[: 5 if page_settings else 3]:
            with pytest.raises(UsageError, match=message) as caught:
                ask(PICTURE, "?", **settings)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


RIGHT = [
    {"temperature": 0},
    {"do_sample": None},
    {
        "do_sample": True,
        "temperature": 2,
        "top_k": 0,
        "top_p": 0.5,
        "min_p": 0,
        "typical_p": 1,
        "epsilon_cutoff": 0,
        "eta_cutoff": 0.1,
    },
    {"do_sample": True, "top_h": 1},
    {"repetition_penalty": 2},
    {"stop_strings": "e"},
    {"bad_words_ids": [(4, 5)], "suppress_tokens": (7,), "begin_suppress_tokens": []},
    {"bad_words_ids": [[7], [8]], "eos_token_id": 7},
    {"sequence_bias": {(4,): 2}},
    {"sequence_bias": [[[4], 2]]},
    {"eos_token_id": -1, "min_new_tokens": 2},
    {"eos_token_id": [10**6]},
    {"eos_token_id": (5,), "exponential_decay_length_penalty": [1, 2]},
    {"forced_eos_token_id": [5]},
    {"no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1000},
    {"cache_implementation": "static", "max_cache_len": 500},
    {"cache_implementation": "hybrid"},
    {"prefill_chunk_size": 7},
    {"guidance_scale": 2},
    {"watermarking_config": {"bias": 2.0}},
    {"max_time": 100, "renormalize_logits": True, "remove_invalid_values": True, "output_scores": True, "disable_compile": True},
    {"penalty_alpha": 0, "num_beams": None, "early_stopping": None, "length_penalty": 1},
    {"encoder_repetition_penalty": 2},
]


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")
@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_what_is_let_through_answers(vlm, settings):
    assert len(vlm.ask(PICTURE, "?", max_new_tokens=3, **settings).token_ids) <= 3
    assert len(vlm.batch([(PICTURE, "?"), ([], "Longer?")], max_new_tokens=3, **settings)) == 2


def test_every_setting_of_the_library_is_thought_of():
    """A release with a new one fails here: it needs a rule, or a reason to be left out."""
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    checked_elsewhere = {"max_length", "compile_config", "transformers_version"}
    assert known <= RULES.keys() | ONE_ANSWER.keys() | OF_OTHER_WAYS.keys() | checked_elsewhere


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("repetition_penalty", 0, "^model.generation_config: repetition_penalty=0: expected a number above 0"),
        ("bad_words_ids", [], "^model.generation_config: bad_words_ids="),
        ("eos_token_id", "x", "^model.generation_config: eos_token_id='x'"),
        ("top_k", "x", "^model.generation_config: top_k='x'"),
        ("max_new_tokens", 0, "^model.generation_config: max_new_tokens=0: expected a whole number, 1 or more"),
        ("penalty_alpha", 0.5, "^model.generation_config: penalty_alpha=0.5: " + HUB),
        ("early_stopping", 7, "^settings of the answer that don't go together: `early_stopping` must be"),
    ],
)
def test_the_models_own_settings_are_checked_too(vlm, name, value, message):
    setattr(vlm.model.generation_config, name, value)
    for ask in (vlm.ask, vlm.stream):
        with pytest.raises(UsageError, match=message):
            ask(PICTURE, "?")
    if name in ("repetition_penalty", "bad_words_ids"):
        vlm.ask(PICTURE, "?", max_new_tokens=1, **{name: None})


def test_the_models_own_settings_of_drawing_count_where_it_is_asked_for(vlm):
    vlm.model.generation_config.temperature = 0.0
    greedy = vlm.ask(PICTURE, "?", max_new_tokens=3)
    with pytest.raises(UsageError, match="^model.generation_config: temperature=0.0: expected a number above 0"):
        vlm.ask(PICTURE, "?", do_sample=True)
    vlm.model.generation_config.temperature, vlm.model.generation_config.top_k = None, 1
    assert vlm.ask(PICTURE, "?", do_sample=True, max_new_tokens=3).token_ids == greedy.token_ids


def test_the_models_own_settings_are_converted(vlm):
    """transformers refuses a penalty of 2 for 2.0."""
    expected = vlm.ask(PICTURE, "?", repetition_penalty=2.0, max_new_tokens=4)
    vlm.model.generation_config.repetition_penalty = 2
    assert vlm.ask(PICTURE, "?", max_new_tokens=4).token_ids == expected.token_ids


@pytest.mark.parametrize(("name", "value"), [("cache_implementation", "static"), ("prefill_chunk_size", 5), ("use_cache", False)])
def test_an_open_picture_has_its_own_cache_whatever_the_model_says(vlm, name, value):
    expected = vlm.ask(PICTURE, "?", max_new_tokens=4)
    setattr(vlm.model.generation_config, name, value)
    with vlm.open(PICTURE) as page:
        assert page.ask("?", max_new_tokens=4).token_ids == expected.token_ids


def test_the_cache_of_a_gpu_may_be_offloaded(vlm):
    own, tokenizer = vlm.model.generation_config, vlm.processor.tokenizer
    for cache in ("offloaded", "offloaded_static"):
        settings = call_settings(own, tokenizer, {"cache_implementation": cache}, vocabulary=50, device="cuda")
        assert settings["cache_implementation"] == cache
    with pytest.raises(UsageError, match="^cache_implementation='quantized': needs hqq, which isn't installed: pip install hqq$"):
        given = {"cache_implementation": "quantized", "cache_config": {"backend": "hqq"}}
        call_settings(own, tokenizer, given, vocabulary=50, device="cuda")


def test_max_new_tokens_may_be_any_kind_of_whole_number(vlm):
    three = vlm.ask(PICTURE, "?", max_new_tokens=3).token_ids
    assert len(three) == 3
    for value in (np.int64(3), np.uint8(3)):
        assert vlm.ask(PICTURE, "?", max_new_tokens=value).token_ids == three
        assert vlm.batch([(PICTURE, "?")], max_new_tokens=value)[0].token_ids == three
    for wrong in (True, 3.0, "3", 0, -1, [3], torch.tensor(3)):
        with pytest.raises(UsageError, match="^max_new_tokens=.*: expected a whole number, 1 or more$"):
            vlm.ask(PICTURE, "?", max_new_tokens=wrong)


SCM, UNIFORM = CompressionSpec("scm"), CompressionSpec("uniform")


@pytest.mark.parametrize(
    ("setting", "compression", "message"),
    [
        ({"use_cache": False}, SCM, "^use_cache=False: what compression keeps is kept in the cache; leave one of the two out$"),
        ({"use_cache": False}, UNIFORM, "^use_cache=False: what compression keeps is kept in the cache; leave one of the two out$"),
        ({"prefill_chunk_size": 64}, UNIFORM, "^prefill_chunk_size=64: compression reads a prompt in one piece"),
        ({"cache_implementation": "static"}, SCM, "^scm changes which tokens there are: leave out cache_implementation$"),
        ({"output_attentions": True}, SCM, "^scm changes which tokens there are: leave out output_attentions$"),
    ],
)
def test_what_cannot_go_with_compression_is_refused_by_the_call(vlm, monkeypatch, setting, compression, message):
    """Before a picture is cut, and by `stream` itself, not by its first piece; also where the model's own settings say so."""
    monkeypatch.setattr(vlm.processor.image_processor, "cut", None)
    calls = (vlm.ask, vlm.stream, lambda *words, **how: vlm.batch([words], **how))
    for call in calls:
        with pytest.raises(UsageError, match=message):
            call(PICTURE, "?", compression=compression, **setting)
    for name, value in setting.items():
        setattr(vlm.model.generation_config, name, value)
    for call in calls:
        with pytest.raises(UsageError, match=message):
            call(PICTURE, "?", compression=compression)


def test_where_there_is_nothing_to_compress_any_cache_will_do(vlm):
    """A text, and a picture of one tile, which has no detail level."""
    for pictures in ([], PICTURE.resize((28, 28))):
        asked = vlm.ask(pictures, "?", compression=SCM, use_cache=False, max_new_tokens=2)
        assert asked.token_ids == vlm.ask(pictures, "?", max_new_tokens=2).token_ids


def test_settings_of_other_selectors_stay(vlm):
    """Only a prompt that is read while it is compressed needs a cache of its own."""
    assert vlm.ask(PICTURE, "?", compression=UNIFORM, cache_implementation="static", max_new_tokens=2).selections
    assert vlm.ask(PICTURE, "?", compression=SCM, cache_implementation="dynamic", max_new_tokens=2).selections
