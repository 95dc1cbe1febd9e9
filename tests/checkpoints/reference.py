"""The published networks said anew in plain torch, without a class of transformers, and random folders in the published layout.

InternViT, pixel shuffle and mlp1, then InternLM2, Qwen2 or Phi-3: one prompt at a time, each key and value kept as it was turned in
its own step. Written from what the published code does (OpenGVLab/InternVL: intern_vit, internvl_chat, internlm2, phi3; for Qwen2
and masks transformers 4.37.2). It is what our loading is held against where nothing was recorded.

    shapes: T tiles, P patches and the class token, C channels, L new tokens, M all tokens so far, D hidden size,
            H query heads, K key heads, E channels of a head, V vocabulary
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear, silu, softmax

Config = dict[str, Any]
Weights = dict[str, torch.Tensor]

SU = {"type": "su", "short_factor": [1.0, 1.1, 1.3, 1.9], "long_factor": [1.5, 2.5, 4.0, 9.0]}
"""Phi-3's rope for heads of eight channels."""
NAMES = {
    "embed": "embed_tokens", "head": "lm_head", "before": "input_layernorm", "after": "post_attention_layernorm",
    "out": "self_attn.o_proj", "down": "mlp.down_proj",
}  # fmt: skip
INTERNLM2_NAMES = {
    "embed": "tok_embeddings", "head": "output", "before": "attention_norm", "after": "ffn_norm",
    "out": "attention.wo", "down": "feed_forward.w2",
}  # fmt: skip


