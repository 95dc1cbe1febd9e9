"""The network without a head: InternVL of transformers, and here only what differs from it. Which tiles does the vision encoder
see, and which tokens the language model?

At inference no tile is encoded twice, and tiles go through the encoder a bounded number at a time. Knows nothing of pictures,
text or devices: tensors stay where the caller put them.

    shapes: T tiles, P pictures, S tile side in pixels, N tokens a tile, D hidden size, B rows of text, L length of a row,
            K tokens that compression keeps of a row
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import InternVLModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.modeling_internvl import InternVLModelOutputWithPast
from transformers.utils import can_return_tuple

from minimonkey.compression.compressed_prompt import CompressedPrompt, PrefilledPrompt, ShortenedPrompt
from minimonkey.compression.prefill import compress
from minimonkey.compression.spans import detail_levels
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.attention import pack_heads
from minimonkey.language_model.layers import CACHE, cache_argument, under_either_name
from minimonkey.language_model.rotary import make_stateless
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.minimonkey.vision_features import (
    distinct_tiles,
    drop_fields,
    encode_with_cls_attention,
    expand_outputs,
    has_values,
)
from minimonkey.models.strict_loading import register_key_names
from minimonkey.pyramid import LevelName

PIXEL_INPUTS = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
"""What the vision encoder gets, and how its features are chosen."""
PICTURE_INPUTS = (*PIXEL_INPUTS, "attention_mask", "level_tiles", "level_order", "mm_encoder_outputs")
"""What belongs to a prompt besides its ids; compression turns all of it into embeddings."""
OF_THE_WHOLE_PROMPT = (CACHE, "output_hidden_states", "output_attentions")
"""Arguments that need all layers to read the same tokens; a prompt that is compressed between two layers can't have them."""


