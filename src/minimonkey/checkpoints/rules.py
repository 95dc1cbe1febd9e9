"""Names and shapes of tensors in the published layout and in ours, as rules that run both ways.

A rule names one published tensor and the one tensor, or the three, that it is in the -hf layout of transformers: `#` stands for a
layer's number, `*` for "weight" or "bias". Or it names several published tensors, `@` standing for their numbers, which are one.
Sources: `internvl_chat/internvl/model/` of OpenGVLab/InternVL (`intern_vit`, `internlm2`, `internvl_chat`) for the published names,
`InternVLForConditionalGeneration` of transformers for ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from minimonkey.checkpoints.tensors import LazyTensor

WILDCARDS = {"#": r"(\d+)", "*": r"(weight|bias)", "@": r"\d+"}


class Heads(NamedTuple):
    """How a fused query-key-value matrix is laid out: for each key/value head its `group` query heads, itself, its value head."""

    key_value: int
    group: int
    dim: int


@dataclass(frozen=True)
class Rule:
    """One published tensor and its native names: one, or the query, key and value it is cut into along its rows."""

    published: str
    native: tuple[str, ...]
    heads: Heads | None = None
    """None: thirds."""
    stack: int = 0
    """How many published tensors, numbered by `@`, one native tensor is a stack of, along a new first dimension; 0: none."""

    def native_names(self, name: str) -> list[str]:
        """The native names of a published tensor; [] if this rule isn't about it."""
        return [_renamed(self.published, native, name) or "" for native in self.native] if _matches(self.published, name) else []

    def published_names(self, name: str) -> list[str]:
        """The published tensors that a native one is made of, or is a part of; [] if this rule isn't about it."""
        found = self.published_name(name)
        if found is None:
            return []
        return [found.replace("@", str(number)) for number in range(self.stack)] if self.stack else [found]

    def published_name(self, name: str) -> str | None:
        """The published tensor that a native one is (a part of); None if this rule isn't about it."""
        return next(filter(None, (_renamed(native, self.published, name) for native in self.native)), None)

    def part(self, tensor: torch.Tensor, index: int) -> torch.Tensor:
        """The tensor's piece number `index`, as rows [rows, ...]."""
        if len(self.native) == 1:
            return tensor
        if self.heads is None:
            return tensor.chunk(3)[index].contiguous()
        grouped = tensor.unflatten(0, (self.heads.key_value, self.heads.group + 2, self.heads.dim))
        first = (0, self.heads.group, self.heads.group + 1)
        return grouped[:, first[index] : (*first[1:], None)[index]].flatten(0, 2).contiguous()

    def stacked(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """What `part` cuts, of the published tensors that belong together."""
        return torch.stack(tensors) if self.stack else tensors[0]

    def joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The published tensor of its pieces."""
        if len(parts) == 1:
            return parts[0]
        if self.heads is None:
            return torch.cat(parts)
        return torch.cat([part.unflatten(0, (self.heads.key_value, -1, self.heads.dim)) for part in parts], dim=1).flatten(0, 2)

    def rows_fit(self, shape: tuple[int, ...]) -> bool:
        """Whether a published tensor of this shape can be cut by this rule."""
        if len(self.native) == 1:
            return True
        return bool(shape) and shape[0] % (3 if self.heads is None else self.heads.key_value * (self.heads.group + 2)) == 0


_QKV = ("q_proj", "k_proj", "v_proj")
_LAYER, _NATIVE_LAYER = "vision_model.encoder.layers.#.", "vision_tower.encoder.layer.#."
VISION = (
    Rule("vision_model.embeddings.class_embedding", ("vision_tower.embeddings.cls_token",)),
    Rule("vision_model.embeddings.position_embedding", ("vision_tower.embeddings.position_embeddings",)),
    Rule("vision_model.embeddings.patch_embedding.*", ("vision_tower.embeddings.patch_embeddings.projection.*",)),
    Rule(f"{_LAYER}attn.qkv.*", tuple(f"{_NATIVE_LAYER}attention.{part}.*" for part in _QKV)),
    *(
        Rule(_LAYER + published, (_NATIVE_LAYER + native,))
        for published, native in {
            "attn.proj.*": "attention.projection_layer.*",
            "attn.q_norm.*": "attention.q_norm.*",
            "attn.k_norm.*": "attention.k_norm.*",
            "norm1.*": "layernorm_before.*",
            "norm2.*": "layernorm_after.*",
            "ls1": "lambda_1",
            "ls2": "lambda_2",
            "mlp.fc1.*": "mlp.fc1.*",
            "mlp.fc2.*": "mlp.fc2.*",
        }.items()
    ),
    Rule("mlp1.0.*", ("multi_modal_projector.layer_norm.*",)),
    Rule("mlp1.1.*", ("multi_modal_projector.linear_1.*",)),
    Rule("mlp1.3.*", ("multi_modal_projector.linear_2.*",)),
)


def internlm2_rules(heads: Heads) -> tuple[Rule, ...]:
    """InternLM2's language model as Llama's."""
    layer = "language_model.model.layers.#."
    names = {
        "language_model.model.tok_embeddings.*": "language_model.model.embed_tokens.*",
        "language_model.model.norm.*": "language_model.model.norm.*",
        "language_model.output.*": "language_model.lm_head.*",
        f"{layer}attention.wo.*": f"{layer}self_attn.o_proj.*",
        f"{layer}feed_forward.w1.*": f"{layer}mlp.gate_proj.*",
        f"{layer}feed_forward.w3.*": f"{layer}mlp.up_proj.*",
        f"{layer}feed_forward.w2.*": f"{layer}mlp.down_proj.*",
        f"{layer}attention_norm.*": f"{layer}input_layernorm.*",
        f"{layer}ffn_norm.*": f"{layer}post_attention_layernorm.*",
    }
    fused = Rule(f"{layer}attention.wqkv.*", tuple(f"{layer}self_attn.{part}.*" for part in _QKV), heads)
    return (fused, *(Rule(published, (native,)) for published, native in names.items()))


SAME_NAMES = tuple(
    Rule(name, (name,))
    for name in (
        "language_model.lm_head.*",
        "language_model.model.embed_tokens.*",
        "language_model.model.norm.*",
        *(
            f"language_model.model.layers.#.{part}.*"
            for part in (
                *(f"self_attn.{name}" for name in (*_QKV, "o_proj", "qkv_proj", "q_norm", "k_norm")),
                *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj", "gate_up_proj")),
                "input_layernorm",
                "post_attention_layernorm",
            )
        ),
    )
)
"""Llama, Qwen2, Qwen3 and Phi-3, whose names are the same in both layouts."""

DROPPED = re.compile(r"language_model\.model\.layers\.\d+\.(self_attn|attention)\.rotary_emb\.inv_freq")
"""Buffers that old folders hold and that follow from the configuration."""


IN_MEMORY = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
"""How names of tensors begin in the network, and in the files that transformers writes of it."""


def disk_name(name: str) -> str:
    """The name of a network's tensor in an -hf folder; parts that InternVL doesn't have keep theirs."""
    start = next((start for start in IN_MEMORY if name.startswith(start)), "")
    return IN_MEMORY.get(start, "") + name.removeprefix(start)


def to_native(tensors: Mapping[str, LazyTensor], rules: Iterable[Rule]) -> dict[str, LazyTensor]:
    """The native tensors of published ones, read piece by piece. Tensors that no rule knows keep their names."""
    rules = tuple(rules)
    native = {}
    for name, tensor in tensors.items():
        if DROPPED.fullmatch(name):
            continue
        rule = next((rule for rule in rules if _matches(rule.published, name)), None)
        if rule is None:
            native[name] = tensor
            continue
        for index, part_name in enumerate(rule.native_names(name)):
            if part_name not in native:
                sources = [tensors[source] for source in rule.published_names(part_name)]
                whole = rule.stacked([torch.empty(source.shape, device="meta") for source in sources])
                native[part_name] = LazyTensor(
                    tuple(rule.part(whole, index).shape),
                    lambda rule=rule, sources=sources, index=index: rule.part(rule.stacked([s[...] for s in sources]), index),  # type: ignore[misc]
                )
    return native


def to_published(tensors: Mapping[str, LazyTensor], rules: Iterable[Rule]) -> dict[str, LazyTensor]:
    """The published tensors of native ones. Tensors that no rule knows keep their names."""
    rules = tuple(rules)
    published = {}
    for name, tensor in tensors.items():
        rule = next((rule for rule in rules if rule.published_name(name)), None)
        if rule is None:
            published[name] = tensor
            continue
        for number, new in enumerate(rule.published_names(name)):
            if rule.stack:
                published[new] = LazyTensor(tensor.shape[1:], lambda tensor=tensor, number=number: tensor[...][number].clone())  # type: ignore[misc]
            elif new not in published:
                parts = [tensors[part] for part in rule.native_names(new)]
                shape = tuple(rule.joined([torch.empty(part.shape, device="meta") for part in parts]).shape)
                published[new] = LazyTensor(shape, lambda rule=rule, parts=parts: rule.joined([part[...] for part in parts]))  # type: ignore[misc]
    return published


def _regex(pattern: str) -> str:
    return "".join(WILDCARDS.get(character, re.escape(character)) for character in pattern)


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(_regex(pattern), name) is not None


def _renamed(pattern: str, replacement: str, name: str) -> str | None:
    match = re.fullmatch(_regex(pattern), name)
    if match is None:
        return None
    values = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(values), replacement)
