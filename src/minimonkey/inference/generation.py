"""One run of transformers' `generate`: with which settings, how long, what can be seen while it runs, and which answers come out.

Every way of asking goes through here. Knows no picture: what the model reads was made elsewhere.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from minimonkey.compression.spans import Selection
from minimonkey.errors import PromptError, UsageError, shown
from minimonkey.inference.answer import Answer, boxes_of, whole_characters
from minimonkey.inference.settings import call_settings, new_tokens
from minimonkey.language_model.rotary import longest_sequence
from minimonkey.memory import enough_memory
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import Pyramid

NEW_TOKENS = 512
"""The longest answer, unless the call or the model's generation_config.json says otherwise."""
ASK_LESS = "lower the pyramid's budgets, ask fewer at once, or load with a smaller dtype, quantize or a compression"
"""What needs less memory for an answer."""


class Call:
    """One run of `generate`: `plan` it, give it its inputs with `begin`, then take `answers()` or `pieces()`.

    Lists have an entry for each row of the batch.
    """

    def __init__(self, model: Any, processor: MiniMonkeyProcessor, generation: dict[str, Any]) -> None:
        """`generation` are settings of `generate`. Raises UsageError for those that `call_settings` refuses."""
        self.begun = time.perf_counter()
        self.model, self.processor = model, processor
        self.settings = call_settings(
            model.generation_config,
            processor.tokenizer,
            generation,
            vocabulary=model.config.text_config.vocab_size,
            device=model.device.type,
        )
        self.context = longest_sequence(model.config.text_config, processor.tokenizer.model_max_length)
        """The longest prompt and answer that the model was made for, in tokens."""
        self.inputs: dict[str, Any] = {}
        self.pyramids: list[list[Pyramid]] = []
        self.lengths: list[int] = []
        """Tokens of each prompt."""
        self.timings: dict[str, float] = {}
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """The first row's new tokens as they come; None once there are no more."""
        self.logprobs: list[torch.Tensor] = []
        """For each step, the log-probabilities of the new tokens: float32 [rows]."""
        self.kept: Sequence[Selection] = ()
        """What is left of the pictures of each row, where that was settled before."""
        self.cancelled = False
        self.afterwards: Callable[[torch.Tensor], None] = lambda sequences: None
        """Gets the ids of all rows, int64 [rows, length], once the model is done."""

    def plan(self, lengths: list[int], pyramids: list[list[Pyramid]], max_new_tokens: int | None) -> None:
        """Choose how long the answers may be. Raises PromptError if a prompt leaves too few tokens of the model's context."""
        max_new_tokens = new_tokens(max_new_tokens)
        self.lengths, self.pyramids = lengths, pyramids
        wanted = max_new_tokens or self.model.generation_config.max_new_tokens or NEW_TOKENS
        length, plans = max(zip(lengths, pyramids, strict=True), key=lambda row: row[0])
        if self.context - length < (max_new_tokens or 1):
            tiles = sum(plan.tile_count for plan in plans)
            cost = f"{tiles} tiles of {self.processor.image_seq_length} tokens each"
            remedies = ["lower the pyramid's budgets (pyramid)" if tiles else "shorten the question or the history"]
            remedies += ["lower max_new_tokens"] if max_new_tokens else []
            raise PromptError(
                f"the prompt has {length} tokens ({cost}) and the answer up to {wanted}, but the model was trained on "
                f"{self.context} together: {' or '.join(remedies)}"
            )
        self.settings["max_new_tokens"] = min(self.context - min(lengths), wanted)

    def begin(self, inputs: dict[str, Any]) -> None:
        """Take the model's inputs: all is prepared."""
        self.inputs = inputs
        self.timings["prepare"] = time.perf_counter() - self.begun

    @enough_memory("answering", ASK_LESS)
    def answers(self) -> list[Answer]:
        """Run the model and read what it wrote."""
        selections: list[Selection] = []
        sequences = self.model.generate(**self.inputs, **self.settings, **self._hooks(), selections=selections)
        self.timings["total"] = time.perf_counter() - self.begun
        self.afterwards(sequences)
        logprobs = torch.stack(self.logprobs, dim=1).tolist()
        answers = []
        for row, new in enumerate(sequences[:, self.inputs["input_ids"].shape[1] :].tolist()):
            new = new[: self.context - self.lengths[row]]  # a shorter prompt of the batch may leave more room
            tokens = self._until_stop(new)
            known = logprobs[row][: min(len(tokens) + 1, len(new))]
            plans = self.pyramids[row]
            answers.append(
                Answer(
                    text=self._text(tokens),
                    token_ids=tokens,
                    mean_logprob=sum(known) / len(known),
                    boxes=boxes_of(self.processor.decode(tokens), plans[0].source) if len(plans) == 1 else [],
                    prompt_tokens=self.lengths[row],
                    image_tokens=sum(plan.tile_count for plan in plans) * self.processor.image_seq_length,
                    timings=self.timings,
                    pyramids=plans,
                    kept=tuple(self.kept) or self._kept_of(row, selections),
                )
            )
        return answers

    def pieces(self) -> Generator[str, None, Answer]:
        """The first row's text as it comes; the return value is the Answer. Closing the generator stops the model."""
        added = self.processor.tokenizer.added_tokens_decoder
        unseen = {token for token in added if added[token].special}
        said: list[int] = []
        sent = ""
        with ThreadPoolExecutor(1, "minimonkey-stream") as pool:
            future = pool.submit(self.answers)
            future.add_done_callback(lambda _: self.tokens.put(None))
            try:
                while (token := self.tokens.get()) is not None:
                    said.append(token)
                    text = self._settled_text([token for token in self._until_stop(said) if token not in unseen])
                    if len(text) > len(sent):
                        yield text[len(sent) :]
                        sent = text
            finally:
                self.cancelled = True
        answer = future.result()[0]
        if answer.text != sent:
            yield answer.text[len(sent) :]
        return answer

    def _kept_of(self, row: int, selections: list[Selection]) -> tuple[Selection, ...]:
        """What is left of a row's pictures, which count from 0 again."""
        before = sum(map(len, self.pyramids[:row]))
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

    def _hooks(self) -> dict[str, Any]:
        """Arguments of `generate` that let us see each distribution and then each token, and stop between two."""
        scores, chosen = _Scores(), _Chosen()
        chosen.call, chosen.scores = self, scores
        return {"logits_processor": LogitsProcessorList([scores]), "stopping_criteria": StoppingCriteriaList([chosen])}


class _Scores(LogitsProcessor):
    """Keeps the latest distribution, changes nothing."""

    latest: torch.Tensor

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        self.latest = scores.log_softmax(-1)
        return scores


class _Chosen(StoppingCriteria):
    """Notes each new token; asks `generate` to stop if the call was cancelled."""

    call: Call
    scores: _Scores

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, -1]
        self.call.tokens.put(int(new[0]))
        self.call.timings.setdefault("first_token", time.perf_counter() - self.call.begun)
        self.call.logprobs.append(self.scores.latest.gather(1, new[:, None])[:, 0])
        return torch.full_like(new, self.call.cancelled, dtype=torch.bool)


def request_rows(requests: Any) -> list[tuple[Any, Any]]:
    """The rows of a batch, each as (pictures, question). Raises UsageError for anything but pairs."""
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable):
        raise UsageError(f"requests are {shown(requests)}: expected pairs (pictures, question)")
    rows = list(requests)
    for row in rows:
        if not (isinstance(row, tuple | list) and len(row) == 2):
            raise UsageError(f"a row of the batch is {shown(row)}: expected pairs (pictures, question)")
    return [(pictures, question) for pictures, question in rows]
