"""The network that answers: InternVL of transformers with our backbone, and a prompt that may lose image tokens on its way in.

Knows nothing of pictures, text or devices: tensors stay where the caller put them.

    shapes: P pictures, B rows of text, L length of a row, K tokens that compression keeps of a row, V vocabulary
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, InternVLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.compressed_prompt import CompressedPrompt, PrefilledPrompt
from minimonkey.compression.spans import Selection
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.language_model.layers import CACHE, cache_argument, under_either_name
from minimonkey.models.minimonkey.backbone import OF_THE_WHOLE_PROMPT, PICTURE_INPUTS, MiniMonkeyModel, has_tokens, refuse
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.models.strict_loading import load_strictly
from minimonkey.pyramid import LevelName

SAME_CACHE = ("dynamic", "dynamic_full")
"""transformers' names for the kind of cache that a prompt is read into while it is compressed."""
NOT_WITH_COMPRESSION = ("use_cache", "prefill_chunk_size", "assistant_model", "cache_implementation", *OF_THE_WHOLE_PROMPT)
"""Settings of `generate` that a compressed prompt may not go with."""


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
    def from_pretrained(cls, pretrained_model_name_or_path, *args: Any, output_loading_info: bool = False, **kwargs: Any):
        """As in transformers, but safetensors only and no remote code.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository.
            output_loading_info: give the loading info too.
            args, kwargs: as in transformers.

        Returns:
            The model, in evaluation mode; with `output_loading_info` the pair of it and the info.

        Raises:
            CheckpointError: for every tensor that is missing, not expected or of another shape than the configuration says.
            ShortOfMemoryError: if the weights don't fit into memory.
        """
        model, info = load_strictly(super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)
        return (model, info) if output_loading_info else model

    @under_either_name
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_sizes: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        level_tiles: torch.LongTensor | None = None,
        level_order: Sequence[LevelName] | None = None,
        compression: CompressionSpec | None = None,
        compressed_prompt: CompressedPrompt | None = None,
        **kwargs: Any,
    ):
        """As in the stock class, with four arguments more: the last of those below, `level_tiles` and the three behind it.

        Args:
            input_ids: int64 [B, L].
            pixel_values: tiles of all pictures, float [T, 3, S, S].
            cache: keys and values of earlier tokens; `past_key_values` is another name of it, in every release of transformers.
            mm_encoder_outputs: encoded tiles in place of `pixel_values`, as `{"image": output of get_image_features}`.
            labels: int64 [B, L], -100 where nothing is learnt; not with compression.
            level_tiles: tiles of the detail, adaptive and thumbnail level of each picture, int64 [P, 3]; for `compression`.
            level_order: the order of a picture's levels; detail, adaptive, thumbnail if not given.
            compression: which detail tokens the language model reads. It belongs to the prompt: with a cache that has tokens it
                does nothing. For further tokens give `position_ids` that continue those of the prompt, unless
                `compression.positions` is "compact".
            compressed_prompt: the result of `model.compress`, in place of `compression`. Ids behind the kept ones are read too, and
                the logits are those of the new ids then.

        Returns:
            An output with `logits` [B, L, V], and `loss` if there are labels. With `compression` logits are those of the kept
            tokens, [B, K, V], padded on the left where rows keep different numbers of them.

        Raises:
            UsageError: arguments that don't go with compression, or both names of the cache.
        """
        if (compression is not None or compressed_prompt is not None) and not has_tokens(cache):
            if labels is not None:
                raise UsageError("compression changes which tokens there are: leave out labels")
            kwargs |= {"level_tiles": level_tiles, "level_order": level_order}
            kwargs |= {"compression": compression, "compressed_prompt": compressed_prompt}
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            labels=labels,
            logits_to_keep=logits_to_keep,
            image_sizes=image_sizes,
            mm_encoder_outputs=mm_encoder_outputs,
            **cache_argument(cache),
            **kwargs,
        )

    @wraps(InternVLForConditionalGeneration.prepare_inputs_for_generation)  # whose signature says what `generate` takes
    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> dict[str, Any]:
        """As in transformers; compression belongs to the prefill. Later steps, which may be compiled, never see it."""
        if not is_first_iteration:
            kwargs = {name: value for name, value in kwargs.items() if name not in ("compression", "compressed_prompt")}
        return super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)

    @under_either_name
    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        cache: Any = None,
        compression: CompressionSpec | None = None,
        compressed_prompt: CompressedPrompt | None = None,
        selections: list[Selection] | None = None,
        **settings: Any,
    ):
        """As in transformers, with three arguments more. With `compression` the language model reads fewer detail tokens.

        Streamers and criteria see the kept ids; `max_length` and `min_length` count the whole prompts and the new tokens.

        Args:
            inputs: ids of the prompts, int64 [B, L]; also by the name of `input_ids`.
            generation_config: as in transformers.
            compression: which image tokens stay.
            cache: as in `forward`.
            compressed_prompt: the result of `model.compress`, in place of `compression`. `inputs` are the kept ids then, and stand
                before the new ones. More ids may follow them, with an `attention_mask` for all, once the language model has read
                the prompts.
            selections: a list that gets the selection of each picture.
            settings: as in transformers, pixel values and `level_tiles` of the pictures among them.

        Returns:
            As without compression: the whole prompts' ids, then the new ones; or an output that has them as `sequences`.

        Raises:
            UsageError: the selector can't work with this model or these inputs. Or settings that can't go with a compressed
                prompt: no cache, prefill in chunks, an assistant; and, where the language model reads it while it is compressed
                (scm and fastv), a cache of the caller's, hidden states and attentions.
        """
        if cache is not None:
            settings[CACHE] = cache
        if compressed_prompt is not None:
            self._check_settings("compression", compressed_prompt, settings, generation_config)
            kept, mask = compressed_prompt.mask.shape[1], settings.get("attention_mask", compressed_prompt.mask)
            places = torch.cat((compressed_prompt.positions, compressed_prompt.next_positions(mask[:, kept:])), dim=1)
            settings |= {"attention_mask": mask, "position_ids": places, "compressed_prompt": compressed_prompt}
            generation_config = self._shorten_lengths(compressed_prompt.dropped, settings, generation_config)
            return super().generate(inputs, generation_config, *args, **settings)
        if compression is None:  # encoded here, as transformers would keep the encoder's output until the answer is there
            return super().generate(inputs, generation_config, *args, **self.model.with_features(settings))
        if has_tokens(cache) or settings.keys() & {"inputs_embeds", "position_ids"}:
            raise UsageError(f"compression begins with ids: leave out {CACHE}, inputs_embeds and position_ids")
        prompt = settings.pop("input_ids", inputs)
        compressed = self.model.compress(compression, prompt, **{name: settings.get(name) for name in PICTURE_INPUTS})
        if compressed is None:
            return super().generate(prompt, generation_config, *args, **self.model.with_features(settings))
        self._check_settings(compression.selector, compressed, settings, generation_config)
        if selections is not None:
            selections += compressed.selections
        kept = compressed.ids(prompt, self.config.text_config.pad_token_id or 0)
        settings = {name: value for name, value in settings.items() if name not in PICTURE_INPUTS}
        output = self.generate(kept, generation_config, *args, compressed_prompt=compressed, **settings)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        whole = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0)
        whole = torch.cat((whole, sequences[:, kept.shape[1] :]), dim=1)
        if output is sequences:
            return whole
        output.sequences = whole
        return output

    def _check_settings(
        self, selector: str, compressed: CompressedPrompt, settings: dict[str, Any], config: GenerationConfig | None
    ) -> None:
        """Raises UsageError for what can't go with a compressed prompt, wherever it is set: in the call or in a configuration."""
        effective = {name: _setting(name, settings, config, self.generation_config) for name in NOT_WITH_COMPRESSION}
        check_settings_with_compression(selector, isinstance(compressed, PrefilledPrompt), effective)

    def _shorten_lengths(self, dropped: int, settings: dict[str, Any], config: GenerationConfig | None) -> GenerationConfig | None:
        """The config, and the settings in place, with lengths that don't count the dropped tokens: `generate` never sees these."""
        config = copy.copy(config)
        for name in ("max_length", "min_length"):
            own = getattr(self.generation_config, name)
            if settings.get(name) is not None:
                settings[name] = max(settings[name] - dropped, 0)
            elif config is not None and getattr(config, name) is not None:
                setattr(config, name, max(getattr(config, name) - dropped, 0))
            elif own is not None and settings.get(name.replace("length", "new_tokens")) is None:  # which goes before it
                settings[name] = max(own - dropped, 0)
        return config


