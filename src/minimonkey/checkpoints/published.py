"""What config.json of a published folder means: `InternVLChatModel` and `MiniMonkeyChatModel`, in our words.

Published folders (model_type `internvl_chat`) are those of InternVL 1.5 to 3, Mini-InternVL and Mini-Monkey before transformers
had a class for them. Knows settings, no files and no tensors. Sources: `configuration_internvl_chat.py`,
`configuration_internlm2.py`, `conversation.py` of OpenGVLab/InternVL and the model folders themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimonkey.checkpoints.rules import SAME_NAMES, VISION, Heads, Rule, internlm2_rules
from minimonkey.errors import CheckpointError
from minimonkey.pyramid import PyramidSpec

MODEL_TYPE = "internvl_chat"
TEMPLATES = Path(__file__).parents[1] / "templates"
STOP = {
    "internlm2-chat": "<|im_end|>",
    "Hermes-2": "<|im_end|>",
    "internvl2_5": "<|im_end|>",
    "phi3-chat": "<|end|>",
    "internvl_zh": "</s>",
}
"""The token that ends an answer in each chat template (`Conversation.sep`)."""
ARCHITECTURES = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Phi3ForCausalLM": "phi3",
}
"""model_type in transformers of each published language model."""

_COMMON = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "max_position_embeddings", "rms_norm_eps", "initializer_range", "attention_dropout", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_OWN: dict[str, tuple[str, ...]] = {
    "llama": ("head_dim", "attention_bias", "mlp_bias"),
    "qwen2": ("use_sliding_window", "sliding_window", "max_window_layers"),
    "qwen3": ("head_dim", "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers"),
    "phi3": ("original_max_position_embeddings", "sliding_window", "embd_pdrop", "resid_pdrop"),
}
_VISION = {
    **{name: name for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels")},
    **{
        name: name
        for name in ("hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range", "image_size", "patch_size")
    },
    "norm_type": "norm_type",
    "qk_normalization": "use_qk_norm",
    "qkv_bias": "attention_bias",
    "dropout": "hidden_dropout_prob",
}
"""Published name: name in InternVLVisionConfig."""


@dataclass(frozen=True)
class PublishedSettings:
    """config.json of a published folder. Raises CheckpointError, naming `where`, for settings that we would get wrong."""

    raw: Mapping[str, Any]
    where: str

    def __post_init__(self) -> None:
        for part in ("vision_config", "llm_config"):
            if not isinstance(self.raw.get(part), dict):
                raise CheckpointError(
                    f"{self.where}: {part} is {self.raw.get(part)!r}; expected settings, as published folders have"
                )
        expected: dict[str, tuple[Any, str]] = {
            "ps_version": ("v2", "the order of image tokens that InternVL has had since 1.5"),
            "use_backbone_lora": (0, "merge the LoRA weights into the model first"),
            "use_llm_lora": (0, "merge the LoRA weights into the model first"),
            "pad2square": (False, "pictures are never padded to squares"),
        }
        for name, (value, why) in expected.items():
            if self.raw.get(name, value) != value:
                raise CheckpointError(f"{self.where}: {name} is {self.raw[name]!r}; only {value!r} is supported ({why})")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{self.where}: the language model is {self.architecture!r}; expected one of {', '.join(ARCHITECTURES)}"
            )
        if self.template not in STOP:
            raise CheckpointError(f"{self.where}: template is {self.template!r}; expected one of {', '.join(STOP)}")
        image_size = self.raw["vision_config"].get("image_size")
        if self.raw.get("force_image_size") not in (None, image_size):
            raise CheckpointError(
                f"{self.where}: force_image_size is {self.raw['force_image_size']!r} and the vision encoder's image_size "
                f"{image_size!r}; they must be equal"
            )

    @property
    def architecture(self) -> str:
        """The class of the language model, as published."""
        names = self.raw["llm_config"].get("architectures")
        return names[0] if isinstance(names, list) and names else ""

    @property
    def template(self) -> str:
        return self.raw.get("template", "")

    @property
    def is_mini_monkey(self) -> bool:
        named = [*(self.raw.get("architectures") or ()), *(self.raw.get("auto_map") or {}).values()]
        return any("minimonkey" in str(name).lower() for name in named)

    @property
    def tokens_per_tile(self) -> int:
        vision = self.raw["vision_config"]
        return int((vision["image_size"] // vision["patch_size"]) * self._downsample) ** 2

    @property
    def _downsample(self) -> float:
        return float(self.raw.get("downsample_ratio", 0.5))

    def pyramid(self, *, mini_monkey: bool) -> PyramidSpec:
        """How the published inference code cuts pictures: CIP with 4-12 and 3-7 tiles for Mini-Monkey, plain tiling otherwise."""
        tile_px = self.raw["vision_config"]["image_size"]
        if mini_monkey or self.is_mini_monkey:
            return PyramidSpec(tile_px=tile_px)
        if not self.raw.get("dynamic_image_size", False):
            return PyramidSpec.plain(1, 1, tile_px=tile_px)
        fewest, most = self.raw.get("min_dynamic_patch", 1), self.raw.get("max_dynamic_patch", 6)
        return PyramidSpec.plain(fewest, most, tile_px=tile_px, thumbnail=self.raw.get("use_thumbnail", False))

    def native(self, image_token_id: int) -> dict[str, Any]:
        """The fields of a MiniMonkeyConfig, the pyramid excepted."""
        language = self.raw["llm_config"]
        kind = ARCHITECTURES[self.architecture]
        text = {name: language[name] for name in (*_COMMON, *_OWN[kind]) if name in language}
        if self.architecture == "InternLM2ForCausalLM":
            text["attention_bias"] = language.get("bias", False)
        text |= {"model_type": kind, "rope_parameters": self._rope()}
        vision = {new: self.raw["vision_config"][old] for old, new in _VISION.items() if old in self.raw["vision_config"]}
        # The published encoder ends without a norm: mean pooling is what tells transformers' class to leave its own out.
        vision |= {"use_mean_pooling": True, "use_mask_token": False, "use_absolute_position_embeddings": True}
        return {
            "vision_config": vision,
            "text_config": text,
            "image_token_id": image_token_id,
            "image_seq_length": self.tokens_per_tile,
            "downsample_ratio": self._downsample,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": self.raw.get("select_layer", -1),
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": language.get("tie_word_embeddings", False),
        }

    def _rope(self) -> dict[str, Any]:
        """rope_theta and rope_scaling in one, as transformers 5 has them; "su" is Phi-3's old name of longrope."""
        language = self.raw["llm_config"]
        scaling = dict(language.get("rope_scaling") or {})
        kind = scaling.pop("type", scaling.pop("rope_type", "default"))
        return {
            "rope_theta": float(language.get("rope_theta", 10000.0)),
            "rope_type": "longrope" if kind == "su" else kind,
            **scaling,
        }

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What the tensors are called, and how they are cut."""
        if self.architecture != "InternLM2ForCausalLM":
            return VISION + SAME_NAMES
        language = self.raw["llm_config"]
        heads, key_value = language["num_attention_heads"], language["num_key_value_heads"]
        dim = language.get("head_dim") or language["hidden_size"] // heads
        return VISION + internlm2_rules(Heads(key_value, heads // key_value, dim))


def chat_template(name: str) -> str:
    """The Jinja source of a published chat template, by its published name."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
