"""What a training recipe may say: frozen dataclasses. Knows nothing of models or data; recipe.py reads them from YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minimonkey.errors import UsageError
from minimonkey.pyramid import MOST_TILES, PyramidSpec


@dataclass(frozen=True)
class Source:
    """One kind of sample in the mixture."""

    kind: str
    """What `synthetic` renders: "tile", "line", "long_line", "region", "document", or a kind of document such as "receipt"."""
    weight: float = 1.0
    """Share of the batches, relative to the other sources."""
    size_px: tuple[float, float] = (9, 40)
    """Smallest and largest print (em) in pixels of the picture."""
    uniform: bool = False
    """Whether all sizes are as frequent; otherwise all ratios of sizes are, which gives more small print."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """For kind "tile": the picture is rendered smaller or larger by a factor from this range and resized to one tile."""
    pyramid: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's pyramid, e.g. {adaptive: null} for plain tiling."""
    lines: tuple[int, int] | None = None
    """For documents: the fewest and most printed lines, about; as the kind has them if not given."""
    max_questions: int = 8
    """For documents: how many questions are asked at most, one after the other; the picture is paid for once."""
    answer_characters: int | None = None
    """For documents: of an answer that is read from the page only so many characters are learnt, and not where it ends if it is as
    long. What is hard is to find where an answer begins: a row of given length holds more of that."""
    budgets: tuple[int, int] | None = None
    """For documents: each picture gets a budget of its own from this range: the most tiles of its detail level. Questions about
    print whose x-height becomes less than 4 px there aren't asked."""
    exclude: tuple[str, ...] = ()
    """For documents: kinds of questions that aren't asked, such as [where]."""
    freeze_vision: bool = False
    """Stage "read": whether the vision encoder and the projector stay as they are while this is learnt. Two thirds of their work
    are saved, and other sources teach them."""
    max_tiles: int | None = None
    """Samples that become more tiles than this are drawn again; None keeps all."""

    def __post_init__(self) -> None:
        _require(self, "weight", 0 < self.weight < math.inf, "a positive number")
        _require(self, "size_px", 0 < self.size_px[0] <= self.size_px[1] < math.inf, "two sizes in pixels, smaller first")
        for key in ("max_questions", "max_tiles", "answer_characters"):
            _require(self, key, getattr(self, key) is None or getattr(self, key) >= 1, "at least 1")
        for key in ("lines", "budgets"):
            pair = getattr(self, key)
            _require(self, key, pair is None or 1 <= pair[0] <= pair[1], "two counts from 1 on, smaller first")
        _require(self, "budgets", self.budgets is None or self.budgets[1] <= MOST_TILES, f"at most {MOST_TILES} tiles")
        _require(self, "zoom", 0.1 <= self.zoom[0] <= self.zoom[1] <= 10, "two factors, smaller first, from 0.1 to 10")
        PyramidSpec.from_dict(self.pyramid)


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon on the hidden matrices, AdamW on everything else."""

    muon_lr: float = 0.02
    """Learning rate of the hidden matrices; 0 gives them to AdamW."""
    adamw_lr: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    """The learning rate is constant until this last part of the run, then falls linearly to 0."""
    clip_norm: float = 1.0
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    """Factors of the learning rate by the beginning of a parameter's name; 0 freezes. Such as {model.model.vision_tower: 0.3}."""

    def __post_init__(self) -> None:
        for key in ("muon_lr", "adamw_lr", "weight_decay", "warmup_steps", "clip_norm"):
            _require(self, key, 0 <= getattr(self, key) < math.inf, "0 or more")
        _require(self, "decay_fraction", 0 <= self.decay_fraction <= 1, "a fraction from 0 to 1")


