"""What a tuning recipe can say: which model, which data, which parts learn at which rate.

Stages are data: `STAGES` has what the papers' stages train, and a recipe changes what it names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minimonkey.data.packed_rows import LossReduction
from minimonkey.errors import UsageError
from minimonkey.training.objective import CHUNK_TOKENS

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on one part (Hu et al., arXiv 2106.09685), by peft."""

    rank: int = 16
    alpha: int | None = None
    """Scale is alpha / rank; None: 2 x rank, as in InternVL's scripts."""
    dropout: float = 0.05
    share_query_key_value: bool = False
    """One A matrix for query, key and value: what the published code has where they are one matrix (InternLM2's wqkv, InternViT's
    qkv)."""

    def __post_init__(self) -> None:
        _require(self, "rank", self.rank >= 1, "1 or more")
        _require(self, "alpha", self.alpha is None or self.alpha >= 1, "1 or more")
        _require(self, "dropout", 0 <= self.dropout < 1, "0 to below 1")


@dataclass(frozen=True)
class PartConfig:
    """How one part of the model is trained."""

    train: bool = True
    rate: float | None = None
    """Learning rate of this part; None: the recipe's."""
    lora: LoraConfig | None = None
    """Adapters in place of the weights, which then stay as they are."""

    def __post_init__(self) -> None:
        _require(self, "rate", self.rate is None or 0 <= self.rate <= 1, "a rate from 0 to 1")


