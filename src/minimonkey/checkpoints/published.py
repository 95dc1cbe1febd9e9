"""What config.json of a published folder means: `InternVLChatModel` and `MiniMonkeyChatModel`, in our words.

Published folders (model_type `internvl_chat`) are those of InternVL 1.5 to 3, Mini-InternVL and Mini-Monkey before transformers
had a class for them. Knows settings, no files and no tensors. Sources: `configuration_internvl_chat.py`,
`configuration_internlm2.py`, `conversation.py` of OpenGVLab/InternVL and the model folders themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from minimonkey.checkpoints.rules import SAME_NAMES, VISION, Heads, Rule, internlm2_rules
from minimonkey.errors import CheckpointError
from minimonkey.pyramid import PyramidSpec

MODEL_TYPE = "internvl_chat"
TEMPLATES = Path(__file__).parents[1] / "processing" / "templates"
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

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_REQUIRED = {"vision_config": (*_SIZES, "image_size", "patch_size"), "llm_config": (*_SIZES, "vocab_size")}
_OPTIONAL = ("num_key_value_heads", "max_position_embeddings", "original_max_position_embeddings")
_VISION_DEFAULTS = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False, "layer_norm_eps": 1e-6}
"""What the published encoder takes for settings that are left out; transformers takes other values."""
_NORMS = ("layer_norm", "rms_norm")
_ROPES = {"InternLM2ForCausalLM": ("linear", "dynamic"), "Phi3ForCausalLM": ("su", "longrope")}
"""The kinds of rope_scaling that a published network knows."""
_OTHER_ROPES = ("linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class PublishedSettings:
    """config.json of a published folder. Raises CheckpointError, naming `where`, for settings that we would get wrong."""

    raw: Mapping[str, Any]
    where: str

    def __post_init__(self) -> None:
        for part in _REQUIRED:
            self._expect(part, self.raw.get(part), isinstance(self.raw.get(part), dict), "settings, as published folders have")
        self._check_kind()
        self._check_sizes()
        self._check_rope()

    def _expect(self, name: str, value: Any, sound: bool, expected: str) -> None:
        if not sound:
            said = "missing" if value is None else repr(value)
            raise CheckpointError(f"{self.where}: {name} is {said}; expected {expected}")

    def _check_kind(self) -> None:
        """Networks that we would get wrong are refused."""
        expected: dict[str, tuple[Any, Any, str]] = {
            "ps_version": ("v1", "v2", "the order of image tokens that InternVL has had since 1.5"),
            "use_backbone_lora": (0, 0, "merge the LoRA weights into the model first"),
            "use_llm_lora": (0, 0, "merge the LoRA weights into the model first"),
            "pad2square": (False, False, "pictures are never padded to squares"),
        }
        for name, (default, supported, why) in expected.items():
            value = self.raw.get(name, default)
            if value != supported:
                raise CheckpointError(f"{self.where}: {name} is {value!r}; only {supported!r} is supported ({why})")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{self.where}: the language model is {self.architecture!r}; expected one of {', '.join(ARCHITECTURES)}"
            )
        self._expect("template", self.raw.get("template"), self.template in STOP, f"one of {', '.join(STOP)}")
        vision = self._vision
        self._expect("vision_config.norm_type", vision["norm_type"], vision["norm_type"] in _NORMS, f"one of {', '.join(_NORMS)}")
        for part, default in (("vision_config", "gelu"), ("llm_config", "silu")):
            name = self.raw[part].get("hidden_act", default)
            self._expect(f"{part}.hidden_act", name, isinstance(name, str) and name in ACT2FN, f"a function such as {default!r}")
        if vision["qk_normalization"]:  # transformers has this number fixed there
            eps = vision["layer_norm_eps"]
            self._expect("vision_config.layer_norm_eps", eps, eps == 1e-6, "1e-06, as all encoders with qk_normalization have")

    def _check_sizes(self) -> None:
        """Whole numbers that fit each other."""
        vision, language = self._vision, self._language
        for part, names in _REQUIRED.items():
            optional = [name for name in _OPTIONAL if self.raw[part].get(name) is not None]
            for name in (*names, *optional):
                value = self.raw[part].get(name)
                self._expect(f"{part}.{name}", value, _is_count(value), "a whole number, 1 or more")
        multiples = {
            "vision_config.hidden_size": (vision["hidden_size"], vision["num_attention_heads"]),
            "llm_config.num_attention_heads": (language["num_attention_heads"], self._heads.key_value),
        }
        if not language.get("head_dim"):
            multiples["llm_config.hidden_size"] = (language["hidden_size"], language["num_attention_heads"])
        for name, (value, unit) in multiples.items():
            self._expect(name, value, value % unit == 0, f"a multiple of {unit}, for heads of equal size")
        size, forced = vision["image_size"], self.raw.get("force_image_size")
        if forced not in (None, size):
            raise CheckpointError(
                f"{self.where}: force_image_size is {forced!r} and the vision encoder's image_size {size!r}; they must be equal"
            )
        ratio, side = self.raw.get("downsample_ratio", 0.5), size // vision["patch_size"]
        sound = _is_number(ratio) and 0 < ratio <= 1 and (side * ratio).is_integer() and side >= 1
        self._expect("downsample_ratio", ratio, sound, f"a number that makes whole tokens of {side} patches a side")
        layer, layers = self.raw.get("select_layer", -1), vision["num_hidden_layers"]
        in_range = type(layer) is int and -layers - 1 <= layer <= layers
        self._expect("select_layer", layer, in_range, f"one of the encoder's {layers} layers")

    def _check_rope(self) -> None:
        language = self._language
        theta, version = language.get("rope_theta", 10000.0), language.get("rope_pos_id_version", "default")
        self._expect("llm_config.rope_theta", theta, _is_number(theta) and theta > 1, "a number above 1")
        self._expect("llm_config.rope_pos_id_version", version, version in (None, "default"), "'default'")
        scaling, kinds = language.get("rope_scaling"), _ROPES.get(self.architecture, _OTHER_ROPES)
        if scaling is None:
            return
        known = isinstance(scaling, dict) and self._rope_kind in ("default", *kinds)
        self._expect("llm_config.rope_scaling", scaling, known, f"null, or a type of {', '.join(kinds)}")
        if self._rope_kind in ("linear", "dynamic"):
            factor = scaling.get("factor")
            self._expect("llm_config.rope_scaling.factor", factor, _is_number(factor) and factor >= 1, "a number, 1 or more")
        if self._rope_kind in ("su", "longrope"):
            pairs = self._heads.dim // 2
            for name in ("short_factor", "long_factor"):
                factors = scaling.get(name)
                sound = isinstance(factors, list) and len(factors) == pairs and all(_is_number(n) and n > 0 for n in factors)
                self._expect(f"llm_config.rope_scaling.{name}", factors, sound, f"{pairs} numbers, one for two channels of a head")

    @property
    def architecture(self) -> str:
        """The class of the language model, as published."""
        names = self._language.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""

    @property
    def template(self) -> str:
        name = self.raw.get("template")
        return name if isinstance(name, str) else ""

    @property
    def is_mini_monkey(self) -> bool:
        named = [*(self.raw.get("architectures") or ()), *(self.raw.get("auto_map") or {}).values()]
        return any("minimonkey" in str(name).lower() for name in named)

    @property
    def _vision(self) -> dict[str, Any]:
        return _VISION_DEFAULTS | self.raw["vision_config"]

    @property
    def _language(self) -> dict[str, Any]:
        return self.raw["llm_config"]

    @property
    def _heads(self) -> Heads:
        heads = self._language["num_attention_heads"]
        key_value = self._language.get("num_key_value_heads") or heads
        return Heads(key_value, heads // key_value, self._language.get("head_dim") or self._language["hidden_size"] // heads)

    @property
    def tokens_per_tile(self) -> int:
        vision = self._vision
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
        self._expect("max_dynamic_patch", most, _is_count(most), "a whole number, 1 or more")
        self._expect("min_dynamic_patch", fewest, _is_count(fewest) and fewest <= most, f"a whole number from 1 to {most}")
        return PyramidSpec.plain(fewest, most, tile_px=tile_px, thumbnail=self.raw.get("use_thumbnail", False))

    def native(self, image_token_id: int) -> dict[str, Any]:
        """The fields of a MiniMonkeyConfig, the pyramid excepted."""
        language = self._language
        kind = ARCHITECTURES[self.architecture]
        text = {name: language[name] for name in (*_COMMON, *_OWN[kind]) if name in language}
        if self.architecture == "InternLM2ForCausalLM":
            text["attention_bias"] = language.get("bias", True)
        if text.get("pad_token_id") not in range(language["vocab_size"]):  # where there is none, Phi-3's default is 32000
            text["pad_token_id"] = None
        text |= {"model_type": kind, "rope_parameters": self._rope()}
        vision = {new: self._vision[old] for old, new in _VISION.items() if old in self._vision}
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

    @property
    def _rope_kind(self) -> Any:
        scaling = self._language.get("rope_scaling") or {"type": "default"}
        return scaling.get("type", scaling.get("rope_type"))

    def _rope(self) -> dict[str, Any]:
        """rope_theta and rope_scaling in one, as transformers 5 has them; "su" is Phi-3's old name of longrope."""
        language, scaling = self._language, self._language.get("rope_scaling") or {}
        rope = {name: value for name, value in scaling.items() if name not in ("type", "rope_type")}
        rope |= {"rope_theta": float(language.get("rope_theta", 10000.0)), "rope_type": self._rope_kind}
        if self._rope_kind in ("su", "longrope"):
            window, first = (language.get(name) or 4096 for name in ("max_position_embeddings", "original_max_position_embeddings"))
            # Published code and transformers find this ratio for themselves; transformers advises users at length to write it down.
            rope |= {"rope_type": "longrope", "factor": max(1.0, window / first)}
        return rope

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What the tensors are called, and how they are cut."""
        return VISION + (internlm2_rules(self._heads) if self.architecture == "InternLM2ForCausalLM" else SAME_NAMES)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1  # True is no count


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def chat_template(name: str) -> str:
    """The Jinja source of a published chat template, by its published name."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
