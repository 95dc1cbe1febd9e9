"""Pictures and a question in, an answer out: ask, stream, batch, open pictures for many questions.

What the model gets comes from the processor, what it says from `model.generate`: the same two objects that the Auto classes return.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, NoReturn

import torch
from PIL.Image import Image

from minimonkey.compression.spec import CompressionSpec
from minimonkey.documents import load_picture
from minimonkey.errors import UsageError
from minimonkey.inference.answer import Answer
from minimonkey.inference.backend import TorchBackend
from minimonkey.inference.cache_budget import CacheBudget
from minimonkey.inference.generation import GenerationRequest, Prompt, padded, request_rows
from minimonkey.inference.open_picture import OpenPicture
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.processing.turns import History
from minimonkey.pyramid import PyramidSpec, Size


class Default(Enum):
    """The type of DEFAULT."""

    DEFAULT = "the model's own"

    def __repr__(self) -> str:
        return self.name


DEFAULT = Default.DEFAULT
"""Stands for the model's own setting where None means none."""
Compression = CompressionSpec | dict | Default | None
"""A compression for one call: its settings, None for none, DEFAULT for the model's own."""
MAX_BATCH_TOKENS = 16_384
"""Most tokens of prompts, padding included, that `batch` reads at once, unless `vlm.max_batch_tokens` says otherwise."""
KEPT_BYTES = 2**30
"""Pixels of files that `batch` keeps in memory until their turn comes; those of further files are read again."""


