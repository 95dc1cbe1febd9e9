"""One generation request: which prompts, which settings, how long; then its run, what can be seen of it, which answers come out.

Every way of asking goes through here. Knows no picture: what the model reads was made elsewhere.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from minimonkey.compression.prefill import layers_before_pruning
from minimonkey.compression.spans import Selection
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import PromptError, UsageError, shown
from minimonkey.inference.answer import Answer, boxes_of, whole_characters
from minimonkey.inference.backend import TorchBackend
from minimonkey.inference.settings import call_settings, new_tokens
from minimonkey.language_model.rotary import context_length
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.models.minimonkey.modeling import check_settings_with_compression
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import Pyramid

NEW_TOKENS = 512
"""The longest answer, unless the call or the model's generation_config.json says otherwise."""


@dataclass(frozen=True)
class Prompt:
    """What a row of a batch is: its ids, padding excluded, and how its pictures are cut."""

    ids: list[int]
    pyramids: list[Pyramid]

    @property
    def tile_count(self) -> int:
        return sum(pyramid.tile_count for pyramid in self.pyramids)


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts and checked settings, made in one step by `of`; then `answers` or `stream` runs it once."""

    processor: MiniMonkeyProcessor
    prompts: list[Prompt]
    settings: dict[str, Any]
    """Arguments of `generate`."""
    context: int
    """The longest prompt and answer that the model was made for, in tokens."""
    begun: float
    """When the call came, on the clock of `time.perf_counter`."""
    timings: dict[str, float] = field(default_factory=dict)
    selections: Sequence[Selection] = ()
    """What compression keeps of the pictures of each row, where that was settled before."""
    on_finished: Callable[[torch.Tensor], None] = lambda sequences: None
    """Gets the ids of all rows, int64 [B, L], once the model is done."""

    @classmethod
    def of(
        cls,
        model: Any,
        processor: MiniMonkeyProcessor,
        prompts: list[Prompt],
        generation: dict[str, Any],
        *,
        compression: CompressionSpec | None = None,
        max_new_tokens: int | None = None,
        begun: float | None = None,
    ) -> GenerationRequest:
        """Check settings and lengths, before any pixel is looked at.

        Args:
            model: the network; its `generation_config` says what the call doesn't.
            processor: the model's.
            prompts: the rows.
            generation: settings of `generate`.
            compression: what the prompts will lose; it does nothing to prompts without a detail level.
            max_new_tokens: the longest answer. None: what the model says, or less where a prompt leaves no room for it.
            begun: when the call came; now if not given.

        Raises:
            UsageError: an unknown or impossible setting, or one that would give more than an answer.
            PromptError: a prompt leaves too few tokens of the model's context.
        """
        begun = time.perf_counter() if begun is None else begun
        settings = call_settings(
            model.generation_config,
            processor.tokenizer,
            generation,
            vocabulary=model.config.text_config.vocab_size,
            device=model.device.type,
        )
        if compression is not None and any(pyramid.detail for prompt in prompts for pyramid in prompt.pyramids):
            check_settings_with_compression(compression.selector, layers_before_pruning(compression) > 0, settings)
        max_new_tokens = new_tokens(max_new_tokens)
        context = context_length(model.config.text_config, processor.tokenizer.model_max_length)
        wanted = max_new_tokens or model.generation_config.max_new_tokens or NEW_TOKENS
        longest = max(prompts, key=lambda prompt: len(prompt.ids))
        if context - len(longest.ids) < (max_new_tokens or 1):
            tiles = longest.tile_count
            cost = f"{tiles} tiles of {processor.image_seq_length} tokens each"
            remedies = ["lower the pyramid's budgets (pyramid)" if tiles else "shorten the question or the history"]
            remedies += ["lower max_new_tokens"] if max_new_tokens else []
            raise PromptError(
                f"the prompt has {len(longest.ids)} tokens ({cost}) and the answer up to {wanted}, but the model was trained on "
                f"{context} together: {' or '.join(remedies)}"
            )
        settings["max_new_tokens"] = min(context - min(len(prompt.ids) for prompt in prompts), wanted)
        return cls(processor, prompts, settings, context, begun)

    @explain_out_of_memory("answering", HINTS["ask"])
    def answers(self, backend: TorchBackend, inputs: dict[str, Any]) -> list[Answer]:
        """Run the model to the end.

        Args:
            backend: what computes.
            inputs: what the model gets: ids and masks of the prompts, int64 [B, L], tiles or features of their pictures.

        Returns:
            One answer for each prompt.

        Raises:
            ShortOfMemoryError: memory runs out.
        """
        return self._run(backend, inputs, _Watch())

    def stream(self, backend: TorchBackend, inputs: dict[str, Any]) -> Generator[str, None, Answer]:
        """Run the model, and give the first row's text as it comes. Closing the generator stops the model.

        Args:
            backend, inputs: as for `answers`.

        Returns:
            A generator of str whose return value is the Answer.
        """
        added = self.processor.tokenizer.added_tokens_decoder
        special = {token for token in added if added[token].special}
        watch, tokens, sent = _Watch(), list[int](), ""
        with ThreadPoolExecutor(1, "minimonkey-stream") as pool:
            future = pool.submit(explain_out_of_memory("answering", HINTS["ask"])(self._run), backend, inputs, watch)
            future.add_done_callback(lambda _: watch.tokens.put(None))
            try:
                while (token := watch.tokens.get()) is not None:
                    tokens.append(token)
                    text = self._settled_text([token for token in self._until_stop(tokens) if token not in special])
                    if len(text) > len(sent):
                        yield text[len(sent) :]
                        sent = text
            finally:
                watch.cancelled = True
        answer = future.result()[0]
        if answer.text != sent:
            yield answer.text[len(sent) :]
        return answer

    def _run(self, backend: TorchBackend, inputs: dict[str, Any], watch: _Watch) -> list[Answer]:
        self.timings["prepare"] = time.perf_counter() - self.begun
        selections: list[Selection] = []
        sequences = backend.write(inputs, self.settings | watch.hooks(), selections)
        self.timings["first_token"] = watch.first_token_at - self.begun
        self.timings["total"] = time.perf_counter() - self.begun
        self.on_finished(sequences)
        logprobs = torch.stack(watch.logprobs, dim=1).tolist()
        new = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._answer(row, new[row], logprobs[row], selections) for row in range(len(new))]

    def _answer(self, row: int, new: list[int], logprobs: list[float], selections: list[Selection]) -> Answer:
        """What the new tokens of a row say."""
        prompt = self.prompts[row]
        new = new[: self.context - len(prompt.ids)]  # a shorter prompt of the batch may leave more room
        tokens = self._until_stop(new)
        known = logprobs[: min(len(tokens) + 1, len(new))]
        return Answer(
            text=self._text(tokens),
            token_ids=tokens,
            mean_logprob=sum(known) / len(known),
            boxes=boxes_of(self.processor.decode(tokens), prompt.pyramids[0].source) if len(prompt.pyramids) == 1 else [],
            prompt_tokens=len(prompt.ids),
            image_tokens=prompt.tile_count * self.processor.image_seq_length,
            timings=self.timings,
            pyramids=prompt.pyramids,
            selections=tuple(self.selections) or self._selections_of(row, selections),
        )

    def _selections_of(self, row: int, selections: list[Selection]) -> tuple[Selection, ...]:
        """What is left of a row's pictures, which count from 0 again."""
        before = sum(len(prompt.pyramids) for prompt in self.prompts[:row])
        return tuple(replace(one, picture=one.picture - before) for one in selections if one.row == row)

    def _until_stop(self, tokens: list[int]) -> list[int]:
        """The tokens before the first stop token."""
        stop = self.settings["eos_token_id"]
        stops = stop if isinstance(stop, list) else [stop]
        return list(itertools.takewhile(lambda token: token not in stops, tokens))

    def _settled_text(self, tokens: list[int]) -> str:
        """The part of the text that later tokens can't change: without the bytes of a character that may not be whole yet.

        `tokens` are without special ones, which the text leaves out: bytes before and after one are neighbours in it.
        """
        settled = whole_characters(self.processor.tokenizer.convert_ids_to_tokens(tokens))
        return self._text(tokens[:settled]).rstrip("\ufffd").rstrip()

    def _text(self, tokens: list[int]) -> str:
        return self.processor.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