def check_settings_with_compression(selector: str, prefilled: bool, settings: Mapping[str, Any]) -> None:
    """Check what `generate` is to do with a compressed prompt.

    Args:
        selector: for the message.
        prefilled: whether the language model reads the prompt while it is compressed, into a cache of its own.
        settings: what `generate` will go by; names of NOT_WITH_COMPRESSION count, missing ones are None.

    Raises:
        UsageError: a setting that can't go with it.
    """
    if settings.get("use_cache") is False:
        raise UsageError("use_cache=False: what compression keeps is kept in the cache; leave one of the two out")
    if (size := settings.get("prefill_chunk_size")) is not None:
        raise UsageError(f"prefill_chunk_size={size!r}: compression reads a prompt in one piece; leave one of the two out")
    if settings.get("assistant_model") is not None:
        raise UsageError("compression is of this model's prompt, and an assistant reads one too: leave out assistant_model")
    if prefilled:
        other_cache = settings.get("cache_implementation") not in (None, *SAME_CACHE)
        refuse(selector, (*OF_THE_WHOLE_PROMPT, "cache_implementation"), dict(settings) | {"cache_implementation": other_cache})


def _setting(name: str, settings: dict[str, Any], *configs: GenerationConfig | None) -> Any:
    """The value that `generate` goes by: that of the call, else that of the first configuration that has one."""
    configured = (getattr(config, name, None) for config in configs)
    return settings[name] if name in settings else next((value for value in configured if value is not None), None)
