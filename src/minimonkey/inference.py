"""Pictures and a question in, an answer out: load a model, ask it, stream, batch.

What the model gets comes from the processor, what it says from `model.generate`: the same two objects that the Auto classes return.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from minimonkey.answer import Answer, Call, boxes_of, whole_characters
from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network, load_processor
from minimonkey.compression import CompressionSpec
from minimonkey.documents import load_picture
from minimonkey.errors import PromptError, UsageError
from minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.placement import Placement
from minimonkey.processing import MiniMonkeyProcessor
from minimonkey.pyramid import Pyramid, PyramidSpec, Size
from minimonkey.rotary import longest_sequence

logger = logging.getLogger(__name__)
EMBEDDED = Path(__file__).parent / "nano"
NEW_TOKENS = 512
"""The longest answer, unless the call or the model's generation_config.json says otherwise."""
ONE_ANSWER = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
"""Settings of `generate` that would give something else than one answer, token by token."""


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    pyramid: PyramidSpec | dict | None = None,
    compression: CompressionSpec | dict | None = None,
    quantize: Literal["int8", "int4"] | None = None,
    device_map: str | dict | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    attn_implementation: str | None = None,
) -> VisionLanguageModel:
    """A model ready to be asked.

    `model`: a folder or a hub id, in our layout, that of transformers, or as InternVL and Mini-Monkey were published; the embedded
    model if not given. `device` ("cuda", "cpu" ...) and `dtype` ("float32", "bfloat16", "float16"): the best there is if not given.
    `pyramid` and `compression`: how pictures are cut and which image tokens are dropped, unless a call says otherwise; if not given
    as the folder or its published code has it (`repr(vlm)` shows it), and none. `quantize`: weights in 8 or 4 bits. `device_map`
    (accelerate) and `attn_implementation` are those of transformers.

    Raises CheckpointError for a model that is missing, broken, of an unknown kind or at odds with its processor, PyramidError for
    tiles of another size than the model's, UsageError for settings that can't run here, MissingExtraError for a package that isn't
    installed. Warns if the folder's pyramid isn't the one that the model was trained with.
    """
    where = Placement.choose(device, dtype, device_map, quantize)
    folder = find_folder(EMBEDDED if model is None else model, revision=revision, token=token)
    config = folder.config("native")
    processor = load_processor(folder, config)
    try:
        network = load_network(folder, config, attn_implementation=attn_implementation, **where.settings(config))
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"attn_implementation={attn_implementation!r} can't run here ({reason}); leave it out") from error
    if pyramid is not None:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": pyramid})
    if device_map is None and quantize is None:
        network = network.to(where.device)
    vlm = VisionLanguageModel(network.eval(), processor, compression)
    logger.info("%s: %r", folder.name, vlm)
    return vlm


