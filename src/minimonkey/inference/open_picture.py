"""Pictures that are looked at once and asked about often, and how much memory all that are open may keep.

A question's prompt is encoded as a whole, as for a fresh call; what it has in common with the prompt before is not read again.
Knows a model and a processor; not where they come from, and no files.

    shapes: T tiles and I image tokens of all pictures, D hidden size, M patches of a tile
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.prefill import read_whole
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.inference.answer import Answer
from minimonkey.inference.generation import ASK_LESS, Call
from minimonkey.inference.prefix_cache import NOTHING, Prefix, sees_all, shared
from minimonkey.memory import enough_memory
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec, Size

PROBES = ("?", "0")
"""Two questions that differ at once: what their prompts begin with doesn't depend on the question."""
CACHE_SETTINGS = ("use_cache", "cache_implementation", "prefill_chunk_size")
"""Settings of `generate` that would be about another cache than the one kept here."""


class OpenPicture:
    """One or several pictures that a model has read: each question costs its own tokens alone. Made by `VisionLanguageModel.open`.

    Answers are those of fresh calls, `vlm.ask(pictures, question, ...)`, up to rounding. The latest question and its answer are
    kept too, so that a history which goes on from them costs no more than what is new (with scm, whose first layers read prompts
    whole, no more than that and the answer). A prompt is read anew, but its pictures aren't encoded anew, where it places them
    elsewhere (behind a history without marks, say) or where its length turns all positions by another rule.
    """

    def __init__(
        self,
        model: Any,
        processor: MiniMonkeyProcessor,
        shelf: Shelf,
        pictures: list[Image],
        spec: PyramidSpec,
        system: str | None,
        compression: CompressionSpec | None = None,
    ) -> None:
        self.pyramids = [spec.plan(Size(picture.height, picture.width)) for picture in pictures]
        """How each picture was cut."""
        self._model, self._processor, self._shelf = model, processor, shelf
        self._system, self._order = system, spec.order
        self._compression = compression if any(pyramid.detail for pyramid in self.pyramids) else None
        self._closed_because: str | None = None
        self._kept = NOTHING
        one, other = (self._ids(question) for question in PROBES)
        Call(model, processor, {}).plan([len(one)], [self.pyramids], None)
        begin = one[: shared(one, other)]
        self._length = len(begin)
        """Tokens of every prompt that don't depend on the question."""
        shelf.make_room(self._planned_bytes())
        with torch.no_grad(), enough_memory("reading the picture", "lower the pyramid's budgets, or close other pictures"):
            self._encoded = self._encode(pictures, spec)
            if NOTHING.turns_alike(self._text, self._length, self._length + 1):
                self._kept = self._read(begin)
        shelf.put(self)

    @property
    def cache_bytes(self) -> int:
        """Bytes that are kept: image tokens, and keys and values of every layer; 0 once it is closed."""
        return sum(tensor.nbytes for tensor in (self._encoded.pooler_output, *(self._encoded.attentions or ()))) + self._kept.nbytes

    @property
    def closed(self) -> bool:
        return self._closed_because is not None

    def ask(
        self,
        question: str,
        *,
        history: Sequence[tuple[str, str]] | None = None,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """One answer; arguments and errors are those of `VisionLanguageModel.ask`. UsageError once it is closed."""
        return self._call([question], history, max_new_tokens, **generation).answers()[0]

    def ask_many(self, questions: Iterable[str], **settings: Any) -> list[Answer]:
        """The answer to each question: the same as one by one, up to rounding. `settings` as in `ask`, for each. All at once, each
        with a copy of what was read; if not all copies fit into `vlm.max_cache_bytes`, as many at a time as do."""
        rows, at_once = list(questions), max(1, self._shelf.max_bytes // max(1, self._kept.nbytes))
        groups = [rows[begin : begin + at_once] for begin in range(0, len(rows), at_once)]
        return [answer for group in groups for answer in self._call(group, **settings).answers()]

    def stream(self, question: str, **settings: Any) -> Generator[str, None, Answer]:
        """The text of `ask(question, **settings)` in pieces, as `VisionLanguageModel.stream` gives it."""
        return self._call([question], **settings).pieces()

    def close(self, reason: str = "it was closed") -> None:
        """Let go of all that is kept. Closing again changes nothing."""
        self._closed_because = self._closed_because or reason
        self._encoded, self._kept = BaseModelOutputWithPooling(pooler_output=torch.empty(0)), NOTHING
        self._shelf.take(self)

    def __enter__(self) -> OpenPicture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _text(self) -> nn.Module:
        return self._model.model.language_model

    def _ids(self, question: str, history: Sequence[tuple[str, str]] | None = None) -> list[int]:
        tiles = [pyramid.tile_count for pyramid in self.pyramids]
        return self._processor.encode_chat(question, pictures=tiles, system=self._system, history=history)

    def _planned_bytes(self) -> int:
        """What `cache_bytes` will be; or less, as downsample may keep fewer tokens than it could."""
        text, a_tile, spec = self._model.config.text_config, self._processor.image_seq_length, self._compression
        image_tokens = sum(pyramid.tile_count for pyramid in self.pyramids) * a_tile
        read, looks = text.num_hidden_layers * self._length, 0
        if spec is not None:
            dropped = sum(spec.dropped(pyramid.level_tiles[0], a_tile) for pyramid in self.pyramids)
            read += read_whole(spec) * self._length - text.num_hidden_layers * dropped
            looks = round(image_tokens / self._model.config.downsample_ratio**2) if spec.selector == "visionzip" else 0
        channels = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        numbers = 2 * read * text.num_key_value_heads * channels + image_tokens * text.hidden_size
        return numbers * self._model.dtype.itemsize + looks * torch.float32.itemsize

    def _encode(self, pictures: list[Image], spec: PyramidSpec) -> BaseModelOutputWithPooling:
        """Image tokens of all pictures, `pooler_output` [I, D]; for a selector that goes by it, where the encoder looks [T, M]."""
        if not pictures:
            return BaseModelOutputWithPooling(pooler_output=torch.empty(0, self._model.config.text_config.hidden_size))
        tiles = self._processor.image_processor(images=pictures, pyramid=spec, return_tensors="pt")["pixel_values"]
        looks = self._compression is not None and self._compression.selector == "visionzip"
        what = {"class_attention": looks, "keep_last_hidden_state": False}
        output = self._model.get_image_features(pixel_values=tiles.to(self._model.device), **what)
        attentions = output.attentions if looks else None
        return BaseModelOutputWithPooling(pooler_output=output.pooler_output.flatten(0, 1), attentions=attentions)

    def _read(self, ids: list[int]) -> Prefix:
        """What the language model makes of the first tokens of all prompts."""
        inputs, compressed = self._inputs([ids], 0), None
        if self._compression is not None:
            cache, spec = inputs.pop("past_key_values"), inputs.pop("compression")
            compressed = self._model.model.compress(spec, **inputs)
            inputs = {"compression": compressed, "past_key_values": cache}
        read = self._model(**inputs, use_cache=True, logits_to_keep=1)
        return Prefix.of(ids, read.past_key_values, compressed)

    @enough_memory("answering", ASK_LESS)
    def _call(self, questions: list[str], history=None, max_new_tokens: int | None = None, **generation: Any) -> Call:
        """Everything that `generate` needs."""
        if self._closed_because is not None:
            raise UsageError(f"this picture can't be asked, {self._closed_because}: open it again")
        for name in CACHE_SETTINGS:
            if name in generation:
                raise UsageError(f"{name}={generation[name]!r}: an open picture has a cache of its own; use vlm.ask() for others")
        call = Call(self._model, self._processor, generation | {"use_cache": True})
        rows = [self._ids(question, history) for question in questions]
        call.plan([len(row) for row in rows], [self.pyramids] * len(rows), max_new_tokens)
        self._shelf.put(self)
        known = self._known(rows, call.settings["max_new_tokens"])
        inputs = self._inputs(rows, known)
        if not known and self._compression is not None and read_whole(self._compression):
            del inputs["past_key_values"]  # the prompt is read into a cache of its own
        call.kept = self._kept.selections if known else ()
        if len(rows) == 1 and known >= self._length:
            width = inputs["input_ids"].shape[1]
            call.afterwards = lambda sequences: self._keep(rows[0] + sequences[0, width:].tolist(), inputs)
        call.begin(inputs)
        return call

    def _known(self, rows: list[list[int]], new_tokens: int) -> int:
        """How many tokens at the start of all rows needn't be read again."""
        lengths = {len(row) for row in rows}
        if not self._kept.turns_alike(self._text, self._length, *lengths):
            return 0
        if len(lengths) > 1 and not sees_all(self._text, max(lengths) + new_tokens):
            return 0  # a layer's window would count the padding behind what is known, but not that before a whole row
        return min(self._kept.known(row) for row in rows)

    def _inputs(self, rows: list[list[int]], known: int) -> dict[str, Any]:
        """Rows whose first `known` tokens come from the cache; what follows is padded on its left to the same length.

        Padding is masked and has no position, wherever it stands: `generate` counts positions along the mask.
        """
        width, device = max(map(len, rows)), self._model.device
        gaps, front = [width - len(row) for row in rows], self._kept.kept_ids(known)
        pad = self._processor.tokenizer.pad_token_id
        ids = [front + [pad] * gap + row[known:] for row, gap in zip(rows, gaps, strict=True)]
        mask = [[1] * len(front) + [0] * gap + [1] * (width - known - gap) for gap in gaps]
        inputs = self._kept.inputs(known, len(rows))
        inputs |= {name: torch.tensor(values, device=device) for name, values in {"input_ids": ids, "attention_mask": mask}.items()}
        if self._compression is not None and not known:
            level_tiles = torch.tensor([pyramid.level_tiles for pyramid in self.pyramids] * len(rows))
            inputs |= {"compression": self._compression, "level_tiles": level_tiles, "level_order": self._order}
        features = self._encoded.pooler_output[rows[0][:known].count(self._processor.image_token_id) :].repeat(len(rows), 1)
        if len(features):
            looks = tuple(seen.repeat(len(rows), 1) for seen in self._encoded.attentions or ())
            encoded = BaseModelOutputWithPooling(pooler_output=features[None], attentions=looks or None)
            inputs["mm_encoder_outputs"] = {"image": encoded}
        return inputs

    def _keep(self, ids: list[int], inputs: dict[str, Any]) -> None:
        """Keep the latest prompt and answer in place of those before, if there is room."""
        latest = self._kept.grown(ids, inputs)
        room = self._shelf.has_room(latest.nbytes - self._kept.nbytes)
        if not self.closed and room and latest.turns_alike(self._text, self._length, len(latest.ids)):
            self._kept = latest


class Shelf:
    """The open pictures of one model, the one used longest ago first, and how many bytes they may keep together.

    It holds none of them open: one that nobody has any more is gone.
    """

    def __init__(self, max_bytes: int = 4 * 2**30) -> None:
        self.max_bytes = max_bytes
        self._pictures: weakref.WeakValueDictionary[int, OpenPicture] = weakref.WeakValueDictionary()

    @property
    def cache_bytes(self) -> int:
        return sum(picture.cache_bytes for picture in self._pictures.values())

    def has_room(self, more: int) -> bool:
        return self.cache_bytes + more <= self.max_bytes

    def make_room(self, more: int) -> None:
        """Close those used longest ago until there is room. Raises UsageError if there is too little even without any."""
        if more > self.max_bytes:
            needs = f"open pictures may keep {self.max_bytes} bytes, and this one needs {more}"
            raise UsageError(f"{needs}: raise vlm.max_cache_bytes, or lower the pyramid's budgets")
        for picture in itertools.takewhile(lambda _: not self.has_room(more), list(self._pictures.values())):
            picture.close(f"it made room for others (vlm.max_cache_bytes={self.max_bytes})")

    def put(self, picture: OpenPicture) -> None:
        """Note that a picture is used now."""
        self.take(picture)
        self._pictures[id(picture)] = picture

    def take(self, picture: OpenPicture) -> None:
        self._pictures.pop(id(picture), None)
