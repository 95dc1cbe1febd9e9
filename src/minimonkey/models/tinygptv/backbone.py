"""The network without a head: pictures through EVA ViT-g, the Q-Former and two projections, then Phi-2.

A tile becomes 32 image tokens whatever its size. How tiles are batched, and all around the language model, is Mini-Monkey's.

    shapes: T tiles, S tile side in pixels, M patches of a tile, W width of the encoder, Q queries of the Q-Former, D hidden size
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Blip2QFormerModel, Blip2VisionModel, CLIPVisionModel, InternVLModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.compressed_prompt import CompressedPrompt
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.rotary import make_stateless
from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.strict_loading import register_key_names
from minimonkey.models.tinygptv.configuration import TinyGPTVConfig
from minimonkey.models.tinygptv.language_model import TinyGPTVTextModel

TOWERS: dict[str, type[PreTrainedModel]] = {"blip_2_vision_model": Blip2VisionModel, "clip_vision_model": CLIPVisionModel}
VISION_LAYERNORM_EPS = 1e-5
"""torch's own, as BLIP-2's `ln_vision` has; the tower's norms have 1e-6."""


class Float32LayerNorm(nn.LayerNorm):
    """A norm that is computed in float32 whatever comes, as the published one is."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None and self.bias is not None
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(hidden.float(), self.normalized_shape, weight, bias, self.eps).to(hidden.dtype)


class TinyGPTVProjector(nn.Module):
    """Two projections with nothing between them: that of MiniGPT-4, which led to Vicuna, and one from there to Phi-2."""

    def __init__(self, config: TinyGPTVConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.qformer_config.hidden_size, config.projector_hidden_size)
        self.linear_2 = nn.Linear(config.projector_hidden_size, config.text_config.hidden_size)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """What the Q-Former says [T, Q, its width] as image tokens [T, Q, D]."""
        return self.linear_2(self.linear_1(queries))


class TinyGPTVModel(MiniMonkeyModel):
    """Vision encoder, Q-Former, projections and language model, without a head."""

    config: TinyGPTVConfig
    config_class = TinyGPTVConfig
    _no_split_modules = ["Blip2EncoderLayer", "Blip2VisionEmbeddings", "CLIPEncoderLayer", "Blip2QFormerLayer", "PhiDecoderLayer"]

    def __init__(self, config: TinyGPTVConfig) -> None:
        register_key_names("TinyGPTVForConditionalGeneration", "TinyGPTVModel")
        super(InternVLModel, self).__init__(config)  # the stock __init__ would build InternVL's parts
        self.vision_tower = TOWERS[config.vision_config.model_type]._from_config(config.vision_config)
        self.vision_tower.post_layernorm = nn.Identity()  # BLIP-2's norm, with another epsilon, stands behind any tower:
        self.vision_layernorm = Float32LayerNorm(config.vision_config.hidden_size, eps=VISION_LAYERNORM_EPS)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.image_seq_length, config.qformer_config.hidden_size))
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.multi_modal_projector = TinyGPTVProjector(config)
        self.language_model = TinyGPTVTextModel._from_config(config.text_config)
        make_stateless(self.language_model)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TinyGPTVModel):
            init.normal_(module.query_tokens, mean=0.0, std=self.config.initializer_range)

    def train(self, mode: bool = True) -> TinyGPTVModel:
        """As in torch, but what is frozen stays in evaluation mode, without dropout, as the published `disabled_train` has it."""
        super().train(mode)
        for part in (self.vision_tower, self.qformer):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def encode_tiles(
        self, pixel_values: torch.Tensor, kinds: torch.Tensor | None = None, *, cls_attention: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Tiles through encoder, Q-Former and projections, all at once.

        Args:
            pixel_values: float [T, 3, S, S]; the table of positions is resized to any S.
            kinds: all tiles are alike.
            cls_attention: not here; UsageError.
            kwargs: `output_hidden_states` and `output_attentions` of the encoder; other arguments of transformers change nothing.

        Returns:
            An output with `pooler_output` [T, Q, D] and `last_hidden_state` [T, 1 + M, W], behind the encoder's norm.
        """
        if cls_attention:
            raise UsageError("visionzip watches InternVL's encoder, and this model's is another: use another selector")
        asked = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if kwargs.get(name) is not None}
        pixel_values = pixel_values.to(self.vision_layernorm.weight.dtype)
        output = self.vision_tower(pixel_values=pixel_values, interpolate_pos_encoding=True, return_dict=True, **asked)
        output.last_hidden_state = self.vision_layernorm(output.last_hidden_state)
        queries = self.query_tokens.expand(len(pixel_values), -1, -1)
        answers = self.qformer(query_embeds=queries, encoder_hidden_states=output.last_hidden_state, return_dict=True)
        output.pooler_output = self.multi_modal_projector(answers.last_hidden_state)
        return output

    def compress(
        self, spec: CompressionSpec, input_ids: torch.LongTensor | None, *args: Any, **prompt: Any
    ) -> CompressedPrompt | None:
        """As in Mini-Monkey's, of pictures of one tile: None, as they have no detail tokens.

        Raises:
            UsageError: there are detail tiles. Queries of the Q-Former are of a whole tile: no image token belongs to a place.
        """
        level_tiles = prompt.get("level_tiles")
        if level_tiles is not None and bool(level_tiles[:, 0].any()):
            raise UsageError(
                "compression chooses places of a picture, and TinyGPT-V's 32 image tokens a tile have none: leave it out"
            )
        return super().compress(spec, input_ids, *args, **prompt)