class VisionLanguageModel:
    """A model and its processor, the transformers objects `.model` and `.processor`, and three ways to ask them.

    `pictures` is a path, PIL picture or array, a list of them, or [] for text only. They fill the `<image>` marks of the history
    first, then those of the question; where it has none, each picture that is left gets one before it. Greedy unless
    `do_sample=True` is given; it and other `generation` settings are those of `model.generate`.
    """

    def __init__(
        self,
        model: MiniMonkeyForConditionalGeneration,
        processor: MiniMonkeyProcessor,
        compression: CompressionSpec | dict | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.compression = _selection(compression)

    def __repr__(self) -> str:
        pyramid = self.processor.image_processor.spec.describe()
        return f"VisionLanguageModel({self.model.dtype} on {self.model.device}, {pyramid})"

    def ask(
        self,
        pictures: Any,
        question: str,
        *,
        system: str | None = None,
        history: Sequence[tuple[str, str]] | None = None,
        pyramid: PyramidSpec | dict | None = None,
        compression: CompressionSpec | dict | None = None,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """One answer.

        `history`: earlier (question, answer) pairs. `pyramid`, `compression`: for this call, not the model's. `max_new_tokens`: the
        longest answer; if not given, what the model's own settings say, or less where the prompt leaves no room for it. Raises
        PromptError if pictures and marks don't match or the prompt is too long, PictureError for a picture that can't be read,
        UsageError for an unknown setting.
        """
        settings: dict[str, Any] = {"system": system, "history": history, "pyramid": pyramid, "compression": compression}
        settings["max_new_tokens"] = max_new_tokens
        return self._answers(self._call([(pictures, question)], **settings, **generation))[0]

    def stream(self, pictures: Any, question: str, **settings: Any) -> Generator[str, None, Answer]:
        """The text of `ask(pictures, question, **settings)` in pieces, as it comes; closing the generator stops the model.

        The generator's return value is the Answer. What is wrong with the call is raised by the call, before the first piece.
        """
        return self._pieces(self._call([(pictures, question)], **settings))

    def batch(self, requests: Iterable[tuple[Any, str]], **settings: Any) -> list[Answer]:
        """The answer to each (pictures, question), all at once: the same as one by one, up to rounding. `settings` as in `ask`."""
        rows = list(requests)
        return self._answers(self._call(rows, **settings)) if rows else []

    def _call(self, rows, system=None, history=None, pyramid=None, compression=None, max_new_tokens=None, **generation) -> Call:
        """Everything that `generate` needs. The length is checked before any pixel is looked at."""
        begun = time.perf_counter()
        settings = self._settings(generation)
        spec = self.processor.image_processor.spec_for({"pyramid": pyramid})
        pictures = [[load_picture(source) for source in _listed(sources)] for sources, _ in rows]
        pyramids = [[spec.plan(Size(picture.height, picture.width)) for picture in row] for row in pictures]
        text, lengths = [], []
        for (_, question), plans in zip(rows, pyramids, strict=True):
            text.append(self.processor.prompt(question, pictures=len(plans), system=system, history=history))
            lengths.append(self.processor.count_tokens(text[-1], [plan.source for plan in plans], pyramid=spec))
        settings["max_new_tokens"] = self._room(lengths, pyramids, max_new_tokens)
        every = [picture for row in pictures for picture in row]
        inputs = self.processor(images=every or None, text=text, pyramid=spec, return_tensors="pt").to(self.model.device)
        if (selection := _selection(compression) or self.compression) is not None:
            settings["compression"] = selection
        return Call(dict(inputs), settings, pyramids, lengths, begun)

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """The settings of `generate`. Raises UsageError for one that is unknown or would give more than an answer."""
        for name, value in given.items():
            if name not in vars(GenerationConfig()):
                raise UsageError(f"{name}={value!r}: a setting neither of ask() nor of transformers' GenerationConfig")
            if value != ONE_ANSWER.get(name, value):
                raise UsageError(f"{name}={value!r}: ask() gives one answer, token by token; use vlm.model.generate for others")
        own, tokenizer = self.model.generation_config, self.processor.tokenizer
        stop = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
        pad = tokenizer.pad_token_id if own.pad_token_id is None else own.pad_token_id
        return {"do_sample": False, "eos_token_id": stop, "pad_token_id": pad, "tokenizer": tokenizer} | ONE_ANSWER | given

    def _room(self, lengths: list[int], pyramids: list[list[Pyramid]], max_new_tokens: int | None) -> int:
        """The most tokens that an answer may have. Raises PromptError if a prompt leaves too few of the model's context."""
        if max_new_tokens is not None and not (isinstance(max_new_tokens, int) and max_new_tokens >= 1):
            raise UsageError(f"max_new_tokens={max_new_tokens!r}: expected a whole number, 1 or more")
        wanted = max_new_tokens or self.model.generation_config.max_new_tokens or NEW_TOKENS
        length, plans = max(zip(lengths, pyramids, strict=True), key=lambda row: row[0])
        if self._context - length < (max_new_tokens or 1):
            tiles = sum(plan.tile_count for plan in plans)
            cost = f"{tiles} tiles of {self.processor.image_seq_length} tokens each"
            remedies = ["lower the pyramid's budgets (pyramid)" if tiles else "shorten the question or the history"]
            remedies += ["lower max_new_tokens"] if max_new_tokens else []
            raise PromptError(
                f"the prompt has {length} tokens ({cost}) and the answer up to {wanted}, but the model was trained on "
                f"{self._context} together: {' or '.join(remedies)}"
            )
        return min(self._context - min(lengths), wanted)

    @property
    def _context(self) -> int:
        """The longest prompt and answer that the model was made for, in tokens."""
        return longest_sequence(self.model.config.text_config, self.processor.tokenizer.model_max_length)

    def _answers(self, call: Call) -> list[Answer]:
        """Run the model and read what it wrote."""
        sequences = self.model.generate(**call.inputs, **call.settings, **call.hooks())
        timings = call.timings | {"total": time.perf_counter() - call.begun}
        logprobs = torch.stack(call.logprobs, dim=1).tolist()
        answers = []
        for row, new in enumerate(sequences[:, call.inputs["input_ids"].shape[1] :].tolist()):
            new = new[: self._context - call.lengths[row]]  # a shorter prompt of the batch may leave more room
            tokens = call.until_stop(new)
            known = logprobs[row][: min(len(tokens) + 1, len(new))]
            plans = call.pyramids[row]
            answers.append(
                Answer(
                    text=self._text(tokens),
                    token_ids=tokens,
                    mean_logprob=sum(known) / len(known),
                    boxes=boxes_of(self.processor.decode(tokens), plans[0].source) if plans else [],
                    prompt_tokens=call.lengths[row],
                    image_tokens=sum(plan.tile_count for plan in plans) * self.processor.image_seq_length,
                    timings=timings,
                    pyramids=plans,
                )
            )
        return answers

    def _pieces(self, call: Call) -> Generator[str, None, Answer]:
        said: list[int] = []
        sent = ""
        with ThreadPoolExecutor(1, "minimonkey-stream") as pool:
            future = pool.submit(self._answers, call)
            future.add_done_callback(lambda _: call.tokens.put(None))
            try:
                while (token := call.tokens.get()) is not None:
                    said.append(token)
                    text = self._settled_text(call.until_stop(said))
                    if len(text) > len(sent):
                        yield text[len(sent) :]
                        sent = text
            finally:
                call.cancelled = True
        answer = future.result()[0]
        if answer.text != sent:
            yield answer.text[len(sent) :]
        return answer

    def _settled_text(self, tokens: list[int]) -> str:
        """The part of the text that later tokens can't change: without the bytes of a character that may not be whole yet."""
        settled = whole_characters(self.processor.tokenizer.convert_ids_to_tokens(tokens))
        return self._text(tokens[:settled]).rstrip("\ufffd").rstrip()

    def _text(self, tokens: list[int]) -> str:
        return self.processor.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def _selection(compression: CompressionSpec | dict | None) -> CompressionSpec | None:
    return CompressionSpec.from_dict(compression) if isinstance(compression, dict) else compression


def _listed(pictures: Any) -> list[Any]:
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