OptimizerName = Literal["adamw", "adamw-8bit", "paged-adamw-8bit"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; the defaults are InternVL's."""

    name: OptimizerName = "adamw"
    rate: float = 4e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this 2-norm; None: never."""
    warmup_fraction: float = 0.03
    """Share of the steps in which the rate grows from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    decay_norms: bool = False
    """Also decay the weights of RMSNorm and layer scales, as the published code does without meaning to."""

    def __post_init__(self) -> None:
        _require(self, "rate", 0 <= self.rate <= 1, "a rate from 0 to 1")
        _require(self, "weight_decay", 0 <= self.weight_decay < 1, "0 to below 1")
        _require(self, "betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        _require(self, "eps", 0 < self.eps < 1, "a small number above 0")
        _require(self, "clip_norm", self.clip_norm is None or 0 < self.clip_norm < math.inf, "a number above 0")
        _require(self, "warmup_fraction", 0 <= self.warmup_fraction <= 1, "a share from 0 to 1")


@dataclass(frozen=True)
class PackingConfig:
    """Several rows in one, without padding; they can't see each other."""

    max_tokens: int = 8192
    max_tiles: int = 48

    def __post_init__(self) -> None:
        for key in ("max_tokens", "max_tiles"):
            _require(self, key, getattr(self, key) >= 1, "1 or more")


@dataclass(frozen=True)
class DataConfig:
    """Where the rows are: one file, or a mixture of several (`recipes/data/`)."""

    rows: str | None = None
    images: str | None = None
    mixture: str | None = None
    """A YAML mixture or a published meta file, in place of `rows`."""
    root: str | None = None
    """What the mixture's paths are relative to."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """Stop at a row that can't be used, or leave it out and write it to `skipped.jsonl`."""

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.mixture is None):
            raise UsageError("data: expected `rows` (one file) or `mixture` (several), one of the two")


@dataclass(frozen=True)
class EvaluationConfig:
    """Rows that aren't trained on, looked at now and then."""

    rows: str
    images: str | None = None
    every: int = 200
    """Steps."""
    limit: int = 100
    """Rows."""
    metric: Literal["loss", "exact", "anls"] = "loss"
    """What decides which checkpoint is the best: the loss, or answers read out freely and compared. The best one is kept, and the
    tuned model comes of it."""

    def __post_init__(self) -> None:
        for key in ("every", "limit"):
            _require(self, key, getattr(self, key) >= 1, "1 or more")


STAGES: dict[str, dict[str, Any]] = {
    "align": {"vision": {"train": False}, "projector": {}, "language": {"train": False}},
    "instruct": {"vision": {}, "projector": {}, "language": {}},
    "mini-monkey": {"vision": {"train": False}, "projector": {"train": False}, "language": {}},
    "adapt": {"vision": {}, "projector": {}, "language": {}},
    "lora": {
        "vision": {"train": False},
        "projector": {"train": False},
        "language": {"lora": {"rank": 16, "alpha": 32, "dropout": 0.05}},
    },
}
"""What each stage trains: alignment the projector alone, instruction and adaptation all parts (arXiv 2410.16261, section 3.2),
Mini-Monkey the language model alone (`minimonkey_finetune_full.sh`), lora adapters on it (`internvl2_*_finetune_lora.sh`)."""


@dataclass(frozen=True)
class TuningRecipe:
    """From a model and rows to a tuned model."""

    name: str
    """The run's folder below `runs/`, unless `out` names another."""
    model: str
    """Model folder or hub id to begin with."""
    data: DataConfig
    stage: Literal["align", "instruct", "mini-monkey", "adapt", "lora"] = "instruct"
    parts: dict[str, PartConfig] = field(default_factory=dict)
    """Changes to the stage: by part, `vision`, `projector` and `language`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int | None = None
    epochs: float = 1.0
    """How often the data is gone through, where `steps` doesn't say how long."""
    batch_rows: int = 1
    """Rows that one device reads at once (without `packing`)."""
    accumulate: int = 1
    """Batches whose gradients make one step, on each device."""
    packing: PackingConfig | None = None
    group_by_length: bool = True
    """Rows of similar cost share a batch (without `packing`)."""
    max_tokens: int = 8192
    """The longest row; a longer one is an error."""
    pyramid: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's pyramid, e.g. {detail: [1, 8], adaptive: [1, 4]}; the tuned model keeps them."""
    reduction: LossReduction = "token"
    logit_chunk_tokens: int = CHUNK_TOKENS
    drop_path: float = 0.0
    """Share of the vision encoder's layers that a tile skips, growing with depth (published: 0.1)."""
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that learn. Computation is in bfloat16 where the device has it, unless `mixed_precision` says no."""
    mixed_precision: Literal["no", "bf16"] = "no"
    quantize_base: Literal["int4"] | None = None
    """QLoRA: the weights under the adapters in 4 bits (bitsandbytes)."""
    merge: bool = False
    """The tuned model has the adapters in its weights, in place of a folder of adapters beside it."""
    sharding: Literal["none", "fsdp2"] = "none"
    """Of several processes: each has the whole model (DDP), or they share its weights, gradients and optimizer (FSDP2)."""
    cache_features: bool = False
    """Keep what the vision encoder makes of each picture on disk; for stages in which it doesn't learn."""
    evaluation: EvaluationConfig | None = None
    seed: int = 0
    workers: int = 1
    """Processes that read rows and pictures."""
    log_every: int = 10
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    max_minutes: float | None = None
    """A call that has trained for so long leaves a checkpoint and ends; the next call goes on."""
    out: str | None = None
    """Folder of the run and the tuned model; None: runs/NAME."""
    provenance: str = ""
    """Where the settings come from."""

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise UsageError(f"name={self.name!r}: expected the name of a folder in runs/, without slashes")
        if unknown := sorted(self.parts.keys() - set(PARTS)):
            raise UsageError(f"parts: unknown part {unknown[0]!r}; expected {', '.join(PARTS)}")
        for key in ("batch_rows", "accumulate", "log_every", "keep_checkpoints", "max_tokens", "logit_chunk_tokens"):
            _require(self, key, getattr(self, key) >= 1, "1 or more")
        for key in ("seed", "workers", "checkpoint_minutes"):
            _require(self, key, 0 <= getattr(self, key) < math.inf, "0 or more")
        _require(self, "steps", self.steps is None or self.steps >= 1, "1 or more")
        _require(self, "epochs", 0 < self.epochs < math.inf, "a number above 0")
        _require(self, "drop_path", 0 <= self.drop_path < 1, "0 to below 1")
        _require(self, "max_minutes", self.max_minutes is None or 0 < self.max_minutes < math.inf, "a number above 0")
        if not any(part.train for part in self.resolved.values()):
            raise UsageError("parts: nothing is trained; set train of vision, projector or language")
        if self.cache_features and self.resolved["vision"].train:
            raise UsageError("cache_features keeps what a frozen encoder says, but `vision` is trained: leave one of the two out")
        if self.cache_features and (self.drop_path or self.sharding != "none"):
            raise UsageError("cache_features keeps what an encoder always says, whole: leave drop_path and sharding out")
        if self.merge and not self.uses_lora:
            raise UsageError("merge puts adapters into the weights, but no part has a `lora`: leave it out")
        if self.sharding == "fsdp2" and self.evaluation is not None and self.evaluation.metric != "loss":
            raise UsageError(f"evaluation.metric={self.evaluation.metric!r}: a model that processes share can't answer; use loss")
        if self.quantize_base and not all(part.lora or not part.train for part in self.resolved.values()):
            raise UsageError("quantize_base: weights in 4 bits can't be trained; give each trained part a `lora`")

    @property
    def resolved(self) -> Mapping[str, PartConfig]:
        """How each part is trained: the stage, with the recipe's changes."""
        from minimonkey.recipe_file import build

        staged = {name: build(PartConfig, settings, f"stage {self.stage}") for name, settings in STAGES[self.stage].items()}
        return staged | self.parts

    @property
    def uses_lora(self) -> bool:
        return any(part.lora for part in self.resolved.values())


def _require(config: Any, key: str, is_right: bool, expected: str) -> None:
    if not is_right:
        raise UsageError(f"{key}={getattr(config, key)!r}: expected {expected}")
