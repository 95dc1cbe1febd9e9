"""The settings of TinyGPT-V's network: transformers' own for EVA ViT-g and the Q-Former (BLIP-2) and for Phi-2, and what is added.

Sources: arXiv 2312.16862, section 3; `minigpt4.py`, `minigpt_v2.py` and `modeling_phi.py` of DLYuanGod/TinyGPT-V.
"""

# No postponed annotations here: `strict` checks the types of fields only where it can see them.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2QFormerConfig, Blip2VisionConfig, CLIPVisionConfig, PhiConfig, PreTrainedConfig

from minimonkey.errors import CheckpointError
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.pyramid import PyramidSpec

TOWERS: dict[str, type[PreTrainedConfig]] = {"blip_2_vision_model": Blip2VisionConfig, "clip_vision_model": CLIPVisionConfig}
"""Vision encoders by their names in transformers: EVA ViT-g as BLIP-2 has it, or CLIP's, which the paper's abstract names."""


@strict
class TinyGPTVTextConfig(PhiConfig):
    """PhiConfig with the norms that TinyGPT-V adds always on, and the rank of the updates beside the attention's matrices."""

    model_type = "tinygptv_text"
    base_config_key = "text_config"
    base_model_tp_plan = None  # Phi's is about three matrices, which are one here

    gated_mlp: ClassVar[bool] = False
    """Two matrices, where Llama's have three."""

    qk_layernorm: bool = True
    lora_rank: int = 0
    """Rank of the low-rank updates of `query_key_value` and `dense`, as they were trained; 0 for none. 64 as published."""
    lora_alpha: int = 16
    """The updates count `lora_alpha / lora_rank` times."""
    lora_dropout: float | int = 0.05
    """Dropout of what goes into the updates, in training."""


@strict
class TinyGPTVConfig(MiniMonkeyConfig):
    """Vision encoder, Q-Former and language model, the tokens between them, and how large pictures were in training.

    Of InternVL's settings, those of its projector and of the choice of features change nothing here.
    """

    model_type = "tinygptv"
    also_reads: ClassVar[tuple[str, ...]] = ()
    sub_configs = {"vision_config": AutoConfig, "qformer_config": Blip2QFormerConfig, "text_config": TinyGPTVTextConfig}

    vision_config: Any = None
    """Of `TOWERS`. Its `image_size` is that of the table of positions, which is resized for larger pictures."""
    qformer_config: Any = None
    text_config: Any = None
    image_token_id: int = 50295
    """The first id behind those of Phi-2's tokenizer; no text has it."""
    image_seq_length: int = 32
    """Queries of the Q-Former, which are the image tokens of a tile."""
    projector_hidden_size: int = 4096
    """Between the two projections: the width of the Vicuna 7B that the first one was trained for."""
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    @property
    def tile_px(self) -> int:
        """Side of the pictures that the model was trained with, in pixels; others are possible."""
        return (self.pyramid or {}).get("tile_px", PyramidSpec.tile_px)

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that the language model gets of a tile."""
        return self.image_seq_length

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            settings = self.vision_config or {}
            kind = settings.get("model_type", "blip_2_vision_model")
            if kind not in TOWERS:
                raise CheckpointError(f"vision_config.model_type is {kind!r}; expected {' or '.join(TOWERS)}")
            self.vision_config = TOWERS[kind](**settings)
        if not isinstance(self.qformer_config, PreTrainedConfig):
            self.qformer_config = Blip2QFormerConfig(**(self.qformer_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = TinyGPTVTextConfig(**(self.text_config or {}))
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        super().__post_init__(**kwargs)
