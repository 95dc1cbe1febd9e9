"""TinyGPT-V's pictures and prompts: published pixels, ids and strings, and what users may ask for instead."""

import json

import numpy as np
import pytest

from minimonkey.documents import load_picture
from minimonkey.errors import PromptError, PyramidError, UsageError
from minimonkey.inference.answer import boxes_of, labels_of
from minimonkey.processing.tinygptv import BORDER, TASKS, TinyGPTVProcessor, place_of
from minimonkey.pyramid import Box, PyramidSpec, Size


@pytest.fixture
def processor(recorded_tinygptv):
    yield recorded_tinygptv.processor
    recorded_tinygptv.processor.use_form("evaluation")


@pytest.mark.parametrize("tile_px", [448, 224])
@pytest.mark.parametrize("letter", ["c", "d"])
def test_pixels(golden, processor, letter, tile_px):
    folder = golden / "tinygptv"
    picture = load_picture(folder / "images" / f"scene_{letter}.png", as_published=True)
    pixels = processor.image_processor(picture, pyramid={"tile_px": tile_px}, return_tensors="np").pixel_values
    recorded = np.load(folder / "pixels.npz")
    assert pixels.shape == (1, 3, tile_px, tile_px)
    np.testing.assert_allclose(pixels[0, :, ::8, ::8], recorded[f"{letter}_{tile_px}_stride8"], rtol=0, atol=1e-5)
    exact = pixels[0].astype(np.float64)
    for name, value in (("mean", exact.mean((1, 2))), ("std", exact.std((1, 2), ddof=1))):
        np.testing.assert_allclose(value, recorded[f"{letter}_{tile_px}_{name}"], rtol=0, atol=1e-5)
    assert np.array_equal(pixels[0].min((1, 2)), recorded[f"{letter}_{tile_px}_min"])
    assert np.array_equal(pixels[0].max((1, 2)), recorded[f"{letter}_{tile_px}_max"])


def test_tokenizer_cases(golden, processor):
    """Ids of plain text, where what is our token for pictures is text too."""
    recorded = json.loads((golden / "tinygptv" / "tokenizer_cases.json").read_text())
    for case in recorded["cases"]:
        text = case["text"].replace("<ImageHere>", processor.plain_text("<ImageHere>"))
        assert processor.tokenizer(text).input_ids == case["ids"]
        assert processor.tokenizer.decode(case["ids"]) == case["decoded_plain"]
    assert processor.tokenizer.eos_token_id == processor.tokenizer.pad_token_id == recorded["eos_id"]
    assert processor.image_token_id == recorded["n_tokens"]


def test_forms(golden, processor):
    recorded = json.loads((golden / "tinygptv" / "golden.json").read_text())
    prompts = [processor.prompt(question, pictures=1) for question in recorded["questions"]]
    assert prompts == recorded["prompts_minigptv2_conversation"]
    first = "[grounding] describe this image in detail"
    processor.use_form("demo")
    assert processor.prompt(first, pictures=1) == recorded["demo_prompts"]["stage4_demo_turn1"]
    history = [(f"<image> {first}", "an answer")]
    assert processor.prompt("[refer] the dog", pictures=1, history=history) == recorded["demo_prompts"]["stage4_demo_turn2"]
    processor.use_form("demo-224")
    assert processor.prompt("what is this?", pictures=1) == recorded["demo_prompts"]["stage123_demo"]


def test_turns_of_the_evaluation_form(processor):
    prompt = processor.prompt("Why?", system="Be short.", history=[("What?", "a dog")])
    assert prompt.replace(BORDER, "") == "Be short.###Human: What?###Assistant: a dog###Human: Why?###Assistant: "


def test_answers_are_encoded_by_themselves(processor):
    """After a space that ends the question, as the model writes them; a border is in no id."""
    ids = processor.encode_chat("Why?", history=[("What?", "a dog")])
    first, answer = processor.encode_chat("What?"), processor.encode_answer("a dog")
    assert ids[: len(first) + len(answer)] == first + answer
    assert processor.tokenizer(f"a{BORDER}b").input_ids == processor.tokenizer("a").input_ids + processor.tokenizer("b").input_ids


def test_an_unknown_form(processor):
    with pytest.raises(UsageError, match="'stage-5'; the nearest is 'stage-"):
        processor.use_form("stage-5")


def test_special_strings_of_users_are_text(processor):
    """Nothing that users write places a picture or begins a text anew."""
    ids = processor.encode_chat("<ImageHere><|endoftext|>", pictures=[1])
    assert ids.count(processor.image_token_id) == 32
    assert processor.tokenizer.eos_token_id not in ids


def test_published_prompts_and_marks_are_the_same(processor, golden):
    picture = load_picture(golden / "tinygptv" / "images" / "scene_c.png", as_published=True)
    ids = [
        processor(images=[picture], text=[f"###Human: {mark} what?###Assistant: "]).input_ids
        for mark in ("<image>", "<Img><ImageHere></Img>")
    ]
    assert ids[0] == ids[1] == [processor.encode_chat("what?", pictures=[1])]
    text = processor.prompt("what?", pictures=1)
    assert processor.count_tokens(text, [Size(5, 5)]) == len(ids[0][0])


def test_two_pictures_are_refused(recorded_tinygptv, golden):
    picture = golden / "tinygptv" / "images" / "scene_c.png"
    with pytest.raises(PromptError, match="2 pictures, but TinyGPT-V reads one a prompt"):
        recorded_tinygptv.ask([picture, picture], "what?")


def test_marks_and_pictures_must_match(processor):
    with pytest.raises(PromptError, match="2 <image> marks for 1 pictures"):
        processor.prompt("<image> <image> what?", pictures=1)


@pytest.mark.parametrize(
    ("pyramid", "tile_px"),
    [
        ({"tile_px": 224}, 224),
        ({"detail": (1, 1)}, 448),
        (PyramidSpec.plain(1, 1), 448),
        (PyramidSpec.plain(1, 1, tile_px=224), 224),
    ],
)
def test_sides_of_pictures(processor, pyramid, tile_px):
    assert processor.image_processor.spec_for({"pyramid": pyramid}).tile_px == tile_px


def test_a_side_that_is_no_whole_number_of_patches(processor):
    with pytest.raises(PyramidError, match="tile_px=230: expected a multiple of 14"):
        processor.image_processor.spec_for({"pyramid": {"tile_px": 230}})


def test_boxes_are_in_hundredths():
    text = "<p> a red  house</p> {<10><20><30><40>}<delim>{<-5><0><120><50>} and {<1><2><3>} <p>x</p>y{<100><100><101><101>}"
    notation = TinyGPTVProcessor.box_notation
    assert boxes_of(text, Size(100, 200), notation) == [Box(20, 20, 60, 40), Box(0, 0, 200, 50), Box(200, 100, 200, 100)]
    assert labels_of(text, notation) == ["a red house", "a red house", ""]


def test_places_in_questions(processor):
    place = place_of(Box(20, 20, 61, 40), Size(100, 200))
    assert place == "{<10><20><30><40>}"
    assert boxes_of(place, Size(100, 200), processor.box_notation) == [Box(20, 20, 60, 40)]
    asked = f"{TASKS[3]} {place} what is here?"
    assert asked in processor.prompt(asked, pictures=1)
