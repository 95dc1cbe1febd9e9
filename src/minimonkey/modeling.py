"""The network: InternVL of transformers, told apart only where Mini-Monkey differs. Which tiles does the vision encoder see?

At inference no tile is encoded twice, and tiles go through the encoder a bounded number at a time. Knows nothing of pictures,
text or devices: tensors stay where the caller put them.

    shapes: T tiles, U distinct tiles, P pictures, S tile side in pixels, N tokens a tile, D hidden size,
            B rows of text, L length of a row, V vocabulary
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import InternVLForConditionalGeneration, InternVLModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple
from transformers.utils import logging as progress

from minimonkey.configuration import MiniMonkeyConfig
from minimonkey.errors import CheckpointError


class MiniMonkeyModel(InternVLModel):
    """Vision encoder, projector and language model, without a head."""

    config: MiniMonkeyConfig

    tile_batch: int = 16
    """Most tiles that go through the vision encoder at once at inference; bounds its memory."""
    encode_duplicates: bool = False
    """True sends every tile through the encoder, identical ones too (to compare with)."""

    def __init__(self, config: MiniMonkeyConfig) -> None:
        _register_key_names()
        super().__init__(config)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode tiles: float [T, 3, S, S] -> an output whose `pooler_output` is [T, N, D], ready for the language model.

        In evaluation mode and without gradients each distinct tile is encoded once, `tile_batch` at a time; otherwise all tiles
        at once, as the stock model does. Values equal the stock model's up to the rounding of another batch size.
        """

        kwargs |= {"vision_feature_layer": vision_feature_layer, "vision_feature_select_strategy": vision_feature_select_strategy}
        encode = partial(super().get_image_features, return_dict=True, **kwargs)

        if self.training or torch.is_grad_enabled():
            return encode(pixel_values=pixel_values)
        if self.encode_duplicates:
            return _joined([encode(pixel_values=tiles) for tiles in pixel_values.split(self.tile_batch)])
        first, index = distinct_tiles(pixel_values)
        features = _joined([encode(pixel_values=tiles) for tiles in pixel_values[first].split(self.tile_batch)])
        return features if len(first) == len(index) else _each_tensor(lambda versions: versions[0][index], [features])


class MiniMonkeyForConditionalGeneration(InternVLForConditionalGeneration):
    """Mini-Monkey: tiles of a pyramid and text in, text out. Same tensors and key names as the stock InternVL class."""

    config: MiniMonkeyConfig
    config_class = MiniMonkeyConfig

    def __init__(self, config: MiniMonkeyConfig) -> None:
        super(InternVLForConditionalGeneration, self).__init__(config)  # the stock __init__ would build a stock InternVLModel
        self.model = MiniMonkeyModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, source, *args: Any, output_loading_info: bool = False, **kwargs: Any):
        """As in transformers, but safetensors only, no remote code, and a CheckpointError for every tensor that doesn't fit."""
        model, info = load_strictly(super().from_pretrained, source, *args, **kwargs)
        return (model, info) if output_loading_info else model

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        level_tiles: torch.LongTensor | None = None,
        **kwargs: Any,
    ):
        """Logits [B, L, V], and the loss if there are `labels`; arguments as in the stock class, and one more.

        `level_tiles` int64 [P, 3]: detail, adaptive and thumbnail tiles of each picture. It says where the levels lie among the
        image tokens; the logits don't depend on it.
        """
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            labels=labels,
            logits_to_keep=logits_to_keep,
            image_sizes=image_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )


def distinct_tiles(pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tiles [T, 3, S, S] differ: positions of the distinct ones, int64 [U], and each tile's place among them, int64 [T].

    Tiles of equal sum are compared value by value, so that equal means equal.
    """
    seen: dict[float, list[int]] = {}
    first: list[int] = []
    index: list[int] = []
    for tile, checksum in enumerate(pixel_values.flatten(1).sum(1, dtype=torch.float64).tolist()):
        rivals = seen.setdefault(checksum, [])
        place = next((rival for rival in rivals if torch.equal(pixel_values[first[rival]], pixel_values[tile])), None)
        if place is None:
            place = len(first)
            first.append(tile)
            rivals.append(place)
        index.append(place)
    return torch.tensor(first, device=pixel_values.device), torch.tensor(index, device=pixel_values.device)


def load_strictly(from_pretrained, source, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Call a `from_pretrained` of transformers; safetensors only, no remote code; returns the model and its loading info.

    Raises CheckpointError naming every tensor that is missing, not expected, or of another shape than the configuration says:
    transformers would go on with random values.
    """
    settings = {"output_loading_info": True, "use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    with _quietly(source):
        try:
            model, info = from_pretrained(source, *args, **(kwargs | settings))
        except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{source}: no model can be made of it ({type(error).__name__}: {reason})") from error
    misshapen = (f"{name} {list(found)} for {list(due)}" for name, found, due in info["mismatched_keys"])
    check_fit(source, missing=info["missing_keys"], unexpected=info["unexpected_keys"], misshapen=misshapen)
    if info["error_msgs"]:
        raise CheckpointError(f"{source}: no model can be made of it ({'; '.join(info['error_msgs'])[:300]})")
    return model, info


def check_fit(source, *, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
    """Raises CheckpointError naming the tensors that don't fit the configuration, if there are any."""
    faults = [*_fault("missing", missing), *_fault("not expected", unexpected), *_fault("of another shape", misshapen)]
    if faults:
        raise CheckpointError(f"{source}: tensors and config.json don't fit: {'; '.join(faults)}; get the folder anew")


def _fault(what: str, tensors: Iterable[str]) -> Iterator[str]:
    names = sorted(tensors)
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield f"{len(names)} {what} ({', '.join(names[:4])}{more})"


@contextmanager
def _quietly(source) -> Iterator[None]:
    """Keep back transformers' table of tensors that don't fit (the error names them), and its bar where nothing is fetched."""
    hide_bar = (source is None or Path(source).is_dir()) and progress.is_progress_bar_enabled()
    if hide_bar:
        progress.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")

    def no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(no_report)
    try:
        yield
    finally:
        logger.removeFilter(no_report)
        if hide_bar:
            progress.enable_progress_bar()


def _register_key_names() -> None:
    """Give our classes the key names of the stock class on disk.

    transformers skips its renaming for classes outside the library unless they are registered by name; a stock folder would then
    load with a random head. The getter returns copies, which transformers goes on to change.
    """
    stock = get_checkpoint_conversion_mapping("internvl")
    register_checkpoint_conversion_mapping("MiniMonkeyForConditionalGeneration", stock, overwrite=True)
    register_checkpoint_conversion_mapping("MiniMonkeyModel", get_checkpoint_conversion_mapping("InternVLModel"), overwrite=True)


def _joined(parts: list[BaseModelOutputWithPooling]) -> BaseModelOutputWithPooling:
    """Outputs of several batches of tiles as one."""
    return parts[0] if len(parts) == 1 else _each_tensor(torch.cat, parts)


def _each_tensor(function, outputs: list):
    """`function` of each tensor in turn, given as the list of its versions in `outputs`; hidden states not kept are None."""
    if outputs[0] is None or isinstance(outputs[0], torch.Tensor):
        return None if outputs[0] is None else function(outputs)
    if isinstance(outputs[0], tuple):
        return tuple(_each_tensor(function, list(versions)) for versions in zip(*outputs, strict=True))
    return type(outputs[0])(**{name: _each_tensor(function, [output[name] for output in outputs]) for name in outputs[0]})