class MiniMonkeyModel(InternVLModel):
    """Vision encoder, projector and language model, without a head."""

    config: MiniMonkeyConfig
    config_class = MiniMonkeyConfig  # transformers reads the annotation too, which is text here

    tile_batch: int = 16
    """Most tiles that go through the vision encoder at once at inference; bounds its memory."""
    encode_duplicates: bool = False
    """True sends every tile through the encoder, identical ones too (to compare with)."""

    def __init__(self, config: MiniMonkeyConfig) -> None:
        register_key_names()
        super().__init__(config)
        make_stateless(self.language_model)
        pack_heads(self.language_model)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        cls_attention: bool = False,
        keep_last_hidden_state: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode tiles, ready for the language model.

        In evaluation mode and without gradients (`torch.no_grad()`) each distinct tile is encoded once, `tile_batch` at a time.
        Otherwise, and while a graph is recorded (traced, exported, compiled), all tiles are encoded at once, as the stock model
        does: without `no_grad`, inference takes the memory of training. Values equal the stock model's up to the rounding of
        another batch size.

        Args:
            pixel_values: float [T, 3, S, S].
            vision_feature_layer: which hidden state becomes features, if not the one of the configuration.
            vision_feature_select_strategy: likewise, with ("full") or without ("default") the class token.
            cls_attention: compute the class token's attention in the encoder's last layer.
            keep_last_hidden_state: give the encoder's output too, four times as large as the features or more.
            kwargs: as in transformers; what `output_hidden_states` or `output_attentions`, here or in the encoder's configuration,
                ask for is kept.

        Returns:
            An output with `pooler_output` [T, N, D]; `last_hidden_state` [T, 1 + patches, W]; hidden states and attentions if asked
            for. With `cls_attention` the `attentions` are a tuple of one, float32 [T, patches].
        """
        kwargs |= {"vision_feature_layer": vision_feature_layer, "vision_feature_select_strategy": vision_feature_select_strategy}
        if (asked := kwargs.get("output_hidden_states")) is None:
            asked = kwargs["output_hidden_states"] = self.config.vision_config.output_hidden_states
        encode = partial(super().get_image_features, return_dict=True, **kwargs)
        if cls_attention:
            used = vision_feature_layer or self.config.vision_feature_layer
            encode = partial(encode_with_cls_attention, self.vision_tower.encoder.layer, encode, used, asked)
        wanted = {"last_hidden_state": keep_last_hidden_state, "hidden_states": asked}
        unwanted = [name for name in wanted if not wanted[name]]

        if self.training or torch.is_grad_enabled() or not has_values(pixel_values):
            return drop_fields(encode(pixel_values=pixel_values), unwanted)
        every = torch.arange(len(pixel_values), device=pixel_values.device)
        first, index = (every, every) if self.encode_duplicates else distinct_tiles(pixel_values)
        batches = (pixel_values[batch] for batch in first.split(self.tile_batch))
        return expand_outputs((drop_fields(encode(pixel_values=tiles), unwanted) for tiles in batches), index)

    def with_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Encode the pixels of inputs; of the encoder's output the features alone are kept.

        Args:
            inputs: arguments of `forward` or `generate`.

        Returns:
            The inputs with `mm_encoder_outputs` in place of pixels. As they are where there are no pixels, or where both are given,
            which transformers refuses.
        """
        if inputs.get("pixel_values") is None or inputs.get("mm_encoder_outputs") is not None:
            return inputs
        how = {name: inputs[name] for name in PIXEL_INPUTS if name in inputs}
        features = self.get_image_features(**how, keep_last_hidden_state=False, return_dict=True)
        return {name: value for name, value in inputs.items() if name not in how} | {"mm_encoder_outputs": {"image": features}}

    @under_either_name
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        level_tiles: torch.LongTensor | None = None,
        level_order: Sequence[LevelName] | None = None,
        compression: CompressionSpec | None = None,
        compressed_prompt: CompressedPrompt | None = None,
        cache: Any = None,
        **inputs: Any,
    ) -> InternVLModelOutputWithPast:
        """As in the stock class, but for the four arguments that `MiniMonkeyForConditionalGeneration.forward` explains.

        Returns:
            The output of the stock class: hidden states [B, L, D], or [B, K, D] of the kept tokens.
        """
        inputs |= cache_argument(cache)
        inputs["inputs_embeds"] = inputs_embeds  # by name above, as transformers asks the signature for it
        if (compression is not None or compressed_prompt is not None) and has_tokens(cache):
            compression = compressed_prompt = None  # they belong to the prompt
        if compressed_prompt is not None:
            rows, kept = compressed_prompt.index.shape
            compressed_prompt = compressed_prompt.repeat_rows(1 if input_ids is None else len(input_ids) // rows)
            if input_ids is not None and input_ids.shape[1] > kept:
                compressed_prompt = self._followed(compressed_prompt, input_ids, inputs.get("attention_mask"))
        elif compression is not None:
            prompt = {name: inputs.get(name) for name in PICTURE_INPUTS} | {"level_tiles": level_tiles, "level_order": level_order}
            compressed_prompt = self.compress(compression, input_ids, **prompt)
            if compressed_prompt is not None:
                whole = OF_THE_WHOLE_PROMPT if isinstance(compressed_prompt, PrefilledPrompt) else ()
                refuse(compression.selector, ("position_ids", *whole), inputs)
        if compressed_prompt is None:
            return super().forward(input_ids=input_ids, **self.with_features(inputs))
        if isinstance(compressed_prompt, ShortenedPrompt):
            positions = {"attention_mask": compressed_prompt.mask, "position_ids": compressed_prompt.positions}
            others = {name: value for name, value in inputs.items() if name not in PICTURE_INPUTS}
            return super().forward(**others | positions | {"inputs_embeds": compressed_prompt.embeddings})
        assert isinstance(compressed_prompt, PrefilledPrompt)
        cache = None if inputs.get("use_cache") is False else compressed_prompt.cache
        return InternVLModelOutputWithPast(self.language_model.norm(compressed_prompt.hidden), **{CACHE: cache})

    def compress(
        self,
        spec: CompressionSpec,
        input_ids: torch.LongTensor | None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        level_tiles: torch.LongTensor | None = None,
        level_order: Sequence[LevelName] | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **how: Any,
    ) -> CompressedPrompt | None:
        """Drop detail tokens of prompts; with some selectors the language model reads the prompts on the way.

        Args:
            spec: which detail tokens stay.
            input_ids: the prompts, int64 [B, L].
            pixel_values: tiles of all pictures, float [T, 3, S, S].
            attention_mask: 0 for padding, int [B, L]; None if there is none.
            level_tiles: tiles of the detail, adaptive and thumbnail level of each picture, int64 [P, 3].
            level_order: the order of a picture's levels; detail, adaptive, thumbnail if not given.
            mm_encoder_outputs: encoded tiles in place of `pixel_values`, as `{"image": output of get_image_features}`.
            how: how tiles are encoded: other arguments of `get_image_features`.

        Returns:
            What the language model gets instead of the prompts. None if there is nothing to compress: no picture, or none with a
            detail level.

        Raises:
            UsageError: the selector can't work with this model or these inputs.
        """
        if not isinstance(spec, CompressionSpec):
            raise UsageError(f"compression={spec!r}: expected a CompressionSpec")
        ready = (mm_encoder_outputs or {}).get("image")
        if pixel_values is None and ready is None:
            return None
        if input_ids is None:
            raise UsageError("compression finds image tokens by their ids: give input_ids, not embeddings")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        levels = detail_levels(input_ids, mask, level_tiles, self.config.image_token_id, spec, level_order)
        if not levels:
            return None
        if ready is None:
            how |= {"cls_attention": spec.needs_cls_attention, "keep_last_hidden_state": False}
            ready = self.get_image_features(pixel_values, return_dict=True, **how)
        elif spec.needs_cls_attention and not ready.attentions:
            raise UsageError(
                "visionzip watches the encoder: give pixel_values, or outputs of get_image_features(cls_attention=True)"
            )
        cls_attention = self._by_token(ready.attentions[0]) if spec.needs_cls_attention else None
        return compress(self.language_model, self.embed(input_ids, ready), mask, levels, spec, cls_attention)

    def embed(self, input_ids: torch.LongTensor, encoded: BaseModelOutputWithPooling | None = None) -> torch.Tensor:
        """Embeddings of prompts, with the features of their tiles where image tokens stand.

        Args:
            input_ids: int64 [B, L].
            encoded: output of `get_image_features`; None if the prompts have no pictures.

        Returns:
            [B, L, D].
        """
        embeddings = self.get_input_embeddings()(input_ids)
        if encoded is None:
            return embeddings
        features = encoded.pooler_output.to(embeddings)
        places = self.get_placeholder_mask(input_ids, inputs_embeds=embeddings, image_features=features)
        return embeddings.masked_scatter(places, features)

    def _followed(self, prompt: CompressedPrompt, input_ids: torch.Tensor, mask: torch.Tensor | None) -> PrefilledPrompt:
        """With what stands behind the kept tokens in ids [B, K + Q], of which `mask` leaves padding out, read too."""
        assert isinstance(prompt, PrefilledPrompt), "the language model hasn't read what is followed yet"
        kept = prompt.index.shape[1]
        new = input_ids[:, kept:]
        mask = torch.ones_like(new) if mask is None else mask[:, kept:]
        return prompt.extended(self.language_model, self.get_input_embeddings()(new), mask)

    def _by_token(self, attention: torch.Tensor) -> torch.Tensor:
        """What patches [T, patches] get, as what image tokens get, each of which is made of several: [T * N]."""
        side = math.isqrt(attention.shape[1])
        patches = attention.view(len(attention), side, side, 1)
        return self.pixel_shuffle(patches, scale_factor=self.config.downsample_ratio).sum(dim=-1).flatten()


def refuse(selector: str, names: Iterable[str], inputs: Mapping[str, Any]) -> None:
    """Raises UsageError if one of these inputs, each of them about the whole prompt, is given and not False."""
    for name in names:
        if inputs.get(name) is not None and inputs[name] is not False:
            raise UsageError(f"{selector} changes which tokens there are: leave out {name}")


def has_tokens(cache: Any) -> bool:
    """Whether a cache holds tokens; None holds none."""
    return cache is not None and cache.get_seq_length() > 0