def rms_norm(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * states / (states.square().mean(-1, keepdim=True) + eps).sqrt()


class Vision:
    """Tiles to image tokens; `weights` by their published names, float32."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config, self.settings, self.weights = config, config["vision_config"], weights

    def features(self, tiles: torch.Tensor) -> torch.Tensor:
        """[T, 3, S, S] -> [T, (P - 1) / 4, D]."""
        states = [self.embeddings(tiles)]
        for index in range(self.settings["num_hidden_layers"]):
            states.append(self.layer(states[-1], f"vision_model.encoder.layers.{index}."))
        patches = states[self.config["select_layer"]][:, 1:]
        grid = patches.unflatten(1, (math.isqrt(patches.shape[1]), -1))
        corners = [grid[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
        joined = torch.cat(corners, dim=-1).flatten(1, 2)
        joined = layer_norm(joined, joined.shape[-1:], self.weights["mlp1.0.weight"], self.weights["mlp1.0.bias"], 1e-5)
        return self.linear(gelu(self.linear(joined, "mlp1.1")), "mlp1.3")

    def embeddings(self, tiles: torch.Tensor) -> torch.Tensor:
        name = "vision_model.embeddings."
        weight, bias = (self.weights[f"{name}patch_embedding.{part}"] for part in ("weight", "bias"))
        patches = conv2d(tiles, weight, bias, stride=self.settings["patch_size"]).flatten(2).transpose(1, 2)
        classes = self.weights[f"{name}class_embedding"].expand(len(tiles), -1, -1)
        return torch.cat((classes, patches), dim=1) + self.weights[f"{name}position_embedding"]

    def layer(self, states: torch.Tensor, name: str) -> torch.Tensor:
        states = states + self.attention(self.norm(states, f"{name}norm1"), f"{name}attn.") * self.weights[f"{name}ls1"]
        inner = gelu(self.linear(self.norm(states, f"{name}norm2"), f"{name}mlp.fc1"))
        return states + self.linear(inner, f"{name}mlp.fc2") * self.weights[f"{name}ls2"]

    def attention(self, states: torch.Tensor, name: str) -> torch.Tensor:
        queries, keys, values = self.linear(states, f"{name}qkv").chunk(3, dim=-1)
        if self.settings["qk_normalization"]:
            queries = rms_norm(queries, self.weights[f"{name}q_norm.weight"], self.settings["layer_norm_eps"])
            keys = rms_norm(keys, self.weights[f"{name}k_norm.weight"], self.settings["layer_norm_eps"])
        heads = self.settings["num_attention_heads"]
        queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        mixed = softmax(queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1]), dim=-1) @ values
        return self.linear(mixed.transpose(1, 2).flatten(2), f"{name}proj")

    def norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        weight, eps = self.weights[f"{name}.weight"], self.settings["layer_norm_eps"]
        if self.settings["norm_type"] == "rms_norm":
            return rms_norm(states, weight, eps)
        return layer_norm(states, states.shape[-1:], weight, self.weights[f"{name}.bias"], eps)

    def linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
        return linear(states, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))


class Language:
    """Embeddings to logits, a prompt or a token at a time; keys [K, M, E] and values of each layer are kept."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.settings, self.weights = config["llm_config"], weights
        self.family = self.settings["architectures"][0]
        self.names = INTERNLM2_NAMES if self.family == "InternLM2ForCausalLM" else NAMES
        self.heads = self.settings["num_attention_heads"]
        self.key_heads = self.settings.get("num_key_value_heads") or self.heads
        self.channels = self.settings["hidden_size"] // self.heads
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def embed(self, ids: list[int]) -> torch.Tensor:
        return embedding(torch.tensor(ids), self.weights[f"language_model.model.{self.names['embed']}.weight"])

    def step(self, states: torch.Tensor) -> torch.Tensor:
        """[L, D] -> [L, V]."""
        seen = self.kept[0][0].shape[1] if self.kept else 0
        positions, eps = torch.arange(seen, seen + len(states)), self.settings["rms_norm_eps"]
        rotation, kept, self.kept = self.rotation(positions), self.kept, []
        for index in range(self.settings["num_hidden_layers"]):
            name = f"language_model.model.layers.{index}."
            queries, keys, values = self.projections(self.norm(states, name + self.names["before"]), name)
            queries, keys = turned(queries, *rotation), turned(keys, *rotation)
            if kept:
                keys, values = torch.cat((kept[index][0], keys), dim=1), torch.cat((kept[index][1], values), dim=1)
            self.kept.append((keys, values))
            states = states + self.linear(self.attention(queries, keys, values, positions), name + self.names["out"])
            states = states + self.feed_forward(self.norm(states, name + self.names["after"]), name)
        states = rms_norm(states, self.weights["language_model.model.norm.weight"], eps)
        head = self.weights.get(f"language_model.{self.names['head']}.weight")
        return linear(states, self.weights[f"language_model.model.{self.names['embed']}.weight"] if head is None else head)

    def projections(self, states: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[L, D] -> queries [H, L, E], keys and values [K, L, E]."""
        if self.family == "InternLM2ForCausalLM":
            group = self.heads // self.key_heads
            fused = self.linear(states, f"{name}attention.wqkv").unflatten(-1, (self.key_heads, group + 2, self.channels))
            queries, keys, values = fused[:, :, :group].flatten(1, 2), fused[:, :, group], fused[:, :, group + 1]
        else:
            if self.family == "Phi3ForCausalLM":
                width = self.key_heads * self.channels
                fused = self.linear(states, f"{name}self_attn.qkv_proj")
                parts = list(fused.split([self.heads * self.channels, width, width], dim=-1))
            else:
                parts = [self.linear(states, f"{name}self_attn.{part}_proj") for part in "qkv"]
            queries, keys, values = (part.unflatten(-1, (-1, self.channels)) for part in parts)
        return queries.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1)

    def attention(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        """[H, L, E] -> [L, D]; a token sees itself and those before it, of which Phi-3 leaves out what its window has passed."""
        keys, values = (part.repeat_interleave(self.heads // self.key_heads, dim=0) for part in (keys, values))
        back = now[:, None] - torch.arange(keys.shape[1])
        window = self.settings.get("sliding_window") if self.family == "Phi3ForCausalLM" else None
        hidden = (back < 0) | (back >= (window or math.inf))
        weights = (queries @ keys.transpose(-1, -2) / math.sqrt(self.channels)).masked_fill(hidden, -math.inf)
        return (softmax(weights, dim=-1) @ values).transpose(0, 1).flatten(1)

    def feed_forward(self, states: torch.Tensor, name: str) -> torch.Tensor:
        if self.family == "Phi3ForCausalLM":
            gate, up = self.linear(states, f"{name}mlp.gate_up_proj").chunk(2, dim=-1)
        else:
            both = ("feed_forward.w1", "feed_forward.w3") if self.names is INTERNLM2_NAMES else ("mlp.gate_proj", "mlp.up_proj")
            gate, up = (self.linear(states, name + part) for part in both)
        return self.linear(silu(gate) * up, name + self.names["down"])

    def rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [L, E] for positions at the end of a row; how long it is by now decides for all of them."""
        length, window = int(positions[-1]) + 1, self.settings["max_position_embeddings"]
        exponents = torch.arange(0, self.channels, 2) / self.channels
        base, slower, larger = float(self.settings.get("rope_theta", 10000.0)), torch.tensor(1.0), 1.0
        rope = self.settings.get("rope_scaling") or {"type": None}
        if rope["type"] == "linear":
            slower = torch.tensor(rope["factor"])
        elif rope["type"] == "dynamic" and length > window:
            growth = rope["factor"] * length / window - (rope["factor"] - 1)
            base *= growth ** (self.channels / (self.channels - 2))
        elif rope["type"] == "su":
            first = self.settings["original_max_position_embeddings"]
            slower = torch.tensor(rope["long_factor"] if length > first else rope["short_factor"])
            larger = math.sqrt(1 + math.log(window / first) / math.log(first)) if window > first else 1.0
        angles = positions[:, None] * (1.0 / (slower * base**exponents))
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * larger, angles.sin() * larger

    def norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        return rms_norm(states, self.weights[f"{name}.weight"], self.settings["rms_norm_eps"])

    def linear(self, states: torch.Tensor, name: str) -> torch.Tensor:
        return linear(states, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))


def turned(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Channel c of the first half and channel c of the second are a point in a plane."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines


class Reference:
    """A published model: features, logits of a prompt, greedy answers."""

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config, self.weights, self.vision = config, weights, Vision(config, weights)

    @torch.no_grad()
    def logits(self, ids: list[int], tiles: torch.Tensor | None, image_token: int) -> torch.Tensor:
        """[L, V] of a prompt of L ids."""
        return self._begun(ids, tiles, image_token)[1]

    @torch.no_grad()
    def greedy(self, ids: list[int], tiles: torch.Tensor | None, image_token: int, steps: int) -> tuple[list[int], list[float]]:
        """The best `steps` ids one by one, and how far each was ahead of the second best."""
        language, logits = self._begun(ids, tiles, image_token)
        said: list[int] = []
        margins: list[float] = []
        while True:
            best = logits[-1].topk(2)
            said.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if len(said) == steps:
                return said, margins
            logits = language.step(language.embed(said[-1:]))

    def _begun(self, ids: list[int], tiles: torch.Tensor | None, image_token: int) -> tuple[Language, torch.Tensor]:
        language = Language(self.config, self.weights)
        states = language.embed(ids)
        if tiles is not None:
            states[torch.tensor(ids) == image_token] = self.vision.features(tiles).flatten(0, 1)
        return language, language.step(states)


# -- random folders ----------------------------------------------------------------------------------------------------------------


def write_model(folder: Path, config: Config, *, seed: int = 0, shards: int = 1) -> Reference:
    """Write config.json and random bfloat16 weights of its sizes, cut into shards; answers with what the model must do."""
    generator = torch.Generator().manual_seed(seed)
    stored = {name: _random(name, shape, generator) for name, shape in shapes(config).items()}
    names = sorted(stored)
    files = ["model.safetensors"] if shards == 1 else [f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)]
    for number, file in enumerate(files):
        save_file({name: stored[name] for name in names[number::shards]}, folder / file, {"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": {name: files[place % shards] for place, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return Reference(config, {name: tensor.float() for name, tensor in stored.items()})


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Values that keep states of ordinary size, tell tokens and positions apart, and leave out no bias or norm."""
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        values = values * 0.2 + (0.0 if name.endswith("bias") else 0.6 if "ls" in name else 1.0)
    elif len(shape) != 3 and not name.endswith(("embed_tokens.weight", "tok_embeddings.weight")):
        values = values / math.sqrt(math.prod(shape[1:]))
    return values.bfloat16()


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The published tensors of a configuration; tied ones are left out, as safetensors leaves them out."""
    return _vision_shapes(config) | _language_shapes(config["llm_config"])


def _vision_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    vision, width = config["vision_config"], config["llm_config"]["hidden_size"]
    size, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    found: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, size),
        "vision_model.embeddings.position_embedding": (1, positions, size),
        "vision_model.embeddings.patch_embedding.weight": (size, 3, patch, patch),
        "vision_model.embeddings.patch_embedding.bias": (size,),
        "mlp1.0.weight": (4 * size,),
        "mlp1.0.bias": (4 * size,),
        **_with_bias("mlp1.1", width, 4 * size),
        **_with_bias("mlp1.3", width, width),
    }
    norm = ("weight", "bias") if vision["norm_type"] == "layer_norm" else ("weight",)
    for layer in (f"vision_model.encoder.layers.{index}." for index in range(vision["num_hidden_layers"])):
        found |= {f"{layer}ls{number}": (size,) for number in (1, 2)}
        found |= {f"{layer}norm{number}.{part}": (size,) for number in (1, 2) for part in norm}
        found |= _with_bias(f"{layer}attn.qkv", 3 * size, size, vision["qkv_bias"])
        found |= _with_bias(f"{layer}attn.proj", size, size)
        found |= _with_bias(f"{layer}mlp.fc1", inner, size) | _with_bias(f"{layer}mlp.fc2", size, inner)
        if vision["qk_normalization"]:
            found |= {f"{layer}attn.{part}_norm.weight": (size,) for part in "qk"}
    return found


def _language_shapes(llm: Config) -> dict[str, tuple[int, ...]]:
    family, size, inner, heads = llm["architectures"][0], llm["hidden_size"], llm["intermediate_size"], llm["num_attention_heads"]
    names = INTERNLM2_NAMES if family == "InternLM2ForCausalLM" else NAMES
    keys = (llm.get("num_key_value_heads") or heads) * (size // heads)
    found: dict[str, tuple[int, ...]] = {
        f"language_model.model.{names['embed']}.weight": (llm["vocab_size"], size),
        "language_model.model.norm.weight": (size,),
    }
    if not llm["tie_word_embeddings"]:
        found[f"language_model.{names['head']}.weight"] = (llm["vocab_size"], size)
    for layer in (f"language_model.model.layers.{index}." for index in range(llm["num_hidden_layers"])):
        found |= {f"{layer}{names[norm]}.weight": (size,) for norm in ("before", "after")}
        found |= _with_bias(layer + names["out"], size, size, family == "InternLM2ForCausalLM" and llm["bias"])
        found[f"{layer}{names['down']}.weight"] = (size, inner)
        if family == "InternLM2ForCausalLM":
            found |= _with_bias(f"{layer}attention.wqkv", size + 2 * keys, size, llm["bias"])
            found |= {f"{layer}feed_forward.{part}.weight": (inner, size) for part in ("w1", "w3")}
        elif family == "Phi3ForCausalLM":
            found[f"{layer}self_attn.qkv_proj.weight"] = (size + 2 * keys, size)
            found[f"{layer}mlp.gate_up_proj.weight"] = (2 * inner, size)
        else:
            found |= _with_bias(f"{layer}self_attn.q_proj", size, size)
            found |= _with_bias(f"{layer}self_attn.k_proj", keys, size) | _with_bias(f"{layer}self_attn.v_proj", keys, size)
            found |= {f"{layer}mlp.{part}_proj.weight": (inner, size) for part in ("gate", "up")}
    return found


def _with_bias(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def phi3_config(**llm: Any) -> Config:
    """As InternVL2-4B's, but for the sizes: the tokenizer is that of `slow_llama`, heads have eight channels."""
    language = {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attn_implementation": "flash_attention_2",
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
        "vocab_size": 434, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 6, "hidden_act": "silu", "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096, "rope_theta": 10000.0, "rope_scaling": SU, "sliding_window": 262144,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        "bos_token_id": 1, "eos_token_id": 420, "pad_token_id": 420, "torch_dtype": "bfloat16", "use_cache": True,
    }  # fmt: skip
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 56, "patch_size": 14, "num_channels": 3,
        "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "qk_normalization": False, "qkv_bias": True, "hidden_act": "gelu",
        "attention_dropout": 0.0, "drop_path_rate": 0.1, "dropout": 0.0, "initializer_factor": 1.0, "use_flash_attn": True,
    }  # fmt: skip
    return {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "template": "phi3-chat", "ps_version": "v2",
        "downsample_ratio": 0.5, "select_layer": -1, "force_image_size": 56, "dynamic_image_size": True, "use_thumbnail": True,
        "min_dynamic_patch": 1, "max_dynamic_patch": 12, "use_backbone_lora": 0, "use_llm_lora": 0, "torch_dtype": "bfloat16",
        "llm_config": language | llm, "vision_config": vision,
    }  # fmt: skip
