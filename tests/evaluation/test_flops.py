"""The arithmetic of `inspect`, against figures known from elsewhere."""

import pytest

from minimonkey.evaluation.flops import SHAPES, Shape, readable_flops
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig


def test_a_tile_of_internvit_300m():
    assert SHAPES["internvl2-2b"].vision_flops(1) == pytest.approx(0.73e12, rel=0.01)


@pytest.mark.parametrize(("name", "text_tflop", "vision_share"), [("1b", 4.8, 0.75), ("2b", 18.2, 0.44), ("4b", 42.6, 0.25)])
def test_twenty_tiles(name, text_tflop, vision_share):
    """At the largest pyramid of 4-12/3-7 the vision encoder is 75, 44 and 25 % of the work (shares of the design, section 3.5)."""
    shape = SHAPES[f"internvl2-{name}"]
    vision, text = shape.vision_flops(20), shape.text_flops(20 * shape.tokens_per_tile)
    assert text / 1e12 == pytest.approx(text_tflop, rel=0.02)
    assert vision / (vision + text) == pytest.approx(vision_share, abs=0.01)


def test_text_grows_faster_than_its_tokens():
    shape = SHAPES["internvl2-1b"]
    assert shape.text_flops(2000) > 2 * shape.text_flops(1000)
    assert shape.vision_flops(2) == 2 * shape.vision_flops(1)


def test_shape_of_a_configuration():
    """The stock defaults with InternVL2-1B's sizes give the named shape."""
    config = MiniMonkeyConfig(
        vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": [448, 448]},
        text_config={
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    )
    assert Shape.of("internvl2-1b", config) == SHAPES["internvl2-1b"]


@pytest.mark.parametrize(
    ("flops", "text"), [(1.4861e13, "14.9 TFLOP"), (3.2e9, "3.2 GFLOP"), (9.99e11, "999 GFLOP"), (5e5, "0.5 MFLOP")]
)
def test_readable_flops(flops, text):
    assert readable_flops(flops) == text
