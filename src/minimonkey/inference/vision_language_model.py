"""Pictures and a question in, an answer out: load a model, ask it, stream, batch, open pictures for many questions.

What the model gets comes from the processor, what it says from `model.generate`: the same two objects that the Auto classes return.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network, load_processor
from minimonkey.compression.spec import CompressionSpec
from minimonkey.documents import load_picture
from minimonkey.errors import UsageError
from minimonkey.inference.answer import Answer
from minimonkey.inference.device import Placement
from minimonkey.inference.generation import ASK_LESS, Call, request_rows
from minimonkey.inference.open_picture import OpenPicture, Shelf
from minimonkey.inference.openvino import use_openvino
from minimonkey.memory import enough_memory
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.strict_loading import SMALLER
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec, Size

Compression = CompressionSpec | dict | Literal["as loaded"] | None
"""A compression for one call: its settings, None for none, "as loaded" for the model's own."""
logger = logging.getLogger(__name__)
EMBEDDED = Path(__file__).parents[1] / "nano"


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    pyramid: PyramidSpec | dict | None = None,
    compression: CompressionSpec | dict | None = None,
    quantize: Literal["int8", "int4"] | None = None,
    device_map: str | dict | None = None,
    engine: Literal["openvino"] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    attn_implementation: str | None = None,
) -> VisionLanguageModel:
    """A model ready to be asked.

    `model`: a folder or a hub id, in our layout, that of transformers, or as InternVL and Mini-Monkey were published; the embedded
    model if not given. `device` ("cuda", "cpu" ...) and `dtype` ("float32", "bfloat16", "float16"): the best there is if not given.
    `pyramid` and `compression`: how pictures are cut and which image tokens are dropped, unless a call says otherwise; if not
    given as the folder or its published code has it (`repr(vlm)` shows it), and none. `quantize`: weights in 8 or 4 bits. `engine`:
    OpenVINO computes the encoder and reads prompts, faster on many CPUs, for as much memory again; torch if not given. `device_map`
    (accelerate) and `attn_implementation` are those of transformers.

    Raises CheckpointError for a model that is missing, broken, of an unknown kind or at odds with its processor, PyramidError for
    tiles of another size than the model's, UsageError for settings that can't run here, MissingExtraError for a package that isn't
    installed, ShortOfMemoryError for weights that don't fit. Warns if the folder's pyramid isn't the one that the model was trained
    with.
    """
    compression = _spec(compression)
    if engine not in (None, "openvino"):
        raise UsageError(f"engine={engine!r}: expected 'openvino', or nothing for torch")
    where = Placement.choose(device, dtype, device_map, quantize)
    folder = find_folder(EMBEDDED if model is None else model, revision=revision, token=token)
    config = folder.config("native")
    processor = load_processor(folder, config)
    try:
        network = load_network(folder, config, attn_implementation=attn_implementation, **where.settings(config))
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        what = "this model" if attn_implementation is None else f"attn_implementation={attn_implementation!r}"
        raise UsageError(f"{what} can't run here ({reason})") from error
    if pyramid is not None:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": pyramid})
    if device_map is None and quantize is None:
        with enough_memory(f"moving the model to {where.device}", SMALLER):
            network = network.to(where.device)
    vlm = VisionLanguageModel(network.eval(), processor, compression)
    if engine is not None:
        use_openvino(network)
    logger.info("%s: %r", folder.name, vlm)
    return vlm


