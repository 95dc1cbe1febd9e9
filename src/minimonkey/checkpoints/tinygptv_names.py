"""What TinyGPT-V's tensors are called in the four places that they come from, and in our network.

Sources: `eva_vit.py`, `Qformer.py` (as in BLIP-2), `minigpt4.py`, `minigpt_v2.py` and `modeling_phi.py` of DLYuanGod/TinyGPT-V for
the published names; peft for those of low-rank updates, old and new. Knows names and shapes, and reads no values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from minimonkey.checkpoints.tensors import LazyTensor

VISION_BLOCKS = 39
"""How many of the tower's blocks are used (`create_eva_vit_g`); the file of EVA ViT-g has one more, and a head."""

_TOWER, _BLOCK = "model.vision_tower.", r"model.vision_tower.encoder.layers.\1."
_QFORMER, _TEXT = r"model.qformer.encoder.layer.\1.", r"model.language_model.layers.\1."
_LAYER = r"model\.layers\.(\d+)\."
_BERT_LAYER = r"Qformer\.bert\.encoder\.layer\.(\d+)\."

VISION: dict[str, str] = {
    r"cls_token": f"{_TOWER}embeddings.class_embedding",
    r"pos_embed": f"{_TOWER}embeddings.position_embedding",
    r"patch_embed\.proj\.(weight|bias)": rf"{_TOWER}embeddings.patch_embedding.\1",
    r"blocks\.(\d+)\.norm([12])\.(weight|bias)": rf"{_BLOCK}layer_norm\2.\3",
    r"blocks\.(\d+)\.attn\.qkv\.weight": f"{_BLOCK}self_attn.qkv.weight",
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": rf"{_BLOCK}self_attn.projection.\2",
    r"blocks\.(\d+)\.mlp\.fc([12])\.(weight|bias)": rf"{_BLOCK}mlp.fc\2.\3",
}
QFORMER: dict[str, str] = {
    r"query_tokens": "model.query_tokens",
    r"ln_vision\.(weight|bias)": r"model.vision_layernorm.\1",
    r"Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)": r"model.qformer.layernorm.\1",
    rf"{_BERT_LAYER}(attention|crossattention)\.self\.(query|key|value)\.(weight|bias)": (rf"{_QFORMER}\2.attention.\3.\4"),
    rf"{_BERT_LAYER}(attention\.output|crossattention\.output|output_query)\.(dense|LayerNorm)\.(weight|bias)": (
        rf"{_QFORMER}\2.\3.\4"
    ),
    rf"{_BERT_LAYER}intermediate_query\.dense\.(weight|bias)": rf"{_QFORMER}intermediate_query.dense.\2",
}
LANGUAGE: dict[str, str] = {
    r"model\.(embed_tokens|final_layernorm)\.(weight|bias)": r"model.language_model.\1.\2",
    r"lm_head\.(weight|bias)": r"lm_head.\1",
    rf"{_LAYER}(mlp\.fc[12]|input_layernorm|self_attn\.[qk]_layernorm)\.(weight|bias)": rf"{_TEXT}\2.\3",
    rf"{_LAYER}post_layernorm\.weight": f"{_TEXT}self_attn.post_layernorm.weight",
    rf"{_LAYER}self_attn\.(query_key_value|dense)\.(?:base_layer\.)?(weight|bias)": rf"{_TEXT}self_attn.\2.\3",
    rf"{_LAYER}self_attn\.(query_key_value|dense)\.lora_([AB])\.(?:\w+\.)?weight": rf"{_TEXT}self_attn.\2_update.lora_\3.weight",
}
PROJECTIONS: dict[str, str] = {
    r"llama_proj\.(weight|bias)": r"model.multi_modal_projector.linear_1.\1",
    r"llama_proj2\.(weight|bias)": r"model.multi_modal_projector.linear_2.\1",
}
STAGE: dict[str, str] = {
    **PROJECTIONS,
    **QFORMER,  # of the older training code, which trains it
    **{r"llama_model\.(?:base_model\.model\.)?" + pattern: name for pattern, name in LANGUAGE.items()},
    **{rf"visual_encoder\.{pattern}": name for pattern, name in VISION.items()},
}
UNUSED = re.compile(
    r"(norm|fc_norm|head)\.(weight|bias)"  # of the tower, behind what is used of it
    r"|t5_proj\.(weight|bias)|t5_model\..*"  # BLIP-2's own language model and the way to it
    r"|Qformer\.cls\..*|Qformer\.bert\.embeddings\.(position_ids|(word|position)_embeddings\.weight)"  # the Q-Former's text branch
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    r"|(.*\.)?rotary_emb\.inv_freq"  # follows from the configuration
)
"""Tensors in published files that the published code doesn't use either."""

