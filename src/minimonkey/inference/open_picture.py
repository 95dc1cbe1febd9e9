"""Pictures that are encoded and read once, for many questions: their features and a prefix cache are kept between calls.

A question's prompt is tokenised as a whole, as for a fresh call; what it has in common with the prompt before is not read again.
Knows a model and a processor; not where they come from, and no files.

    shapes: T tiles and I image tokens of all pictures, D hidden size, M patches of a tile
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from PIL.Image import Image
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.prefill import layers_before_pruning
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.inference.answer import Answer
from minimonkey.inference.backend import TorchBackend
from minimonkey.inference.cache_budget import CacheBudget
from minimonkey.inference.generation import GenerationRequest, Prompt, padded
from minimonkey.inference.prefix_cache import EMPTY, PrefixCache, common_length, sees_all
from minimonkey.language_model.layers import CACHE
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.processing.turns import History
from minimonkey.pyramid import PyramidSpec, Size

PROBES = ("?", "0")
"""Two questions that differ at once: what their prompts begin with doesn't depend on the question."""
CACHE_SETTINGS = ("use_cache", "cache_implementation", "prefill_chunk_size")
"""Settings of `generate` about the cache: an open picture has one of its own."""


class _Cached(NamedTuple):
    """What an open picture caches. A call takes it once: another thread may put a later one, or none, in its place meanwhile."""

    features: torch.Tensor
    """Image tokens of all pictures, [I, D]."""
    cls_attention: torch.Tensor | None
    """The class token's attention in the encoder, float32 [T, M]; None unless the selector needs it."""
    prefix: PrefixCache
    """What the language model has read."""

    @property
    def nbytes(self) -> int:
        cls_bytes = 0 if self.cls_attention is None else self.cls_attention.nbytes
        return self.features.nbytes + cls_bytes + self.prefix.nbytes


