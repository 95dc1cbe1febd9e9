"""Several examples as one row: ids one after the other, positions that begin anew, where each example ends, what its tokens weigh.

Source of the form: `packed_collate_fn` in InternVL's `internvl/train/dataset_packed.py`. Knows no model and no attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.errors import UsageError, unknown

LossReduction = Literal["token", "sample", "square"]
"""What counts alike in a mean loss: every learnt token, every example, or something between the two (InternVL's choice)."""
_EXPONENT = {"token": 0.0, "sample": -1.0, "square": -0.5}


def token_weights(labels: torch.Tensor, reduction: LossReduction) -> torch.Tensor:
    """What each label of a row weighs in the loss: 1, 1/n or 1/sqrt(n) of n learnt tokens; 0 where nothing is learnt.

    Args:
        labels: int64 [L] or [B, L], -100 where nothing is learnt; shifted or not.
        reduction: see `LossReduction`.

    Returns:
        float32 of the same shape.

    Raises:
        UsageError: an unknown reduction.
    """
    if reduction not in get_args(LossReduction):
        raise UsageError(unknown("unknown loss reduction", reduction, get_args(LossReduction)))
    learnt = labels != NOT_LEARNT
    return learnt * learnt.sum(-1, keepdim=True).clamp(min=1).float() ** _EXPONENT[reduction]


def packed_row(
    examples: Sequence[Mapping[str, Any]],
    *,
    reduction: LossReduction = "token",
    pad_to: int | None = None,
    pad_tiles_to: int | None = None,
    pad_id: int = 0,
) -> dict[str, torch.Tensor]:
    """One row of the examples of a pack.

    The loss of a row is sum(w * cross entropy) / sum(w), w = `loss_weight` of the label that is predicted.

    Args:
        examples: what `encode` gives, one or more. Their `position_ids` and `image_flags` are kept, where they have any.
        reduction: what `loss_weight` has: 1, 1/n or 1/sqrt(n), n learnt tokens in the example.
        pad_to: the length of the row in tokens; None: no padding. Padding is one more segment, so that nothing attends it.
        pad_tiles_to: the number of tiles; None: no padding. Added tiles are zeros, flag 0.
        pad_id: the id of padding.

    Returns:
        With L tokens and T tiles: `input_ids`, `labels` (-100 where nothing is learnt), `position_ids` int64 [1, L], from 0 on in
        each segment and 0 on padding; `loss_weight` float32 [1, L], 0 where nothing is learnt; `cu_seqlens` int32
        [segments + 1], where segments begin and, last, L. With pictures `pixel_values` float32 [T, 3, S, S], `image_flags`
        int64 [T], 1 for tiles that have image tokens, and `level_tiles` int64 [P, 3], where all with pictures have them.

    Raises:
        UsageError: no examples, more tokens or tiles than `pad_to` or `pad_tiles_to`, or an unknown reduction.
    """
    if not examples:
        raise UsageError("no examples for a row: expected at least one")
    lengths = [len(example["input_ids"]) for example in examples]
    total = sum(lengths)
    padding = _missing(total, pad_to, "pad_to", "tokens")
    weights = [token_weights(example["labels"], reduction) for example in examples]
    positions = [example.get("position_ids", torch.arange(length)) for example, length in zip(examples, lengths, strict=True)]
    row = {
        "input_ids": _joined([example["input_ids"] for example in examples], padding, pad_id),
        "labels": _joined([example["labels"] for example in examples], padding, NOT_LEARNT),
        "position_ids": _joined(positions, padding, 0),
        "loss_weight": _joined(weights, padding, 0),
        "cu_seqlens": torch.tensor([0, *lengths, *([padding] if padding else [])], dtype=torch.int32).cumsum(0, dtype=torch.int32),
    }
    return row | _tiles(examples, pad_tiles_to)


def _tiles(examples: Sequence[Mapping[str, Any]], pad_tiles_to: int | None) -> dict[str, torch.Tensor]:
    """The tiles of all examples, which of them count, and their levels."""
    shown = [example for example in examples if "pixel_values" in example]
    count = sum(len(example["pixel_values"]) for example in shown)
    padding = _missing(count, pad_tiles_to, "pad_tiles_to", "tiles")
    if not shown:
        if padding:
            raise UsageError(f"pad_tiles_to={pad_tiles_to}: a row without pictures has no tiles to pad: expected None")
        return {}
    pixels = [example["pixel_values"] for example in shown]
    flags = [example.get("image_flags", torch.ones(len(example["pixel_values"]), dtype=torch.int64)) for example in shown]
    tiles = {
        "pixel_values": torch.cat([*pixels, pixels[0].new_zeros(padding, *pixels[0].shape[1:])]),
        "image_flags": torch.cat([*flags, flags[0].new_zeros(padding)]),
    }
    if all("level_tiles" in example for example in shown):
        tiles["level_tiles"] = torch.cat([example["level_tiles"] for example in shown])
    return tiles


def _joined(parts: list[torch.Tensor], padding: int, value: int) -> torch.Tensor:
    return torch.cat([*parts, parts[0].new_full((padding,), value)])[None]


def _missing(has: int, wanted: int | None, name: str, what: str) -> int:
    if wanted is not None and has > wanted:
        raise UsageError(f"the examples of a row have {has} {what}, more than {name}={wanted}: raise {name}, or pack fewer")
    return 0 if wanted is None else wanted - has
