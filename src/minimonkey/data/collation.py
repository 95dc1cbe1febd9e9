"""Examples to a batch: padded on the right, tiles one after the other. Knows no model.

The published `concat_pad_data_collator` pads with id 0 and masks every id 0, words of that id included (`!` in Qwen2), while it
attends padding of another id. Here padding has the tokenizer's padding id, and the mask knows it by its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from minimonkey.data.encoding import NOT_LEARNT
from minimonkey.errors import UsageError

TILES = ("pixel_values", "level_tiles")
"""What pictures add to an example; joined along the first axis."""


def collate(examples: Sequence[Mapping[str, Any]], processor: Any, *, pad_to: int | None = None) -> dict[str, torch.Tensor]:
    """One batch of examples, as `model(**batch)` takes it.

    Args:
        examples: what `encode` gives, one or more; those without pictures may stand among others.
        processor: the model's, for the padding id.
        pad_to: the length of all rows in tokens; None: that of the longest.

    Returns:
        `input_ids`, `labels` (-100 on padding) and `attention_mask` int64 [B, L]; with pictures `pixel_values` float32 [T, 3, S, S]
        and `level_tiles` int64 [P, 3] of all rows, in their order.

    Raises:
        UsageError: no examples, or one is longer than `pad_to`.
    """
    if not examples:
        raise UsageError("no examples to collate: expected at least one")
    lengths = [len(example["input_ids"]) for example in examples]
    length = max(lengths) if pad_to is None else pad_to
    if max(lengths) > length:
        raise UsageError(f"an example has {max(lengths)} tokens, more than pad_to={pad_to}: raise pad_to")
    shape = (len(examples), length)
    batch = {
        "input_ids": torch.full(shape, processor.tokenizer.pad_token_id or 0),
        "labels": torch.full(shape, NOT_LEARNT),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
    }
    for row, example in enumerate(examples):
        batch["input_ids"][row, : lengths[row]] = example["input_ids"]
        batch["labels"][row, : lengths[row]] = example["labels"]
        batch["attention_mask"][row, : lengths[row]] = 1
    for name in TILES:
        if tiles := [example[name] for example in examples if name in example]:
            batch[name] = torch.cat(tiles)
    return batch
