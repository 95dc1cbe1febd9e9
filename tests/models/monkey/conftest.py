"""A tiny random Monkey: windows of 28 pixels with 4 tokens each, two adapters, a language model of two layers."""

import pytest
import torch

from minimonkey.models.monkey.configuration import MonkeyConfig
from minimonkey.models.monkey.modeling import MonkeyForConditionalGeneration

START, END, PAD = 60, 61, 62


@pytest.fixture
def tiny_monkey():
    """Make one: `tiny_monkey(adapters=6, seq_length=32)`; weights of every kind are random, the adapters' too."""

    def make(adapters: int = 2, **text) -> MonkeyForConditionalGeneration:
        torch.manual_seed(0)
        layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        vision = layers | {"image_size": 28, "patch_size": 7, "position_rows": 4, "queries": 4, "resampler_heads": 2}
        vision |= {"adapters": adapters, "attention_rank": 2, "mlp_rank": 3}
        sizes = {"num_key_value_heads": 4, "vocab_size": 64, "seq_length": 64, "max_position_embeddings": 512}
        config = MonkeyConfig(
            vision_config=vision,
            text_config=layers | sizes | text,
            image_token_id=PAD,
            image_start_id=START,
            image_end_id=END,
        )
        network = MonkeyForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.3)
        network.generation_config.eos_token_id = None
        return network

    return make


@pytest.fixture
def prompt():
    """Make ids [1, L] of a prompt with so many image tokens and words."""

    def make(image_tokens: int, words: int = 5) -> torch.Tensor:
        torch.manual_seed(1)
        picture = [START, *[PAD] * image_tokens, END] if image_tokens else []
        return torch.tensor([picture + torch.randint(0, 60, (words,)).tolist()])

    return make
