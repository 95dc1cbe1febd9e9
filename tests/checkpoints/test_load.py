"""A folder's generation_config.json: what can't be is refused by loading, what can is used."""

import dataclasses
import json
import shutil

import pytest

import minimonkey
from minimonkey.checkpoints.convert import convert
from minimonkey.errors import CheckpointError

PUBLISHED = "minimonkey-internlm2-56"


@pytest.fixture(params=["native", "published"])
def folder(request, tmp_path, golden, tiny_model, tiny_processor):
    """A folder of either layout."""
    place = tmp_path / "model"
    if request.param == "published":
        return shutil.copytree(golden / PUBLISHED, place, ignore=shutil.ignore_patterns("golden.*"))
    processor = tiny_processor(detail=(1, 4))
    tiny_model(pyramid=dataclasses.asdict(processor.image_processor.spec)).save_pretrained(place)
    processor.save_pretrained(place)
    return place


def write(folder, settings) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))


HUB = "expected nothing: the code of this way of decoding would be fetched from the hub"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty=0: expected a number above 0, where 1 changes nothing"),
        ({"bad_words_ids": []}, "bad_words_ids=[]: expected a list of at least one list"),
        ({"bad_words_ids": [[10**6]]}, "bad_words_ids=[[1000000]]: expected a list of at least one list of ids of the vocabulary"),
        ({"penalty_alpha": 0.6, "top_k": 4}, f"penalty_alpha=0.6: {HUB}"),
        ({"dola_layers": "low"}, f"dola_layers='low': {HUB}"),
        ({"stop_strings": []}, "stop_strings=[]: expected a text"),
        ({"eos_token_id": "x"}, "eos_token_id='x': expected a token's id"),
        ({"cache_implementation": "nonsense"}, "cache_implementation='nonsense': expected one of dynamic"),
        ({"prefill_chunk_size": 0}, "prefill_chunk_size=0: expected a whole number, 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected a whole number, 1 or more"),
        ({"top_k": "x"}, "top_k='x': expected a whole number, 0 or more"),
        ({"early_stopping": 7}, "ValueError: `early_stopping` must be a boolean or 'never'"),
        ({"watermarking_config": {"context_width": 0}}, "watermarking_config={'context_width': 0}: expected a WatermarkingConfig"),
        ([1], "expected a JSON object of settings"),
    ],
)
def test_what_cant_be_is_refused_at_load(folder, tmp_path, settings, message):
    write(folder, settings)
    for use in (lambda: minimonkey.load(folder, device="cpu"), lambda: convert(folder, tmp_path / "new", to="stock")):
        with pytest.raises(CheckpointError) as caught:
            use()
        assert str(caught.value).startswith(f"{folder / 'generation_config.json'}: {message}"), str(caught.value)
        assert "\n" not in str(caught.value)


def test_numbers_are_those_that_transformers_insists_on(folder):
    """A penalty of 2 for 2.0 would be refused at the first question; what counts where tokens are drawn doesn't count here."""
    write(folder, {"repetition_penalty": 2, "temperature": 0, "do_sample": True, "num_beams": 4, "max_new_tokens": 3})
    vlm = minimonkey.load(folder, device="cpu")
    assert repr(vlm.model.generation_config.repetition_penalty) == "2.0"
    expected = vlm.ask([], "What?", repetition_penalty=2.0, max_new_tokens=3)
    assert vlm.ask([], "What?").token_ids == expected.token_ids
    assert len(expected.token_ids) <= 3


def test_a_list_of_biases_is_kept_by_saving(folder, tmp_path):
    write(folder, {"sequence_bias": [[[5], -4]]})
    vlm = minimonkey.load(folder, device="cpu")
    assert vlm.model.generation_config.sequence_bias == [[[5], -4.0]]
    vlm.model.save_pretrained(tmp_path / "again")
    vlm.processor.save_pretrained(tmp_path / "again")
    again = minimonkey.load(tmp_path / "again", device="cpu")
    assert again.model.generation_config.sequence_bias == [[[5], -4.0]]
    assert again.ask([], "?", max_new_tokens=2).token_ids == vlm.ask([], "?", max_new_tokens=2).token_ids


def test_a_padding_token_beyond_the_vocabulary_is_the_tokenizers(folder):
    write(folder, {"pad_token_id": -1})
    vlm = minimonkey.load(folder, device="cpu")
    alone = [vlm.ask([], question, max_new_tokens=4).token_ids for question in ("?", "A longer one?")]
    assert [answer.token_ids for answer in vlm.batch([([], "?"), ([], "A longer one?")], max_new_tokens=4)] == alone


def test_max_length_is_not_used_and_said_so(folder, tmp_path):
    """It counts the prompt, whose pictures alone have thousands of tokens."""
    write(folder, {"max_length": 20, "max_new_tokens": 40})
    with pytest.warns(
        UserWarning, match=r"generation_config\.json: max_length=20 isn't used, as it counts .*max_new_tokens says how"
    ):
        vlm = minimonkey.load(folder, device="cpu")
    assert vlm.model.generation_config.max_length is None
    assert len(vlm.ask([], "What?", min_new_tokens=30).token_ids) >= 30
    convert(folder, tmp_path / "new", to="stock")
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text())["max_length"] == 20, "a copy stays a copy"
