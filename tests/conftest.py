"""Tiny processors and models, random and offline: 28-pixel tiles of four tokens, a tokenizer of single characters.

Each fixture imports what it needs, so that tests of light modules stay light.
"""

import signal
from pathlib import Path

import pytest

from minimonkey.pyramid import PyramidSpec

collect_ignore = ["peer"]
"""transformers' own tests, which `make test-peer` fetches."""
TILE_PX, PATCH_PX, TOKENS_A_TILE = 28, 7, 4
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs recorded from the published code."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where these tests run with it ignored: under nohup, in background jobs, in CI."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def auto_classes():
    """The Auto classes know our model type."""
    import minimonkey

    minimonkey.register()


@pytest.fixture
def tiny_tokenizer():
    from minimonkey.training.nano.character_tokenizer import character_tokenizer

    return character_tokenizer(PRINTABLE)


@pytest.fixture
def tiny_processor(tiny_tokenizer):
    """Make a processor: `tiny_processor(detail=(1, 4), ...)` takes the settings of PyramidSpec."""
    from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
    from minimonkey.processing.processor import MiniMonkeyProcessor

    def make(**pyramid) -> MiniMonkeyProcessor:
        image_processor = MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=TILE_PX, **pyramid))
        return MiniMonkeyProcessor(image_processor, tiny_tokenizer, image_seq_length=TOKENS_A_TILE)

    return make


@pytest.fixture
def tiny_config(tiny_tokenizer):
    """Make a configuration that fits `tiny_processor`: `tiny_config("qwen2", max_position_embeddings=512, pyramid=...)`."""
    from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig

    def make(text: str = "llama", max_position_embeddings: int = 2048, **fields) -> MiniMonkeyConfig:
        layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        text_config = {
            "model_type": text,
            "num_key_value_heads": 2,
            "vocab_size": len(tiny_tokenizer),
            "max_position_embeddings": max_position_embeddings,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        }
        return MiniMonkeyConfig(
            vision_config=layers | {"image_size": TILE_PX, "patch_size": PATCH_PX},
            text_config=layers | text_config,
            image_token_id=tiny_tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=TOKENS_A_TILE,
            tie_word_embeddings=False,
            **fields,
        )

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Make a random model in evaluation mode, with the settings of `tiny_config`: norms and biases are random too, so that none of
    them can be left out unseen."""
    import torch

    from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration

    def make(text: str = "llama", seed: int = 0, **fields) -> MiniMonkeyForConditionalGeneration:
        model = MiniMonkeyForConditionalGeneration(tiny_config(text, **fields))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def recorded_tinygptv(golden):
    """TinyGPT-V's recorded folder, loaded in float32; whoever changes it, changes it for all tests."""
    import minimonkey

    return minimonkey.load(golden / "tinygptv" / "checkpoint", vision_heads=3)