class VisionLanguageModel:
    """A model and its processor, the transformers objects `.model` and `.processor`, and four ways to ask them.

    `pictures` is a path, PIL picture or array, a list of them, or [] for text only. They fill the `<image>` marks of the history
    first, then those of the question; where it has none, each picture that is left gets one before it. Greedy unless
    `do_sample=True` is given; it and other `generation` settings are those of `model.generate`. Threads may ask at once.
    """

    def __init__(
        self,
        model: MiniMonkeyForConditionalGeneration,
        processor: MiniMonkeyProcessor,
        compression: CompressionSpec | dict | None = None,
        backend: TorchBackend | None = None,
    ) -> None:
        """Put a model together.

        Args:
            model: the network, or one that peft has put adapters into.
            processor: the network's.
            compression: which image tokens are dropped unless a call says otherwise.
            backend: what computes; torch if not given.

        Raises:
            UsageError: an adapter of a kind that isn't in the network's own layers.
        """
        self.model = model
        self.processor = processor
        self.compression = compression_spec(compression)
        self.backend = backend or TorchBackend(_network(model))
        self.max_batch_tokens = MAX_BATCH_TOKENS
        self._budget = CacheBudget()

    def __repr__(self) -> str:
        pyramid = self.processor.image_processor.spec.describe()
        return f"VisionLanguageModel({self.model.dtype} on {self.model.device}, {pyramid})"

    def __reduce__(self) -> NoReturn:
        """Raises UsageError: transformers hangs functions on modules that can't be pickled. `copy` and `copy.deepcopy` work."""
        raise UsageError("a loaded model can't be pickled: send the name of its folder to other processes, and load() it in each")

    def __copy__(self) -> VisionLanguageModel:
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> VisionLanguageModel:
        memo[id(self)] = twin = copy.copy(self)
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin

    def ask(
        self,
        pictures: Any,
        question: str,
        *,
        system: str | None = None,
        history: History | None = None,
        pyramid: PyramidSpec | dict | None = None,
        compression: Compression = DEFAULT,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """Ask one question.

        Args:
            pictures: a path, PIL picture, array (uint8 [height, width, 3] ...), a list of them, or [] for text only.
            question: what is asked; `<image>` in it places a picture.
            system: a system message; None is the template's own, "" none at all.
            history: earlier turns, the oldest first: (question, answer) pairs, or messages with `role` and `content`, see
                `processing.turns.History`.
            pyramid: how pictures are cut in this call; None: as the model does.
            compression: which image tokens are dropped in this call; None: none; DEFAULT: as the model was loaded.
            max_new_tokens: the longest answer, in tokens. None: what the model's own settings say, or less where the prompt leaves
                no room for it.
            generation: other settings of `model.generate`.

        Returns:
            The answer: text, tokens, probabilities, timings, pyramids.

        Raises:
            PromptError: pictures and marks don't match, or the prompt is too long.
            PictureError: a picture can't be read.
            UsageError: a setting is unknown or impossible.
            ShortOfMemoryError: memory runs out.
        """
        settings: dict[str, Any] = {"system": system, "history": history, "pyramid": pyramid, "compression": compression}
        settings["max_new_tokens"] = max_new_tokens
        request, inputs = next(self._prepared([(pictures, question)], **settings, **generation))
        return request.answers(self.backend, inputs)[0]

    def stream(self, pictures: Any, question: str, **settings: Any) -> Generator[str, None, Answer]:
        """Ask one question and get the answer in pieces, as it comes.

        Args:
            pictures: as in `ask`.
            question: as in `ask`.
            settings: those of `ask`.

        Returns:
            A generator of str, which together are the text of `ask`; its return value is the Answer. Closing it stops the model.

        Raises:
            What `ask` raises, from the call, before the first piece.
        """
        request, inputs = next(self._prepared([(pictures, question)], **settings))
        return request.stream(self.backend, inputs)

    def batch(self, requests: Iterable[tuple[Any, str]], **settings: Any) -> list[Answer]:
        """Ask many questions, several at once: as many as `max_batch_tokens` has room for.

        Args:
            requests: pairs (pictures, question), as in `ask`.
            settings: those of `ask`, for each.

        Returns:
            The answers in the order of the requests: the same as one by one, up to rounding.

        Raises:
            What `ask` raises, before the first is answered, but for memory that runs out.
        """
        answers: list[Answer] = []
        for request, inputs in self._prepared(request_rows(requests), **settings):
            answers += request.answers(self.backend, inputs)
        return answers

    def open(
        self,
        pictures: Any,
        *,
        system: str | None = None,
        pyramid: PyramidSpec | dict | None = None,
        compression: Compression = DEFAULT,
    ) -> OpenPicture:
        """Open pictures for several questions: they are encoded and read by the language model now, so that a question costs its
        own tokens.

        Close it, or use it as `with vlm.open("report.png") as page: page.ask("Who signed it?")`. What it keeps counts towards
        `max_cache_bytes`.

        Args:
            pictures, system, pyramid, compression: as in `ask`, for all questions.

        Returns:
            The open pictures.

        Raises:
            UsageError: the compression asks the question, or the pictures alone need more than `max_cache_bytes`.
            PromptError, PictureError, PyramidError, ShortOfMemoryError: as `ask` does.
        """
        selection = self._compression(compression)
        if selection is not None and selection != selection.before_questions():
            raise UsageError(
                f"compression={selection.selector!r} asks the question, and a picture is opened before there is one: "
                'set its queries to "vision", pass compression=None, or use ask()'
            )
        spec = self.processor.image_processor.spec_for({"pyramid": pyramid})
        loaded = [load_picture(source) for source in _listed(pictures)]
        return OpenPicture(self.backend, self.processor, self._budget, loaded, spec, system, selection)

    @property
    def max_cache_bytes(self) -> int:
        """The most bytes that open pictures keep together, 4 GiB unless set: beyond, the one used longest ago is closed."""
        return self._budget.max_bytes

    @max_cache_bytes.setter
    def max_cache_bytes(self, limit: int) -> None:
        self._budget.max_bytes = limit
        self._budget.make_room(0)

    @property
    def cache_bytes(self) -> int:
        """What all open pictures keep now. An answer under way has a copy of one picture's besides, `ask_many` one for each
        question, as many at a time as `max_cache_bytes` has room for."""
        return self._budget.cache_bytes

    def _compression(self, given: Any) -> CompressionSpec | None:
        """What a call's `compression` comes to."""
        return self.compression if isinstance(given, Default) else compression_spec(given)

    def _prepared(
        self,
        rows: Iterable[tuple[Any, str]],
        system: str | None = None,
        history: History | None = None,
        pyramid: PyramidSpec | dict | None = None,
        compression: Compression = DEFAULT,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Iterator[tuple[GenerationRequest, dict[str, Any]]]:
        """For each group of rows that goes through the model at once, a request and what the model gets for it.

        All rows are checked before the first is prepared; of a group pixels become tiles when its turn comes.
        """
        begun = time.perf_counter()
        selection = self._compression(compression)
        spec = self.processor.image_processor.spec_for({"pyramid": pyramid})
        planned = list(self._planned(rows, spec, system, history))
        request_of = partial(GenerationRequest.of, compression=selection, max_new_tokens=max_new_tokens, begun=begun)
        groups = [
            (group, request_of(self.backend.network, self.processor, [row.prompt for row in group], generation))
            for group in _grouped(planned, self.max_batch_tokens)
        ]
        for number, (group, request) in enumerate(groups):
            if number:
                request = replace(request, begun=time.perf_counter())
            yield request, self._inputs(group, spec, selection)

    def _planned(
        self, rows: Iterable[tuple[Any, str]], spec: PyramidSpec, system: str | None, history: History | None
    ) -> Iterator[_Row]:
        """Each row with its pyramids and ids, made once."""
        kept_bytes = 0
        for sources, question in rows:
            sources = _listed(sources)
            pictures = [load_picture(source) for source in sources]
            pyramids = [spec.plan(Size(picture.height, picture.width)) for picture in pictures]
            tiles = [pyramid.tile_count for pyramid in pyramids]
            ids = self.processor.encode_chat(question, pictures=tiles, system=system, history=history)
            kept_bytes += sum(3 * picture.width * picture.height for picture in pictures)
            again = kept_bytes > KEPT_BYTES and all(isinstance(source, str | os.PathLike) for source in sources)
            yield _Row(sources, None if again else pictures, Prompt(ids, pyramids))

    def _inputs(self, rows: list[_Row], spec: PyramidSpec, selection: CompressionSpec | None) -> dict[str, Any]:
        """What the model gets for these rows."""
        network, tokenizer = self.backend.network, self.processor.tokenizer
        inputs: dict[str, Any] = dict(padded([row.prompt.ids for row in rows], tokenizer.pad_token_id, network.device))
        pyramids = [pyramid for row in rows for pyramid in row.prompt.pyramids]
        if pyramids:
            with explain_out_of_memory("preparing pictures", HINTS["ask"]):
                pictures = [picture for row in rows for picture in row.pictures or map(load_picture, row.sources)]
                inputs["pixel_values"] = self.processor.image_processor.cut(pictures, pyramids).to(network.device)
            inputs["level_tiles"] = torch.tensor([pyramid.level_tiles for pyramid in pyramids])
        if selection is not None:
            inputs |= {"compression": selection, "level_order": spec.order}
        return inputs


@dataclass(frozen=True)
class _Row:
    """One request of a batch, ready but for its tiles."""

    sources: list[Any]
    pictures: list[Image] | None
    """None: they are read again when their turn comes."""
    prompt: Prompt


def _grouped(rows: list[_Row], max_tokens: int) -> Iterator[list[_Row]]:
    """Rows in their order, in groups whose prompts have so many tokens at most, padding included; at least one a group."""
    group: list[_Row] = []
    for row in rows:
        longest = max(len(each.prompt.ids) for each in (*group, row))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _network(model: Any) -> MiniMonkeyForConditionalGeneration:
    """The network itself, also where peft has put adapters into its layers."""
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type
        raise UsageError(f"a model with {kind} can't be asked: its adapter isn't in the network's layers; use one that is, as LoRA")
    return model.get_base_model()


def compression_spec(compression: Any) -> CompressionSpec | None:
    """A compression as users give it. Raises UsageError for anything but a spec, a dict of its settings, or None."""
    if compression is None or isinstance(compression, CompressionSpec):
        return compression
    if isinstance(compression, dict):
        return CompressionSpec.from_dict(compression)
    raise UsageError(f"compression={compression!r}: expected a CompressionSpec, a dict of its settings, or None")


def _listed(pictures: Any) -> list[Any]:
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
