"""The network: InternVL of transformers, told apart only where Mini-Monkey differs. Which tiles does the vision encoder see, and
which tokens the language model?

At inference no tile is encoded twice, and tiles go through the encoder a bounded number at a time. Knows nothing of pictures,
text or devices: tensors stay where the caller put them.

    shapes: T tiles, U distinct tiles, P pictures, S tile side in pixels, N tokens a tile, D hidden size,
            B rows of text, L length of a row, V vocabulary, K tokens that compression keeps
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import InternVLForConditionalGeneration, InternVLModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from minimonkey.compression import CompressionSpec, Selection, detail_span, select_as_published
from minimonkey.configuration import MiniMonkeyConfig
from minimonkey.decoder import attention_in_layer
from minimonkey.errors import UsageError
from minimonkey.loading import load_strictly, register_key_names
from minimonkey.rotary import make_stateless

PICTURE_INPUTS = (
    "pixel_values",
    "attention_mask",
    "level_tiles",
    "mm_encoder_outputs",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
"""What else belongs to a prompt than its ids; compression turns all of it into embeddings."""


class MiniMonkeyModel(InternVLModel):
    """Vision encoder, projector and language model, without a head."""

    config: MiniMonkeyConfig

    tile_batch: int = 16
    """Most tiles that go through the vision encoder at once at inference; bounds its memory."""
    encode_duplicates: bool = False
    """True sends every tile through the encoder, identical ones too (to compare with)."""

    def __init__(self, config: MiniMonkeyConfig) -> None:
        register_key_names()
        super().__init__(config)
        make_stateless(self.language_model)

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

    def compress(
        self,
        spec: CompressionSpec,
        input_ids: torch.LongTensor | None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        level_tiles: torch.LongTensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
    ) -> tuple[torch.Tensor, Selection] | None:
        """What the language model gets instead of a prompt: embeddings [1, K, D], and which tokens they are.

        None if there is nothing to compress: no picture, or one without a detail level. Raises UsageError for what the selector
        can't do: several prompts or pictures, padding.
        """
        if not isinstance(spec, CompressionSpec):
            raise UsageError(f"compression={spec!r}: expected a CompressionSpec")
        ready = (mm_encoder_outputs or {}).get("image")
        if pixel_values is None and ready is None:
            return None
        if input_ids is None:
            raise UsageError("compression finds image tokens by their ids: give input_ids, not embeddings")
        detail = detail_span(input_ids, level_tiles, self.config.image_token_id)
        if detail is None:
            return None
        if attention_mask is not None and not attention_mask.all():
            raise UsageError("compression takes a prompt without padding: leave padding out")
        embeddings = self.get_input_embeddings()(input_ids)
        how = {"vision_feature_layer": vision_feature_layer, "vision_feature_select_strategy": vision_feature_select_strategy}
        encoded = ready or self.get_image_features(pixel_values, return_dict=True, **how)
        features = encoded.pooler_output.to(embeddings)
        places = self.get_placeholder_mask(input_ids, inputs_embeds=embeddings, image_features=features)
        embeddings = embeddings.masked_scatter(places, features)
        scores = attention_in_layer(self.language_model, embeddings, 1, detail)
        selection = select_as_published(scores, detail, embeddings.shape[1], spec.keep_ratio)
        return embeddings[:, selection.kept], selection


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
        compression: CompressionSpec | None = None,
        **kwargs: Any,
    ):
        """Logits [B, L, V], and the loss if there are `labels`; arguments as in the stock class, and two more.

        `level_tiles` int64 [P, 3]: detail, adaptive and thumbnail tiles of each picture. It says where the levels lie among the
        image tokens; only `compression` needs it.
        `compression`: logits are [1, K, V] then, those of the kept tokens. With a cache that holds tokens it does nothing: it
        belongs to the prompt, and positions go on from the K of them.
        """
        if compression is not None and not _is_filled(past_key_values):
            picture = (input_ids, pixel_values, attention_mask, level_tiles, mm_encoder_outputs)
            compressed = self.model.compress(compression, *picture, vision_feature_layer, vision_feature_select_strategy)
            if compressed is not None:
                if labels is not None or position_ids is not None:
                    raise UsageError("compression changes which tokens there are: leave out labels and position_ids")
                inputs_embeds, _ = compressed
                input_ids = pixel_values = attention_mask = mm_encoder_outputs = None
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

    @torch.no_grad()
    def generate(self, inputs: torch.LongTensor | None = None, *args: Any, compression: CompressionSpec | None = None, **settings):
        """As in transformers, and one more: with `compression` the language model gets a prompt with fewer detail tokens.

        What comes back is as without it: the whole prompt's ids, then the new ones. Streamers and criteria see the kept ids.
        """
        if compression is None:
            return super().generate(inputs, *args, **settings)
        if _is_filled(settings.get("past_key_values")) or settings.keys() & {"inputs_embeds", "position_ids"}:
            raise UsageError("compression begins with ids: leave out past_key_values, inputs_embeds and position_ids")
        prompt = settings.pop("input_ids", inputs)
        compressed = self.model.compress(compression, prompt, **{name: settings.get(name) for name in PICTURE_INPUTS})
        if compressed is None:
            return super().generate(prompt, *args, **settings)
        embeddings, selection = compressed
        kept = prompt[:, selection.kept]
        settings = {name: value for name, value in settings.items() if name not in PICTURE_INPUTS}
        output = super().generate(kept, *args, inputs_embeds=embeddings, attention_mask=torch.ones_like(kept), **settings)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        whole = torch.cat((prompt.expand(len(sequences), -1), sequences[:, kept.shape[1] :]), dim=1)
        if output is sequences:
            return whole
        output.sequences = whole
        return output


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


def _is_filled(cache: Any) -> bool:
    return cache is not None and cache.get_seq_length() > 0


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
