"""The names that other code may rely on."""

import inspect

import pytest

import minimonkey

NAMES = [
    "Answer",
    "Box",
    "CheckpointError",
    "CompressionSpec",
    "DataError",
    "EndpointError",
    "Extraction",
    "ExtractionError",
    "Grid",
    "MiniMonkeyConfig",
    "MiniMonkeyError",
    "MiniMonkeyForConditionalGeneration",
    "MiniMonkeyImageProcessor",
    "MiniMonkeyProcessor",
    "MissingExtraError",
    "OpenPicture",
    "PictureError",
    "PromptError",
    "Pyramid",
    "PyramidError",
    "PyramidSpec",
    "ShortOfMemoryError",
    "Size",
    "UsageError",
    "VisionLanguageModel",
    "load",
    "load_picture",
    "register",
]


def test_public_names():
    assert sorted(minimonkey.__all__) == NAMES
    assert set(NAMES) <= set(dir(minimonkey))
    for name in NAMES:
        assert getattr(minimonkey, name).__name__ == name


def test_version():
    assert minimonkey.__version__.count(".") == 2


def test_unknown_name():
    with pytest.raises(AttributeError, match="laod"):
        minimonkey.laod  # noqa: B018


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_signatures():
    load = inspect.signature(minimonkey.load).parameters
    placement = ["device", "dtype", "pyramid", "compression", "quantize", "device_map", "adapter", "engine"]
    assert list(load) == ["model", *placement, "revision", "token", "attn_implementation", "vision_heads"]
    assert all(parameter.default is None for parameter in load.values())
    ask = ["self", "pictures", "question", "system", "history", "pages", "pyramid", "compression", "max_new_tokens", "generation"]
    assert parameters(minimonkey.VisionLanguageModel.ask) == ask
    assert parameters(minimonkey.VisionLanguageModel.stream) == ["self", "pictures", "question", "settings"]
    assert parameters(minimonkey.VisionLanguageModel.extract) == ["self", "pictures", "schema", "question", "settings"]
    assert parameters(minimonkey.VisionLanguageModel.extractions) == ["self", "pictures", "schema", "questions", "settings"]
    assert parameters(minimonkey.VisionLanguageModel.batch) == ["self", "requests", "settings"]
    assert parameters(minimonkey.VisionLanguageModel.open) == ["self", "pictures", "system", "pages", "pyramid", "compression"]
    from minimonkey.inference.open_picture import OpenPicture

    assert parameters(OpenPicture.ask) == ["self", "question", "history", "max_new_tokens", "generation"]
    assert parameters(OpenPicture.ask_many) == ["self", "questions", "settings"]
    assert parameters(OpenPicture.stream) == ["self", "question", "settings"]
    answer = ["text", "token_ids", "mean_logprob", "boxes", "prompt_tokens", "image_tokens", "timings", "pyramids"]
    answer += ["token_logprobs", "selections"]
    assert parameters(minimonkey.Answer) == answer


def test_register_twice_is_once():
    from transformers import AutoConfig, AutoModelForImageTextToText

    minimonkey.register()
    minimonkey.register()
    config = AutoConfig.for_model("minimonkey")
    assert type(config) is minimonkey.MiniMonkeyConfig
    assert AutoModelForImageTextToText._model_mapping[type(config)] is minimonkey.MiniMonkeyForConditionalGeneration
