"""What the vision encoder makes of tiles: which tiles are the same, several outputs as one, the class token's attention.

Knows tensors and one layer of the encoder, no picture and no language model.

    shapes: T tiles, U distinct tiles, S tile side in pixels, W hidden size of the encoder, M patches of a tile, H heads
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import is_tracing


def has_values(tensor: torch.Tensor) -> bool:
    """Whether decisions may be taken by what is in a tensor: not while a graph is recorded (traced, exported, compiled, captured),
    which would keep this sample's decisions for all others, and not where there is nothing in it (fake tensors, meta device)."""
    return not is_tracing(tensor) and not tensor.is_meta


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes as a format of pixels."""


def distinct_tiles(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tiles differ.

    A checksum finds candidates, which are then compared value by value, so that equal means equal. It is the sum of the values'
    bits as whole numbers, modulo 2^32: the same in whichever order it is computed, and on devices without float64, such as MPS.

    Args:
        pixel_values: float [T, 3, S, S], of any number format, on any device.

    Returns:
        The positions of the distinct tiles, int64 [U], and each tile's place among them, int64 [T].
    """
    bits = pixel_values.view(_BITS[pixel_values.element_size()])
    seen: dict[int, list[int]] = {}
    first: list[int] = []
    index: list[int] = []
    for tile, checksum in enumerate(bits.flatten(1).sum(1, dtype=torch.int32).tolist()):
        rivals = seen.setdefault(checksum, [])
        place = next((rival for rival in rivals if torch.equal(pixel_values[first[rival]], pixel_values[tile])), None)
        if place is None:
            place = len(first)
            first.append(tile)
            rivals.append(place)
        index.append(place)
    return torch.tensor(first, device=pixel_values.device), torch.tensor(index, device=pixel_values.device)


def expand_outputs(outputs: Iterator[BaseModelOutputWithPooling], index: torch.Tensor) -> BaseModelOutputWithPooling:
    """Concatenate outputs of batches of distinct tiles, and expand them to all tiles.

    The result is allocated once: while it is filled, one batch stands beside it.

    Args:
        outputs: those of the distinct tiles, in their order.
        index: each tile's place among the distinct ones, int64 [T].

    Returns:
        An output of the same kind, each of its tensors [T, ...].
    """
    part = next(outputs)
    if len(part.pooler_output) == len(index):
        return part
    whole, begin = _each_tensor(lambda versions: versions[0].new_empty(len(index), *versions[0].shape[1:]), [part]), 0
    while part is not None:
        end = begin + len(part.pooler_output)
        places = ((index >= begin) & (index < end)).nonzero()[:, 0]
        copy = partial(_copy_rows, places, index[places] - begin)
        _each_tensor(copy, [whole, part])
        part, begin = None, end  # let go of it before the next batch is encoded
        part = next(outputs, None)
    return whole


def _copy_rows(places: torch.Tensor, rows: torch.Tensor, versions: list[torch.Tensor]) -> torch.Tensor:
    """Rows of the second tensor at these places of the first."""
    return versions[0].index_copy_(0, places, versions[1][rows])


def drop_fields(output: BaseModelOutputWithPooling, unwanted: Collection[str]) -> BaseModelOutputWithPooling:
    """The output without these fields. (Fields that are None stay in the dict that an output of transformers is.)"""
    return type(output)(**{name: value for name, value in output.items() if name not in unwanted})


def _each_tensor(function, outputs: list):
    """`function` of each tensor in turn, given as the list of its versions in `outputs`; hidden states not kept are None."""
    if outputs[0] is None or isinstance(outputs[0], torch.Tensor):
        return None if outputs[0] is None else function(outputs)
    if isinstance(outputs[0], tuple):
        return tuple(_each_tensor(function, list(versions)) for versions in zip(*outputs, strict=True))
    return type(outputs[0])(**{name: _each_tensor(function, [output[name] for output in outputs]) for name in outputs[0]})


def encode_with_cls_attention(
    layers: nn.ModuleList, encode: Callable[..., Any], used: int | list[int], asked: Any, pixel_values: torch.Tensor
) -> BaseModelOutputWithPooling:
    """Encode tiles, and compute the class token's attention in the last layer.

    The input of that layer is asked of transformers as a hidden state, which it keeps for each thread apart. A hook of ours on the
    layer, which threads share, would see other threads' tiles too.

    Args:
        layers: the encoder's.
        encode: `get_image_features` of the stock class.
        used: which hidden states the features are made of; -1 for the encoder's output.
        asked: which hidden states the caller asks for, as `output_hidden_states` of transformers.
        pixel_values: [T, 3, S, S].

    Returns:
        The output of `encode` with `attentions`, a tuple of one: float32 [T, M].
    """
    count, more = len(layers), [state for state in (*_listed(used), *_listed(asked)) if state != -1 or asked]
    # Such a list counts what comes out of layers until transformers 5.22, then what goes in too: [-2] goes into the last in both.
    states = True if asked is True or count == 1 else [count - 2, count - 1, *more]
    output = encode(pixel_values=pixel_values, output_hidden_states=states)
    return type(output)(**dict(output) | {"attentions": (cls_attention(layers[-1], output.hidden_states[-2]),)})


def _listed(states: bool | int | list[int] | None) -> list[int]:
    if states is None or isinstance(states, bool):
        return []
    return [states] if isinstance(states, int) else list(states)


@torch.no_grad()
def cls_attention(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The class token's attention to each patch in a layer of InternVL's encoder, mean over heads.

    Probabilities are over all tokens; the class token's own share is left out.

    Args:
        layer: of the vision encoder.
        hidden: its input, the class token first, [T, 1 + M, W].

    Returns:
        float32 [T, M].
    """
    hidden = hidden.to(next(layer.parameters()).device)  # another than before if layers are spread out
    attention, hidden = layer.attention, layer.layernorm_before(hidden)
    queries, keys = attention.q_norm(attention.q_proj(hidden[:, :1])), attention.k_norm(attention.k_proj(hidden))
    queries, keys = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (queries, keys))
    logits = (queries @ keys.transpose(2, 3)).float() * attention.scale  # [T, H, 1, 1 + M]
    return logits.softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)