class _Watch:
    """What can be seen of one run: the first row's tokens as they come, probabilities, the time of the first token."""

    def __init__(self) -> None:
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """The first row's new tokens as they come; None once there are no more."""
        self.logprobs: list[torch.Tensor] = []
        """For each step, the log-probabilities of the new tokens: float32 [B]."""
        self.first_token_at = 0.0
        self.cancelled = False

    def hooks(self) -> dict[str, Any]:
        """Arguments of `generate` that let us see each distribution and then each token, and stop between two."""
        scores = _Scores()
        return {
            "logits_processor": LogitsProcessorList([scores]),
            "stopping_criteria": StoppingCriteriaList([_Chosen(self, scores)]),
        }


class _Scores(LogitsProcessor):
    """Keeps the latest distribution, changes nothing."""

    latest: torch.Tensor

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        self.latest = scores.log_softmax(-1)
        return scores


class _Chosen(StoppingCriteria):
    """Notes each new token; asks `generate` to stop if the run was cancelled."""

    def __init__(self, watch: _Watch, scores: _Scores) -> None:
        self.watch, self.scores = watch, scores

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, -1]
        self.watch.tokens.put(int(new[0]))
        self.watch.first_token_at = self.watch.first_token_at or time.perf_counter()
        self.watch.logprobs.append(self.scores.latest.gather(1, new[:, None])[:, 0])
        return torch.full_like(new, self.watch.cancelled, dtype=torch.bool)


def request_rows(requests: Any) -> list[tuple[Any, Any]]:
    """The rows of a batch as users give it, each as (pictures, question). Raises UsageError for anything but pairs."""
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable):
        raise UsageError(f"requests are {shown(requests)}: expected pairs (pictures, question)")
    rows = list(requests)
    for row in rows:
        if not (isinstance(row, tuple | list) and len(row) == 2):
            raise UsageError(f"a row of the batch is {shown(row)}: expected pairs (pictures, question)")
    return [(pictures, question) for pictures, question in rows]


def padded(rows: list[list[int]], pad: int, device: torch.device, *, front: list[int] | None = None) -> dict[str, torch.Tensor]:
    """Rows of ids as one batch, padded on the left.

    Args:
        rows: ids of each row.
        pad: the id of padding. It is masked and has no position, wherever it stands: `generate` counts positions along the mask.
        device: of the tensors.
        front: ids that a cache holds and that all rows begin with; padding stands behind them.

    Returns:
        `input_ids` and `attention_mask`, int64 [B, L].
    """
    front, longest = front or [], max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    ids = [front + [pad] * gap + row for row, gap in zip(rows, gaps, strict=True)]
    mask = [[1] * len(front) + [0] * gap + [1] * (longest - gap) for gap in gaps]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