class VisionLanguageModel:
    """A model and its processor, the transformers objects `.model` and `.processor`, and four ways to ask them.

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
        self.compression = _spec(compression)
        self._shelf = Shelf()

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
        compression: Compression = "as loaded",
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """One answer.

        `history`: earlier (question, answer) pairs. `pyramid`, `compression`: for this call, in place of the model's; None is the
        model's pyramid, but no compression. `max_new_tokens`: the longest answer; if not given, what the model's own settings say,
        or less where the prompt leaves no room for it. Raises PromptError if pictures and marks don't match or the prompt is too
        long, PictureError for a picture that can't be read, UsageError for an unknown setting, ShortOfMemoryError where memory runs
        out.
        """
        settings: dict[str, Any] = {"system": system, "history": history, "pyramid": pyramid, "compression": compression}
        settings["max_new_tokens"] = max_new_tokens
        return self._call([(pictures, question)], **settings, **generation).answers()[0]

    def stream(self, pictures: Any, question: str, **settings: Any) -> Generator[str, None, Answer]:
        """The text of `ask(pictures, question, **settings)` in pieces, as it comes; closing the generator stops the model.

        The generator's return value is the Answer. What is wrong with the call is raised by the call, before the first piece.
        """
        return self._call([(pictures, question)], **settings).pieces()

    def batch(self, requests: Iterable[tuple[Any, str]], **settings: Any) -> list[Answer]:
        """The answer to each (pictures, question), all at once: the same as one by one, up to rounding. `settings` as in `ask`."""
        rows = request_rows(requests)
        return self._call(rows, **settings).answers() if rows else []

    def open(
        self,
        pictures: Any,
        *,
        system: str | None = None,
        pyramid: PyramidSpec | dict | None = None,
        compression: Compression = "as loaded",
    ) -> OpenPicture:
        """Pictures for several questions: encoded and read by the language model now, so that a question costs its own tokens.

        Close it, or use it as `with vlm.open("report.png") as page: page.ask("Who signed it?")`. What it keeps counts towards
        `max_cache_bytes`. Raises what `ask` raises about pictures and pyramids, and UsageError for a compression that asks the
        question, the model's own included, or pictures that alone need more than `max_cache_bytes`.
        """
        selection = self._compression(compression)
        if selection is not None and selection != selection.before_questions():
            raise UsageError(
                f"compression={selection.selector!r} asks the question, and a picture is opened before there is one: "
                'set its queries to "vision", pass compression=None, or use ask()'
            )
        spec = self.processor.image_processor.spec_for({"pyramid": pyramid})
        loaded = [load_picture(source) for source in _listed(pictures)]
        return OpenPicture(self.model, self.processor, self._shelf, loaded, spec, system, selection)

    @property
    def max_cache_bytes(self) -> int:
        """The most bytes that open pictures keep together, 4 GiB unless set: beyond, the one used longest ago is closed."""
        return self._shelf.max_bytes

    @max_cache_bytes.setter
    def max_cache_bytes(self, limit: int) -> None:
        self._shelf.max_bytes = limit
        self._shelf.make_room(0)

    @property
    def cache_bytes(self) -> int:
        """What all open pictures keep now. An answer under way has a copy of one picture's besides, `ask_many` one for each
        question, as many at a time as `max_cache_bytes` has room for."""
        return self._shelf.cache_bytes

    def _compression(self, given: Any) -> CompressionSpec | None:
        """What a call's `compression` comes to."""
        return self.compression if given == "as loaded" else _spec(given)

    def _call(
        self, rows, system=None, history=None, pyramid=None, compression="as loaded", max_new_tokens=None, **generation
    ) -> Call:
        """Everything that `generate` needs. The length is checked before any pixel is looked at."""
        call = Call(self.model, self.processor, generation)
        selection = self._compression(compression)
        spec = self.processor.image_processor.spec_for({"pyramid": pyramid})
        pictures = [[load_picture(source) for source in _listed(sources)] for sources, _ in rows]
        pyramids = [[spec.plan(Size(picture.height, picture.width)) for picture in row] for row in pictures]
        text, lengths = [], []
        for (_, question), plans in zip(rows, pyramids, strict=True):
            text.append(self.processor.prompt(question, pictures=len(plans), system=system, history=history))
            lengths.append(self.processor.count_tokens(text[-1], [plan.source for plan in plans], pyramid=spec))
        call.plan(lengths, pyramids, max_new_tokens)
        every = [picture for row in pictures for picture in row]
        with enough_memory("preparing pictures", ASK_LESS):
            inputs = self.processor(images=every or None, text=text, pyramid=spec, return_tensors="pt").to(self.model.device)
        if selection is not None:
            call.settings |= {"compression": selection, "level_order": spec.order}
        call.begin(dict(inputs))
        return call


def _spec(compression: Any) -> CompressionSpec | None:
    if compression is None or isinstance(compression, CompressionSpec):
        return compression
    if isinstance(compression, dict):
        return CompressionSpec.from_dict(compression)
    raise UsageError(f"compression={compression!r}: expected a CompressionSpec, a dict of its settings, or None")


def _listed(pictures: Any) -> list[Any]:
    return list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
