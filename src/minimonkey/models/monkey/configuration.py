"""Monkey's configuration: encoder with adapters, resampler and language model, in our words."""

# No postponed annotations here: `strict` checks the types of fields only where it can see them.
import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, Qwen2Config

from minimonkey.errors import CheckpointError
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig


@strict
class MonkeyVisionConfig(PreTrainedConfig):
    """The encoder of Qwen-VL (ViT-bigG of OpenCLIP without class token), adapters for windows, and the resampler.

    Defaults are the published ones (`echo840/Monkey`).
    """

    model_type = "monkey_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1664
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    intermediate_size: int = 8192
    num_channels: int = 3
    patch_size: int = 14
    image_size: int = 448
    """Side of a window and of the global view, in pixels."""
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    position_rows: int = 256
    """Rows of the position table, a square number; it is resized to the patches of a window."""
    adapters: int = 4
    """Windows of a picture that have an adapter of their own; the global view has none."""
    attention_rank: int = 16
    mlp_rank: int = 32
    adapter_dropout: float = 0.05
    queries: int = 256
    """Image tokens of a window, a square number."""
    resampler_heads: int = 32

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("position_rows", "queries"):
            if math.isqrt(getattr(self, name)) ** 2 != getattr(self, name):
                raise CheckpointError(
                    f"vision_config.{name} is {getattr(self, name)}; expected a square number, as of a 16x16 grid"
                )


@strict
class MonkeyTextConfig(Qwen2Config):
    """Qwen-7B as a Qwen2 that stretches: beyond `seq_length` positions turn more slowly, and later queries look harder."""

    model_type = "monkey_text"
    base_config_key = "text_config"

    head_dim: int | None = None
    """Channels of a head; None: hidden_size / num_attention_heads."""
    seq_length: int = 2048
    """The longest sequence of the training."""
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True


@strict
class MonkeyConfig(MiniMonkeyConfig):
    """The whole network. `image_start_id` and `image_end_id` enclose the image tokens of a picture."""

    model_type = "monkey"
    also_reads: ClassVar[tuple[str, ...]] = ()
    sub_configs = {"text_config": MonkeyTextConfig, "vision_config": MonkeyVisionConfig}

    vision_config: Any = None
    text_config: Any = None

    image_token_id: int = 151859
    image_start_id: int = 151857
    image_end_id: int = 151858
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():  # by hand: how a class says its defaults differs between releases
            if not isinstance(getattr(self, name), PreTrainedConfig):
                setattr(self, name, kind(**(getattr(self, name) or {})))
        super().__post_init__(**kwargs)

    @property
    def tile_px(self) -> int:
        return self.vision_config.image_size

    @property
    def tokens_per_tile(self) -> int:
        return self.vision_config.queries

    @property
    def projector_weights(self) -> int:
        """Multiplications of the resampler for a window: keys and values of its patches, queries, attention, output, projection."""
        vision, width = self.vision_config, self.text_config.hidden_size
        patches = (vision.image_size // vision.patch_size) ** 2
        return patches * width * (vision.hidden_size + 2 * width + 2 * vision.queries) + 3 * vision.queries * width**2

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers. Raises CheckpointError for settings as Monkey was published with, whose model_type is the same."""
        if "visual" in config_dict:
            raise CheckpointError(
                "these are the settings of a folder as Monkey was published; it loads with minimonkey.load(), or once `minimonkey "
                "convert` has written it anew"
            )
        return super().from_dict(config_dict, **kwargs)
