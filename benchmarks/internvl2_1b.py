"""What the benchmarks time: random weights of InternVL2-1B's shape, transformers' own class on the very same tensors, and pictures
of a wanted number of tiles.

The shape is that of OpenGVLab/InternVL2-1B's config.json: InternViT-300M and Qwen2-0.5B. The tokenizer is one of characters, so
that a question of 30 characters has 30 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.initialization import no_init_weights

from minimonkey.inference import VisionLanguageModel
from minimonkey.inference.openvino import OpenVINOBackend
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec
from minimonkey.training.nano.character_tokenizer import character_tokenizer

LAYERS = 24
"""Of the encoder and of the language model."""
TILE_TOKENS = 256
QUESTIONS = tuple(f"Item {number:02d}: what is its net cost?" for number in range(1, 33))
"""30 tokens each."""
FORCED = {13: PyramidSpec.plain(12, 12), 20: PyramidSpec(detail=(12, 12), adaptive=(7, 7))}
"""Plain tiling at its largest, and CIP: 12 detail tiles, 7 adaptive ones and a thumbnail."""


def settings(vision_layers: int = LAYERS, text_layers: int = LAYERS) -> dict[str, Any]:
    """Fields of an InternVLConfig."""
    text = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": text_layers}
    text |= {"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 151655}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": False}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": vision_layers, "num_attention_heads": 16}
    vision |= {"image_size": 448, "patch_size": 14, "attention_bias": True}
    image_token_id = tokenizer().convert_tokens_to_ids("<IMG_CONTEXT>")
    tokens = {"image_token_id": image_token_id, "image_seq_length": TILE_TOKENS, "tie_word_embeddings": False}
    return {"text_config": text, "vision_config": vision} | tokens


def tokenizer():
    return character_tokenizer("\n" + "".join(map(chr, range(32, 127))))


@torch.no_grad()
def random_model(
    dtype: torch.dtype, device: str = "cpu", *, vision_layers: int = LAYERS, text_layers: int = LAYERS
) -> MiniMonkeyForConditionalGeneration:
    """Weights that keep the size of what goes through them, so that rounding does what it does in a trained network."""
    config = MiniMonkeyConfig(**settings(vision_layers, text_layers))
    with no_init_weights():
        model = MiniMonkeyForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa").to(device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lambda" in name:
            parameter.fill_(config.vision_config.layer_scale_init_value)
        elif parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(float("norm" in name and name.endswith("weight")), 0.02, generator=generator)
    return model.eval()


def stock(model: MiniMonkeyForConditionalGeneration) -> InternVLForConditionalGeneration:
    """transformers' own class with sdpa, on the same tensors."""
    shape = model.config
    config = InternVLConfig(**settings(shape.vision_config.num_hidden_layers, shape.text_config.num_hidden_layers))
    with no_init_weights():
        rival = InternVLForConditionalGeneration._from_config(config, dtype=model.dtype, attn_implementation="sdpa").to(
            model.device
        )
    rival.load_state_dict(model.state_dict(), assign=True)
    return rival.eval()


def processor() -> MiniMonkeyProcessor:
    return MiniMonkeyProcessor(MiniMonkeyImageProcessor(pyramid=FORCED[13]), tokenizer(), image_seq_length=TILE_TOKENS)


def random_vlm(dtype: torch.dtype, device: str = "cpu", *, layers: int = LAYERS, engine: str | None = None) -> VisionLanguageModel:
    """A whole model with so many layers in each part, which cuts every picture into 13 tiles unless told otherwise."""
    model = random_model(dtype, device, vision_layers=layers, text_layers=layers)
    return VisionLanguageModel(model, processor(), backend=None if engine is None else OpenVINOBackend(model))


def pyramid_of(tiles: int) -> PyramidSpec:
    """Cuts every picture into exactly so many tiles, 1 or more than 2."""
    return FORCED.get(tiles) or PyramidSpec.plain(max(1, tiles - 1), max(1, tiles - 1))