_BIAS = re.compile(r"((?:visual_encoder\.)?blocks\.\d+)\.attn\.([qv])_bias")
_SPLIT = re.compile(r"(model\.layers\.\d+\.self_attn)\.([qkv])_proj\.(weight|bias)")
_BLOCK_NUMBER = re.compile(r"(?:visual_encoder\.)?blocks\.(\d+)\.")


@dataclass(frozen=True)
class Named:
    """A native tensor, and what to call it in a message: its name, or one of its names, where it comes from."""

    tensor: LazyTensor
    published: str


def native_tensors(
    tensors: Mapping[str, LazyTensor], names: Mapping[str, str], *, heads: int = 0
) -> tuple[dict[str, Named], list[str]]:
    """The native tensors of one published file.

    Args:
        tensors: those of the file.
        names: which of the tables above is about it.
        heads: attention heads of the language model, whose queries, keys and values today's Phi-2 has in three matrices.

    Returns:
        Tensors by their native names, and the published names of those that no rule knows.
    """
    native: dict[str, Named] = {}
    unknown: list[str] = []
    for published, tensor in _fused(tensors, heads).items():
        block = _BLOCK_NUMBER.match(published)
        if UNUSED.fullmatch(published) or (block and int(block[1]) >= VISION_BLOCKS):
            continue
        bias = re.fullmatch(r"(?:visual_encoder\.)?blocks\.(\d+)\.attn\.qkv\.bias", published)
        new = bias.expand(f"{_BLOCK}self_attn.qkv.bias") if bias else _renamed(published, names)
        if new is None:
            unknown.append(published)
        else:
            native[new] = Named(tensor, published)
    return native, unknown


def _renamed(published: str, names: Mapping[str, str]) -> str | None:
    matches = ((re.fullmatch(pattern, published), replacement) for pattern, replacement in names.items())
    return next((match.expand(replacement) for match, replacement in matches if match), None)


def _fused(tensors: Mapping[str, LazyTensor], heads: int) -> dict[str, LazyTensor]:
    """The tensors, with those that are one in our network put together: the tower's biases of queries and values, around zeros
    for keys, which have none; Phi-2's three matrices, head by head."""
    whole: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if (match := _BIAS.fullmatch(name)) is not None:
            stem = match[1]
            parts = [tensors.get(f"{stem}.attn.{letter}_bias") for letter in "qv"]
            whole |= _joined(f"{stem}.attn.qkv.bias", name, tensor, parts, _with_zeros)
        elif heads and (match := _SPLIT.fullmatch(name)) is not None:
            stem, kind = match[1], match[3]
            parts = [tensors.get(f"{stem}.{letter}_proj.{kind}") for letter in "qkv"]
            whole |= _joined(f"{stem}.query_key_value.{kind}", name, tensor, parts, lambda parts: _by_head(parts, heads))
        else:
            whole[name] = tensor
    return whole


def _joined(
    name: str,
    part_name: str,
    part: LazyTensor,
    parts: Sequence[LazyTensor | None],
    join: Callable[[list[torch.Tensor]], torch.Tensor],
) -> dict[str, LazyTensor]:
    """The tensor that parts are joined to; a part alone, under its own name, where another is missing or doesn't fit."""
    there = [one for one in parts if one is not None]
    if len(there) < len(parts) or len({one.shape for one in there}) > 1:
        return {part_name: part}
    shape = tuple(join([torch.empty(one.shape, device="meta") for one in there]).shape)
    return {name: LazyTensor(shape, lambda: join([one[...] for one in there]))}


def _with_zeros(parts: list[torch.Tensor]) -> torch.Tensor:
    query, value = parts
    return torch.cat((query, torch.zeros_like(query), value))


def _by_head(parts: list[torch.Tensor], heads: int) -> torch.Tensor:
    """Queries, keys and values [H * C, ...] as [H, (query, key, value), C, ...], flat."""
    return torch.stack([part.unflatten(0, (heads, -1)) for part in parts], dim=1).flatten(0, 2)
