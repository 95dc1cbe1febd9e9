"""The network: Monkey's encoder, resampler and language model in the frame that all families share.

Knows nothing of pictures, text or devices: tensors stay where the caller put them.

    shapes: T tiles, P pictures, S tile side in pixels, N tokens a tile, D hidden size, B rows, L length of a row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import InternVLModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.errors import PromptError, UsageError
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.minimonkey.vision_features import has_values
from minimonkey.models.monkey.configuration import MonkeyConfig
from minimonkey.models.monkey.language_model import MonkeyTextModel
from minimonkey.models.monkey.resampler import MonkeyResampler
from minimonkey.models.monkey.vision import MonkeyVisionModel, WindowAdapters
from minimonkey.models.strict_loading import register_key_names
from minimonkey.pyramid import LEVEL_NAMES, LevelName


class MonkeyModel(MiniMonkeyModel):
    """Encoder, resampler and language model, without a head. The windows of a picture are the tiles of its detail level."""

    config: MonkeyConfig
    config_class = MonkeyConfig
    _no_split_modules = ["MonkeyVisionLayer", "Qwen2DecoderLayer"]

    def __init__(self, config: MonkeyConfig) -> None:
        register_key_names("MonkeyForConditionalGeneration", "MonkeyModel")
        super(InternVLModel, self).__init__(config)  # the stock __init__ would build InternVL's parts
        self.vision_tower = MonkeyVisionModel(config.vision_config)
        self.multi_modal_projector = MonkeyResampler(config)
        self.language_model = MonkeyTextModel(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MonkeyResampler):
            for table in (module.query, module.position_embedding):
                init.normal_(table, std=self.config.text_config.initializer_range)
            init.normal_(module.projection, std=module.projection.shape[0] ** -0.5)

    def freeze_as_published(self) -> None:
        """Leave for training what the published script trains: the language model, the adapters of the windows, and the resampler
        with its positions, but not its last norm and projection."""
        for module in (self.vision_tower, self.multi_modal_projector):
            module.requires_grad_(False)
        for adapters in (module for module in self.vision_tower.modules() if isinstance(module, WindowAdapters)):
            adapters.requires_grad_()
        self.multi_modal_projector.requires_grad_()
        self.multi_modal_projector.post_norm.requires_grad_(False)
        self.multi_modal_projector.projection.requires_grad_(False)

    def encode_tiles(
        self, pixel_values: torch.Tensor, kinds: torch.Tensor | None = None, *, cls_attention: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        if cls_attention:
            raise UsageError("visionzip watches the encoder's class token, and Monkey's has none: choose another selector")
        layer = kwargs.get("vision_feature_layer") or self.config.vision_feature_layer
        states = bool(kwargs.get("output_hidden_states")) or layer != -1
        output = self.vision_tower(pixel_values, kinds, output_hidden_states=states)
        used = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self.multi_modal_projector(used),
            hidden_states=output.hidden_states,
        )

    def tile_kinds(
        self, pixel_values: torch.Tensor, level_tiles: torch.Tensor | None, level_order: Sequence[LevelName] | None
    ) -> torch.Tensor:
        """Windows have the number of their place in the detail level, row by row; all other tiles have no adapter.

        Raises UsageError for a picture of more windows than adapters, and for tiles that nobody says the levels of.
        """
        adapters, tiles = self.config.vision_config.adapters, len(pixel_values)
        if level_tiles is None:  # as published: windows, then the global view
            if tiles % (adapters + 1):
                raise UsageError(f"{tiles} tiles of pictures with {adapters} windows and a global view each: give level_tiles")
            pictures = [[adapters, 0, 1]] * (tiles // (adapters + 1))
        else:
            pictures = level_tiles.tolist()
        kinds: list[int] = []
        for counts in pictures:
            by_level = dict(zip(LEVEL_NAMES, counts, strict=True))
            if by_level["detail"] > adapters:
                raise UsageError(
                    f"a picture has {by_level['detail']} windows, and this model adapters for {adapters}: set the pyramid's grid "
                    f"to so many, or None and detail to ({adapters}, {adapters})"
                )
            for level in level_order or LEVEL_NAMES:
                kinds += range(by_level[level]) if level == "detail" else [adapters] * by_level[level]
        if len(kinds) != tiles:
            raise UsageError(f"level_tiles tell of {len(kinds)} tiles, pixel_values have {tiles}")
        return torch.tensor(kinds, device=pixel_values.device)

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Where image tokens stand, [B, L, 1]: all between the marks of a picture too, as the published tokenizer writes the bytes
        of its file's name there. Raises PromptError unless there are as many as features [T, N, D]."""
        if input_ids is None:
            return super().get_placeholder_mask(input_ids, inputs_embeds, image_features)
        begun, ended = ((input_ids == token).cumsum(dim=1) for token in (self.config.image_start_id, self.config.image_end_id))
        places = (begun > ended) & (input_ids != self.config.image_start_id) | (input_ids == self.config.image_token_id)
        due = image_features.shape[:-1].numel()
        if has_values(input_ids) and (found := int(places.sum())) != due:
            raise PromptError(
                f"the prompt has {found} image tokens, its pictures {due} features; let the processor write the image tokens"
            )
        return places[..., None].to(inputs_embeds.device)


class MonkeyForConditionalGeneration(MiniMonkeyForConditionalGeneration):
    """Monkey: windows of a picture, the picture as a whole and text in, text out."""

    config: MonkeyConfig
    config_class = MonkeyConfig
    backbone_class = MonkeyModel
    _no_split_modules = MonkeyModel._no_split_modules
