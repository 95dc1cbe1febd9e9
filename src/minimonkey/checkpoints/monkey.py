"""A folder as Monkey was published: `echo840/Monkey`, `echo840/Monkey-Chat`, and what its training script saves.

Knows what its settings and tensors mean in our words. Sources: `configuration_monkey.py`, `modeling_monkey.py`, `modeling_qwen.py`,
`visual.py` and `tokenization_qwen.py` of Yuliang-Liu/Monkey.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from minimonkey.checkpoints.family import PublishedFolder
from minimonkey.checkpoints.published import chat_template
from minimonkey.checkpoints.rules import Rule
from minimonkey.checkpoints.tiktoken import FILE, monkey_tokenizer
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.processing.monkey import END, PAD, START, MonkeyProcessor, MonkeyTokenizer
from minimonkey.processing.windows import MonkeyImageProcessor
from minimonkey.pyramid import PyramidSpec

WINDOW_PX, QUERIES, POSITIONS, HEAD_CHANNELS = 448, 256, 256, 128
"""Constants of the published code: side of a window, queries of the resampler, rows of position tables, channels of its heads."""
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "kv_channels", "seq_length")
VISUAL = ("width", "layers", "heads", "patch_size", "image_size", "output_dim", "lora_repeat_num", "image_start_id")
ONLY = {
    "no_bias": (True, "Qwen's linear maps have none but queries, keys and values"),
    "rotary_pct": (1.0, "all channels of a head are turned"),
    "scale_attn_weights": (True, "attention is scaled by the channels of a head"),
    "tie_word_embeddings": (False, "Qwen has a head of its own"),
}
"""Settings that the network has one value of, and why."""


def monkey_rules(adapters: int) -> tuple[Rule, ...]:
    """Published tensors as ours; adapters of a block are stacked."""
    tower, block = "transformer.visual.", "transformer.visual.transformer.resblocks.#."
    layer, pool, text = "vision_tower.layers.#.", "transformer.visual.attn_pool.", "language_model.model.layers.#."
    names = {
        f"{tower}conv1.*": "vision_tower.patch_embedding.*",
        f"{tower}positional_embedding": "vision_tower.position_embedding",
        f"{tower}ln_pre.*": "vision_tower.pre_norm.*",
        f"{block}ln_1.*": f"{layer}attention_norm.*",
        f"{block}ln_2.*": f"{layer}mlp_norm.*",
        f"{block}attn.in_proj.*": f"{layer}attention.qkv.*",
        f"{block}attn.out_proj.*": f"{layer}attention.output.*",
        f"{block}mlp.c_fc.*": f"{layer}mlp.fc1.*",
        f"{block}mlp.c_proj.*": f"{layer}mlp.fc2.*",
        f"{pool}query": "multi_modal_projector.query",
        f"{pool}pos_embed": "multi_modal_projector.position_embedding",
        f"{pool}kv_proj.*": "multi_modal_projector.key_value_proj.*",
        f"{pool}ln_q.*": "multi_modal_projector.query_norm.*",
        f"{pool}ln_kv.*": "multi_modal_projector.key_value_norm.*",
        f"{pool}attn.out_proj.*": "multi_modal_projector.o_proj.*",
        f"{tower}ln_post.*": "multi_modal_projector.post_norm.*",
        f"{tower}proj": "multi_modal_projector.projection",
        "transformer.wte.*": "language_model.model.embed_tokens.*",
        "transformer.ln_f.*": "language_model.model.norm.*",
        "transformer.h.#.ln_1.*": f"{text}input_layernorm.*",
        "transformer.h.#.ln_2.*": f"{text}post_attention_layernorm.*",
        "transformer.h.#.attn.c_proj.*": f"{text}self_attn.o_proj.*",
        "transformer.h.#.mlp.w1.*": f"{text}mlp.up_proj.*",
        "transformer.h.#.mlp.w2.*": f"{text}mlp.gate_proj.*",
        "transformer.h.#.mlp.c_proj.*": f"{text}mlp.down_proj.*",
        "lm_head.*": "language_model.lm_head.*",
    }
    of_block = {
        "attn.in_proj_lora": "attention.qkv_adapters",
        "attn.out_proj_lora": "attention.output_adapters",
        "mlp_lora": "mlp_adapters",
    }
    parts = {"lora_a.weight": "lora_a", "lora_b.weight": "lora_b", "lora_scale": "lora_scale"}
    qkv = ("q_proj", "k_proj", "v_proj")
    return (
        *(Rule(published, (native,)) for published, native in names.items()),
        Rule(f"{pool}attn.in_proj_*", tuple(f"multi_modal_projector.{part}.*" for part in qkv)),
        Rule("transformer.h.#.attn.c_attn.*", tuple(f"{text}self_attn.{part}.*" for part in qkv)),
        *(
            Rule(f"{block}{theirs}.@.{part}", (f"{layer}{ours}.{stacked}",), stack=adapters)
            for theirs, ours in of_block.items()
            for part, stacked in parts.items()
        ),
    )


class MonkeyFolder(PublishedFolder):
    """What `MonkeyLMHeadModel` loads."""

    layout_name = "monkey"
    wanted_files = (FILE,)
    kept_files = (*PublishedFolder.kept_files, FILE)

    @classmethod
    def matches(cls, path: Path, settings: Mapping[str, Any] | None) -> bool:
        return settings is not None and settings.get("model_type") == "monkey" and "vision_config" not in settings

    @property
    def _file(self) -> Path:
        return self.path / "config.json"

    @property
    def _visual(self) -> Mapping[str, Any]:
        return self.settings["visual"]

    def _expect(self, name: str, value: Any, sound: bool, expected: str) -> None:
        if not sound:
            said = "missing" if value is None else repr(value)
            raise CheckpointError(f"{self._file}: {name} is {said}; expected {expected}")

    def check_settings(self) -> None:
        self._expect(
            "visual", self.settings.get("visual"), isinstance(self.settings.get("visual"), dict), "settings of the encoder"
        )
        for prefix, settings, names in (("", self.settings, SIZES), ("visual.", self._visual, VISUAL)):
            for name in names:
                value = settings.get(name)
                self._expect(prefix + name, value, type(value) is int and value >= 1, "a whole number, 1 or more")
        for name, (only, why) in ONLY.items():
            value = self.settings.get(name, only)
            self._expect(name, value, value == only, f"{only!r}: {why}")
        ratio = self._visual.get("mlp_ratio")
        self._expect("visual.mlp_ratio", ratio, isinstance(ratio, float | int) and ratio > 0, "a positive number")
        multiples = {
            "intermediate_size": (self.settings["intermediate_size"], 2, "twice the width of the MLP"),
            "visual.width": (self._visual["width"], self._visual["heads"], "heads of equal size"),
            "visual.output_dim": (self._visual["output_dim"], HEAD_CHANNELS, "heads of the resampler"),
            "visual.image_size": (self._visual["image_size"], WINDOW_PX, "whole windows"),
        }
        for name, (value, unit, why) in multiples.items():
            self._expect(name, value, value % unit == 0, f"a multiple of {unit}, for {why}")
        width, channels = self._visual["output_dim"], self.settings["num_attention_heads"] * self.settings["kv_channels"]
        self._expect("visual.output_dim", width, width == self.settings["hidden_size"], "the language model's hidden_size")
        self._expect("kv_channels", self.settings["kv_channels"], channels == width, f"heads that make {width} channels together")
        windows, adapters = self._columns**2, self._visual["lora_repeat_num"]
        self._expect(
            "visual.lora_repeat_num", adapters, adapters == windows, f"{windows}, an adapter for each window of {WINDOW_PX} px"
        )
        patch = self._visual["patch_size"]
        self._expect("visual.patch_size", patch, WINDOW_PX % patch == 0, f"a divisor of {WINDOW_PX}")

    @property
    def _columns(self) -> int:
        return self._visual["image_size"] // WINDOW_PX

    @cached_property
    def pyramid(self) -> PyramidSpec:
        """The windows, and the global view behind them."""
        return PyramidSpec.windows(self._columns, self._columns, tile_px=WINDOW_PX)

    def config_fields(self) -> dict[str, Any]:
        self.check_settings()
        settings, visual = self.settings, self._visual
        start, end, pad = self.tokenizer.convert_tokens_to_ids([START, END, PAD])
        self._expect(
            "visual.image_start_id", visual["image_start_id"], visual["image_start_id"] == start, f"{start}, the id of {START}"
        )
        text = {name: settings[name] for name in SIZES if name not in ("intermediate_size", "kv_channels")}
        text |= {
            "intermediate_size": settings["intermediate_size"] // 2,
            "head_dim": settings["kv_channels"],
            "num_key_value_heads": settings["num_attention_heads"],
            "rms_norm_eps": settings.get("layer_norm_epsilon", 1e-6),
            "max_position_embeddings": settings.get("max_position_embeddings", 8192),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(settings.get("rotary_emb_base", 10000))},
            "attention_dropout": settings.get("attn_dropout_prob", 0.0),
            "initializer_range": settings.get("initializer_range", 0.02),
            "use_dynamic_ntk": bool(settings.get("use_dynamic_ntk", True)),
            "use_logn_attn": bool(settings.get("use_logn_attn", True)),
            "tie_word_embeddings": False,
        }
        vision = {
            "hidden_size": visual["width"],
            "num_hidden_layers": visual["layers"],
            "num_attention_heads": visual["heads"],
            "intermediate_size": math.floor(visual["width"] * visual["mlp_ratio"]),
            "patch_size": visual["patch_size"],
            "image_size": WINDOW_PX,
            "position_rows": POSITIONS,
            "queries": QUERIES,
            "adapters": visual["lora_repeat_num"],
            "resampler_heads": visual["output_dim"] // HEAD_CHANNELS,
        }
        ids = {"image_token_id": pad, "image_start_id": start, "image_end_id": end}
        return (
            {"vision_config": vision, "text_config": text, "pyramid": dataclasses.asdict(self.pyramid)}
            | ids
            | {"image_seq_length": QUERIES}
        )

    def stock_fields(self) -> dict[str, Any]:
        raise UsageError(f"{self.name}: transformers has no class for Monkey; convert it to native")

    @cached_property
    def tokenizer(self) -> MonkeyTokenizer:
        return monkey_tokenizer(
            self.path,
            vocabulary=self.settings["vocab_size"],
            image_tokens=QUERIES * (self._columns**2 + 1),
            model_max_length=self.settings.get("max_position_embeddings", 8192),
        )

    def processor(self) -> MonkeyProcessor:
        images = MonkeyImageProcessor(pyramid=self.pyramid)
        return MonkeyProcessor(images, self.tokenizer, chat_template=chat_template("monkey"), image_seq_length=QUERIES)

    def finish_generation(self, settings: GenerationConfig) -> None:
        """The end of text ends an answer and pads, as in the published scripts."""
        settings.eos_token_id = settings.pad_token_id = self.tokenizer.eos_token_id

    @property
    def rules(self) -> Sequence[Rule]:
        return monkey_rules(self._visual["lora_repeat_num"])
