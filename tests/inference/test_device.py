"""Where a model runs and in which numbers."""

import sys

import pytest
import torch

import minimonkey
from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.inference.device import Placement

FOLDERS = ("internvl2-qwen2-56", "minimonkey-internlm2-56")


def test_what_is_there():
    where = Placement.resolve("cpu")
    assert (where.device, where.dtype, where.from_pretrained_kwargs(None)) == (
        torch.device("cpu"),
        torch.float32,
        {"dtype": torch.float32},
    )
    assert Placement.resolve("cpu", torch.bfloat16).dtype == Placement.resolve("cpu", "bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device='tpu' is not there"),
        ({"device": "meta"}, "device='meta' is not there"),
        ({"dtype": "int3"}, "dtype='int3': expected one of float32, bfloat16, float16"),
        ({"device": "cpu", "device_map": "auto"}, "device='cpu' and device_map='auto': give one of them"),
        ({"device": "cpu", "quantize": "int2"}, "quantize='int2': expected one of int8, int4"),
    ],
)
def test_what_is_not_there_is_one_line(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        Placement.resolve(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "package"), [({"quantize": "int8"}, "torchao"), ({"quantize": "int4"}, "bitsandbytes")])
def test_a_missing_package_names_the_pip_command(monkeypatch, settings, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}: pip install 'minimonkey\[quantize\]'"):
        Placement.resolve("cpu", **settings)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_say_nearly_the_same(golden, name, quantize):
    """The random folders have no margin to lose: logits stay near, not equal."""
    plain, small = (minimonkey.load(golden / name, device="cpu", quantize=q) for q in (None, quantize))
    text = plain.processor.prompt("Read.")
    inputs = plain.processor(text=[text], return_tensors="pt")
    with torch.no_grad():
        ours, theirs = small.model(**inputs).logits, plain.model(**inputs).logits
    assert not torch.equal(ours, theirs)
    similarity = torch.nn.functional.cosine_similarity(ours.float(), theirs, dim=-1).min()
    assert similarity > {"int8": 0.995, "int4": 0.85}[quantize]
    kind = type(small.model.model.language_model.layers[0].self_attn.o_proj.weight).__name__
    assert kind == {"int8": "Int8Tensor", "int4": "Params4bit"}[quantize]


def test_a_device_map(golden):
    plain, mapped = minimonkey.load(golden / FOLDERS[0], device="cpu"), minimonkey.load(golden / FOLDERS[0], device_map={"": "cpu"})
    inputs = plain.processor(text=[plain.processor.prompt("Read.")], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(mapped.model(**inputs).logits, plain.model(**inputs).logits)


def test_an_attention_that_is_not_installed_is_one_line(golden):
    with pytest.raises(UsageError, match="attn_implementation='flash_attention_2' can't run here") as caught:
        minimonkey.load(golden / FOLDERS[0], device="cpu", attn_implementation="flash_attention_2")
    assert "\n" not in str(caught.value)
