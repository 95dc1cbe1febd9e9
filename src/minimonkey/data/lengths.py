"""How long conversations are: tokens, tiles and what is learnt, from the sizes of pictures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minimonkey.data.conversation import Conversation, Message
from minimonkey.data.encoding import ONE_TILE, inside, loaded, trained_text
from minimonkey.documents import picture_size
from minimonkey.pyramid import PyramidSpec, Size


class Lengths(NamedTuple):
    """Of one conversation."""

    tokens: int
    """All ids, image tokens included."""
    tiles: int
    learnt: int
    """Ids that are learnt."""


def lengths(row: Conversation, processor: Any, pyramid: PyramidSpec | Mapping[str, Any] | None = None) -> Lengths:
    """Count a conversation as `encode` would make it; pixels are decoded of videos alone.

    Args:
        row: the conversation.
        processor: the model's.
        pyramid: how pictures are cut; None: as the processor does.

    Raises:
        PictureError: a picture can't be read.
        DataError: the template or the row is wrong.
    """
    if any(medium.kind == "video" for medium in row.media):
        messages, frames = loaded(row)
        sizes = [Size(frame.height, frame.width) for frame in frames]
        pyramid = ONE_TILE
    else:
        messages = list[Message](row.messages)
        sizes = [Size(*picture_size(medium.source)) for medium in row.media]
    text, answers = trained_text(messages, processor)
    encoded = processor.tokenizer(text, return_offsets_mapping=True)
    settings = {} if pyramid is None else {"pyramid": pyramid}
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes, **settings) if sizes else None
    tokens = sum(counted.num_image_tokens) - len(sizes) if counted else 0
    return Lengths(
        len(encoded["input_ids"]) + tokens,
        sum(counted.num_image_patches) if counted else 0,
        int(inside(encoded["offset_mapping"], answers).sum()),
    )
