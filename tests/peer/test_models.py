"""transformers' tests of models and configurations, and of generation where they are there, on our classes."""

from __future__ import annotations

import unittest

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES

import minimonkey
from minimonkey import MiniMonkeyConfig, MiniMonkeyForConditionalGeneration
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from tests.peer.suite import mixins

minimonkey.register()
# The mixins know what a class is for by its name in the library's tables, where classes of others don't stand.
MODEL_MAPPING_NAMES["minimonkey"] = MiniMonkeyModel.__name__
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["minimonkey"] = MiniMonkeyForConditionalGeneration.__name__
IMAGE, TILE_PX, TILE_TOKENS = 1, 16, 4


class ModelTester:
    """A tiny model, and a batch of prompts with one picture of one tile each, as the mixins ask for them."""

    batch_size, seq_length, is_training = 3, 11, True
    num_hidden_layers, hidden_size, num_attention_heads, vocab_size = 2, 32, 4, 99
    pad_token_id, image_size, patch_size = 0, TILE_PX, 4

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        layers = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "tie_word_embeddings": False}
        sizes = {"num_key_value_heads": 2, "vocab_size": self.vocab_size, "max_position_embeddings": 512}
        self.text_config = {"model_type": "qwen2"} | layers | sizes | special
        self.vision_config = layers | {"image_size": [TILE_PX, TILE_PX], "patch_size": [4, 4], "norm_type": "layer_norm"}

    def get_config(self) -> MiniMonkeyConfig:
        return MiniMonkeyConfig(
            text_config=dict(self.text_config),
            vision_config=dict(self.vision_config),
            image_token_id=IMAGE,
            image_seq_length=TILE_TOKENS,
            tie_word_embeddings=False,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MiniMonkeyConfig, dict[str, torch.Tensor]]:
        ids = torch.randint(4, self.vocab_size, (self.batch_size, self.seq_length))
        ids[:, :TILE_TOKENS] = IMAGE
        pixel_values = torch.randn(self.batch_size, 3, TILE_PX, TILE_PX)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixel_values}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class ModelTest(
    mixins("test_modeling_common").ModelTesterMixin, mixins("generation.test_utils").GenerationTesterMixin, unittest.TestCase
):
    all_model_classes = (MiniMonkeyModel, MiniMonkeyForConditionalGeneration)
    all_generative_model_classes = (MiniMonkeyForConditionalGeneration,)
    test_resize_embeddings = True
    _is_composite = True

    def setUp(self) -> None:
        self.model_tester = ModelTester(self)


class ConfigurationTest(unittest.TestCase):
    def setUp(self) -> None:
        self.model_tester = ModelTester(self)

    def test_common(self) -> None:
        fields = self.model_tester.get_config().to_dict()
        given = {name: fields[name] for name in ("image_token_id", "image_seq_length", "projector_hidden_act", "pyramid")}
        tester = mixins("test_configuration_common").ConfigTester
        tester(self, config_class=MiniMonkeyConfig, has_text_modality=False, **given).run_common_tests()