@dataclass(frozen=True)
class AttentionLosses:
    """Stage "read": weights of losses that have heads of the language model attend to what helps to read; 0 leaves a loss out.

    The renderer knows where each character stands. `attention_supervision.py` draws which layer does what.
    """

    next_char: float = 0.0
    """Two heads of the middle layer attend to the image tokens that hold the next character."""
    this_char: float = 0.0
    """Two heads of the layer before attend to where the latest character was read, so that a reader goes on from there and doesn't
    leap to a similar word; and to where a word stands that the question names."""
    query_word: float = 0.0
    """For the first characters of an answer, the other heads of the middle layer attend to the words of the question that stand on
    the page, and two heads of the layer behind it, instead of the middle one, to the next character: what the question's words
    have found is known one layer too late for the middle layer."""
    line_start: float = 0.0
    """The last heads of the first layer, at some image tokens with print in them, attend to the one in which its line begins: a
    price is found by the name at the beginning of its line."""
    place: float = 0.0
    """No attention, but the same places: a linear head names tile, row and column of image tokens, of what a question's words have
    found, and of what query words name. Meant to have the model know where it has read what; its effect alone wasn't measured."""

    def __post_init__(self) -> None:
        for name in vars(self):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"attention_losses.{name}={getattr(self, name)!r}: expected 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training."""

    name: str
    """The run's folder is `runs/<name>`."""
    stage: Literal["characters", "read"]
    """"characters": each patch of the vision encoder names the characters in it. "read": the whole model writes the text."""
    mixture: tuple[Source, ...]
    steps: int
    material: Literal["package", "available", "all"] = "available"
    """What samples are made of: the typefaces and words that come with minimonkey alone, those and whatever of Debian's is
    installed, or all that Debian has, without which the run doesn't begin. A seed means the same only with the same material."""
    start: str | None = None
    """Run folder or model folder whose weights this stage begins with."""
    model: dict[str, Any] = field(default_factory=dict)
    """`MiniMonkeyConfig` fields of a new model; needed where `start` is None."""
    pyramid: dict[str, Any] = field(default_factory=dict)
    """With `start`: changes to the pyramid that the model had, e.g. {detail: [4, 24]}; it is published with them."""
    insert_layer: int | None = None
    """With `start`: the language model gets one layer more, at this place. It changes nothing until it has learnt something."""
    rope: dict[str, Any] = field(default_factory=dict)
    """With `start`: changes to the language model's `rope_parameters`, e.g. {rope_type: llama3, ...}. Meant to stop slow rotations,
    so that a head can look for something by what it is, however far; its effect alone wasn't measured."""
    position_codes: int | None = None
    """With `start`: image tokens get a code for their row in the tile, of so many cosines, and one for their column (see
    training/nano/position_codes.py). It costs some of what was learnt, for a few hundred steps."""
    match_tile_rows: float = 0.0
    """With `start`: how strongly one head that looks for the beginning of an answer prefers the row that the question's words have
    found, from the first step on (see training/nano/model_edits.py). Needs the places head of a run with
    `attention_losses.place`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    tiles_per_batch: int = 32
    """Samples are added to a batch until it has this many tiles. A batch holds one kind of sample and one size of print: its texts
    are about equally long."""
    batches_per_step: int = 1
    """Gradients are summed over this many batches."""
    characters_weight: float = 0.0
    """Stage "read": weight of the character loss beside the text loss."""
    alignment_weight: float = 0.0
    """Stage "read": weight of a loss that has each image token name, through the language model's own head, the characters it
    shows. Meant to let image tokens speak the language of text tokens; its effect alone wasn't measured."""
    attention_losses: AttentionLosses = field(default_factory=AttentionLosses)
    first_weight: float = 1.0
    """Stage "read": how much the first character of an answer counts beside each of the others, in the text and in where to look:
    to find the place that a question asks for is that one character's task."""
    end_weight: float = 1.0
    """Stage "read": how much the token counts that ends an answer: "read the line" and "read the paragraph" differ in nothing else.
    A line break counts once: counted so too, it came to be preferred at the end of a line, it seems (docs/log.md, nano-12)."""
    prefix_noise: float = 0.0
    """Stage "read": noise of teacher forcing: the share of characters that the model finds wrong, left out or repeated in what it
    has "written" so far, on average (each sample has its own rate). What it has to write next is always right: it learns to find
    its place again."""
    seed: int = 0
    workers: int = 1
    """Processes that render samples."""
    vision_attention: Literal["eager", "sdpa"] = "eager"
    """On two cores and 257 patches a tile, explicit attention trained about 1.5 times as fast as sdpa (docs/log.md); on a GPU try
    "sdpa", as the language model always has."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    """A call that has trained for so long leaves a checkpoint and ends; the next call goes on. None: to the last step."""
    keep_checkpoints: int = 2
    log_every: int = 20
    publish: str | None = None
    """Folder that gets the finished model in bfloat16, with its processor and checksum; other files there stay."""
    evaluate_every: int = 500
    """Steps between evaluations on held-out samples; 0 for none."""

    def __post_init__(self) -> None:
        if not self.mixture:
            raise UsageError("mixture is empty: name at least one kind of sample")
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise UsageError(f"name={self.name!r}: expected the name of a folder in runs/, without slashes")
        for key in ("steps", "tiles_per_batch", "batches_per_step", "log_every", "keep_checkpoints"):
            _require(self, key, getattr(self, key) >= 1, "at least 1")
        for key in (
            "seed",
            "workers",
            "evaluate_every",
            "checkpoint_minutes",
            "characters_weight",
            "alignment_weight",
            "match_tile_rows",
            "first_weight",
            "end_weight",
        ):
            _require(self, key, 0 <= getattr(self, key) < math.inf, "0 or more")
        _require(self, "max_minutes", self.max_minutes is None or 0 < self.max_minutes < math.inf, "a number above 0")
        _require(self, "prefix_noise", 0 <= self.prefix_noise <= 0.5, "a share from 0 to 0.5")
        PyramidSpec.from_dict(self.pyramid)
        for key in ("rope", "position_codes", "match_tile_rows"):
            if self.start is None and getattr(self, key):
                raise UsageError(f"{key} changes a trained model: name it in `start`, or leave {key} out")
        if self.start is None and not self.model:
            raise UsageError("a recipe needs `start` (weights to begin with) or `model` (the shape of a new model)")


def _require(config: Any, key: str, is_right: bool, expected: str) -> None:
    if not is_right:
        raise UsageError(f"{key}={getattr(config, key)!r}: expected {expected}")