class OpenPicture:
    """One or several pictures that a model has read: each question costs its own tokens alone. Made by `VisionLanguageModel.open`.

    Answers are those of fresh calls, `vlm.ask(pictures, question, ...)`, up to rounding. The latest question and its answer are
    cached too, so that a history which continues them costs no more than what is new (with scm, whose first layers read prompts
    whole, no more than that and the answer). A prompt is read anew, but its pictures aren't encoded anew, where it places them
    elsewhere (behind a history without marks, say) or where its length changes the rotation of all positions.
    """

    def __init__(
        self,
        backend: TorchBackend,
        processor: MiniMonkeyProcessor,
        budget: CacheBudget,
        pictures: list[Image],
        spec: PyramidSpec,
        system: str | None,
        compression: CompressionSpec | None = None,
    ) -> None:
        self.pyramids = [spec.plan(Size(picture.height, picture.width)) for picture in pictures]
        """How each picture was cut."""
        self._backend, self._processor, self._budget = backend, processor, budget
        self._system, self._order = system, spec.order
        self._compression = compression if any(pyramid.detail for pyramid in self.pyramids) else None
        self._closed_because: str | None = None
        self._cached: _Cached | None = None
        one, other = (self._prompt(question) for question in PROBES)
        GenerationRequest.of(self._network, processor, [one], {})
        begin = one.ids[: common_length(one.ids, other.ids)]
        self._length = len(begin)
        """Tokens of every prompt that don't depend on the question."""
        budget.make_room(self._planned_bytes())
        with explain_out_of_memory("reading the picture", HINTS["open"]):
            cached = self._encoded(pictures)
            if EMPTY.same_rotation(self._text, self._length, self._length + 1):
                cached = cached._replace(prefix=self._read(cached, begin))
        self._cached = cached
        budget.touch(self)

    @property
    def cache_bytes(self) -> int:
        """Bytes of image tokens, and of keys and values of every layer; 0 once it is closed."""
        cached = self._cached
        return 0 if cached is None else cached.nbytes

    @property
    def closed(self) -> bool:
        return self._closed_because is not None

    def ask(
        self,
        question: str,
        *,
        history: History | None = None,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """Ask one question. Threads may ask at once.

        Args:
            question: what is asked; `<image>` in it places a picture.
            history: earlier turns, as in `VisionLanguageModel.ask`.
            max_new_tokens: the longest answer, in tokens; as in `VisionLanguageModel.ask`.
            generation: other settings of `model.generate`, but for those of the cache.

        Returns:
            The answer, that of `VisionLanguageModel.ask` with the same pictures.

        Raises:
            UsageError: it is closed, or a setting is unknown.
            PromptError: marks and pictures don't match, or the prompt is too long.
            ShortOfMemoryError: memory runs out.
        """
        request, inputs = self._prepare([question], history, max_new_tokens, **generation)
        return request.answers(self._backend, inputs)[0]

    def ask_many(self, questions: Iterable[str], **settings: Any) -> list[Answer]:
        """Ask several questions at once: the answers are the same as one by one, up to rounding.

        Each question gets a copy of the cache; if not all copies fit into `vlm.max_cache_bytes`, as many are asked at a time as do.

        Args:
            questions: what is asked.
            settings: those of `ask`, for each.

        Returns:
            The answers, in the order of the questions.

        Raises:
            What `ask` raises.
        """
        rows, answers = list(questions), list[Answer]()
        cached = self._cached
        at_once = max(1, self._budget.max_bytes // max(1, 0 if cached is None else cached.prefix.nbytes))
        for begin in range(0, len(rows), at_once):
            request, inputs = self._prepare(rows[begin : begin + at_once], **settings)
            answers += request.answers(self._backend, inputs)
        return answers

    def stream(self, question: str, **settings: Any) -> Generator[str, None, Answer]:
        """Ask one question and get the answer in pieces, as it comes.

        Args:
            question: what is asked.
            settings: those of `ask`.

        Returns:
            A generator of str, which together are the text of `ask`; its return value is the Answer. Closing it stops the model.

        Raises:
            What `ask` raises, from the call, before the first piece.
        """
        request, inputs = self._prepare([question], **settings)
        return request.stream(self._backend, inputs)

    def close(self, reason: str = "it was closed") -> None:
        """Free the cache; a call under way ends as if nothing had happened. Closing again changes nothing.

        Args:
            reason: why, for the error of whoever asks afterwards.
        """
        with self._budget.lock:
            self._closed_because = self._closed_because or reason
            self._cached = None
            self._budget.remove(self)

    def __enter__(self) -> OpenPicture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _network(self) -> Any:
        return self._backend.network

    @property
    def _text(self) -> nn.Module:
        return self._network.model.language_model

    def _prompt(self, question: str, history: History | None = None) -> Prompt:
        tiles = [pyramid.tile_count for pyramid in self.pyramids]
        ids = self._processor.encode_chat(question, pictures=tiles, system=self._system, history=history)
        return Prompt(ids, self.pyramids)

    def _planned_bytes(self) -> int:
        """What `cache_bytes` will be; or less, as downsample may keep fewer tokens than it could."""
        text, a_tile, spec = self._network.config.text_config, self._processor.image_seq_length, self._compression
        image_tokens = sum(pyramid.tile_count for pyramid in self.pyramids) * a_tile
        read, cls_bytes = text.num_hidden_layers * self._length, 0
        if spec is not None:
            dropped = sum(spec.dropped(pyramid.level_tiles[0], a_tile) for pyramid in self.pyramids)
            read += layers_before_pruning(spec) * self._length - text.num_hidden_layers * dropped
            patches = round(image_tokens / self._network.config.downsample_ratio**2)
            cls_bytes = patches * torch.float32.itemsize if spec.needs_cls_attention else 0
        channels = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        numbers = 2 * read * text.num_key_value_heads * channels + image_tokens * text.hidden_size
        return numbers * self._network.dtype.itemsize + cls_bytes

    def _encoded(self, pictures: list[Image]) -> _Cached:
        """The pictures as image tokens, none of which the language model has read yet."""
        if not pictures:
            return _Cached(torch.empty(0, self._network.config.text_config.hidden_size), None, EMPTY)
        tiles = self._processor.image_processor.cut(pictures, self.pyramids)
        needs_cls_attention = self._compression is not None and self._compression.needs_cls_attention
        output = self._backend.encode(tiles, cls_attention=needs_cls_attention)
        return _Cached(output.pooler_output.flatten(0, 1), output.attentions[0] if needs_cls_attention else None, EMPTY)

    def _read(self, cached: _Cached, ids: list[int]) -> PrefixCache:
        """The cache of the first tokens of all prompts."""
        cache, compressed = self._backend.read(self._inputs(cached, [ids], 0))
        return PrefixCache.of(ids, cache, compressed)

    @explain_out_of_memory("answering", HINTS["ask"])
    def _prepare(
        self,
        questions: list[str],
        history: History | None = None,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> tuple[GenerationRequest, dict[str, Any]]:
        """A request, and what the model gets for it."""
        begun, cached = time.perf_counter(), self._cached
        if cached is None:
            raise UsageError(f"this picture can't be asked, {self._closed_because}: open it again")
        for name in CACHE_SETTINGS:
            if name in generation:
                raise UsageError(f"{name}={generation[name]!r}: an open picture has a cache of its own; use vlm.ask() for others")
        prompts = [self._prompt(question, history) for question in questions]
        generation |= dict.fromkeys(CACHE_SETTINGS) | {"use_cache": True}
        request = GenerationRequest.of(
            self._network,
            self._processor,
            prompts,
            generation,
            compression=self._compression,
            max_new_tokens=max_new_tokens,
            begun=begun,
        )
        self._budget.touch(self)
        rows = [prompt.ids for prompt in prompts]
        reused = self._reusable(cached.prefix, rows, request.settings["max_new_tokens"])
        inputs = self._inputs(cached, rows, reused)
        if not reused and self._compression is not None and layers_before_pruning(self._compression):
            del inputs[CACHE]  # the prompt is read into a cache of its own
        if reused:
            request = replace(request, selections=cached.prefix.selections)
        if len(rows) == 1 and reused >= self._length:
            width = inputs["input_ids"].shape[1]
            request = replace(request, on_finished=lambda ids: self._cache_turn(cached, rows[0] + ids[0, width:].tolist(), inputs))
        return request, inputs

    def _reusable(self, prefix: PrefixCache, rows: list[list[int]], new_tokens: int) -> int:
        """How many tokens at the start of all rows come from the cache."""
        lengths = {len(row) for row in rows}
        if not prefix.same_rotation(self._text, self._length, *lengths):
            return 0
        if len(lengths) > 1 and not sees_all(self._text, max(lengths) + new_tokens):
            return 0  # a sliding window would count the padding behind what is known, but not that before a whole row
        return min(prefix.reusable(row) for row in rows)

    def _inputs(self, cached: _Cached, rows: list[list[int]], reused: int) -> dict[str, Any]:
        """Arguments of `generate` for rows whose first `reused` tokens come from the cache; the rest is padded on its left."""
        pad, device = self._processor.tokenizer.pad_token_id, self._network.device
        inputs = cached.prefix.inputs(reused, len(rows))
        inputs |= padded([row[reused:] for row in rows], pad, device, front=cached.prefix.kept_ids(reused))
        if self._compression is not None and not reused:
            level_tiles = torch.tensor([pyramid.level_tiles for pyramid in self.pyramids] * len(rows))
            inputs |= {"compression": self._compression, "level_tiles": level_tiles, "level_order": self._order}
        features = cached.features[rows[0][:reused].count(self._processor.image_token_id) :].repeat(len(rows), 1)
        if len(features):
            attentions = None if cached.cls_attention is None else (cached.cls_attention.repeat(len(rows), 1),)
            encoded = BaseModelOutputWithPooling(pooler_output=features[None], attentions=attentions)
            inputs["mm_encoder_outputs"] = {"image": encoded}
        return inputs

    def _cache_turn(self, begun_with: _Cached, ids: list[int], inputs: dict[str, Any]) -> None:
        """Cache the latest prompt and answer in place of those before, if the budget has room."""
        latest = begun_with._replace(prefix=begun_with.prefix.extended(ids, inputs))
        if not latest.prefix.same_rotation(self._text, self._length, len(latest.prefix.ids)):
            return
        with self._budget.lock:
            if self._cached is not None and self._budget.has_room(latest.nbytes - self._cached.nbytes):
                self._cached = latest
