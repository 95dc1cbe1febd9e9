"""How large the parts of a published TinyGPT-V are: from the shapes of tensors, from the settings of Phi-2 and BERT.

What none of them shows is a constant of the published code for the published widths, and an argument for all others.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimonkey.checkpoints.tensors import LazyTensor
from minimonkey.checkpoints.tinygptv_names import VISION_BLOCKS
from minimonkey.checkpoints.torch_files import lazy_tensors
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.pyramid import PyramidSpec

EVA_HEAD = 88
"""Channels of a head of EVA ViT-g (`create_eva_vit_g`); its file doesn't show them."""
BERT_HEAD = 64
"""Channels of a head of every BERT by its makers; for a Q-Former whose settings aren't there."""
LORA_ALPHA = 16
"""Of `minigpt4.py` and `minigpt_v2.py`, where the stage file's own settings don't say."""
SIDES = {"minigpt4": 224, "minigpt_v2": 448}
"""The published classes, of stages 1 to 3 and of stage 4, and their pictures' side in pixels."""
LAST_STAGE = 4

_PHI = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("max_position_embeddings", "initializer_range", "layer_norm_eps", "partial_rotary_factor", "rope_theta", "rope_parameters"),
    *("resid_pdrop", "embd_pdrop", "attention_dropout", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
)
_PHI_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_BERT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
_BERT_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Stage:
    """What a stage file holds, the optimizer's state excepted."""

    file: Path
    tensors: dict[str, LazyTensor]
    settings: Mapping[str, Any]
    """Those of the model that it was trained with, as far as the file says."""
    tile_px: int
    """Side of the pictures that it was trained with, in pixels."""

    @property
    def lora_rank(self) -> int:
        """Rank of its low-rank updates; 0 if it has none."""
        return next((tensor.shape[0] for name, tensor in self.tensors.items() if ".lora_A." in name and tensor.shape), 0)


@dataclass(frozen=True)
class Sources:
    """What the files of a published folder say."""

    folder: Path
    language: Mapping[str, Any]
    """Phi-2's config.json."""
    bert: Mapping[str, Any] | None
    """BERT's config.json, if there is one."""
    tower: Mapping[str, LazyTensor]
    qformer: Mapping[str, LazyTensor]
    stage: Stage
    vision_heads: int | None
    """Attention heads of the tower, if the caller says."""


def stage_of(file: Path, content: Mapping[str, Any], number: int) -> Stage:
    """A stage file's tensors and settings.

    Args:
        file: where it is.
        content: what it holds.
        number: of the stage, as its name says.

    Raises:
        CheckpointError: it isn't the file of a stage, or not of this one.
    """
    model = content.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError(
            f"{file}: holds {', '.join(list(content)[:4]) or 'nothing'}; expected a stage's tensors under 'model'"
        )
    settings = content.get("config")
    settings = settings.get("model") if isinstance(settings, Mapping) else None
    settings = settings if isinstance(settings, Mapping) else {}
    tile_px = SIDES["minigpt_v2" if number >= LAST_STAGE else "minigpt4"]
    trained = settings.get("image_size") or SIDES.get(settings.get("arch", ""), tile_px)
    if trained != tile_px:
        raise CheckpointError(
            f"{file}: its settings are of another stage (class {settings.get('arch')!r}, pictures of {trained} px) than by its "
            f"name (stage {number}, {tile_px} px): give it the name of its stage"
        )
    tensors = lazy_tensors(model, file)
    if not any(name.startswith("llama_proj") for name in tensors):
        raise CheckpointError(f"{file}: has no llama_proj, which every stage of TinyGPT-V trains; it is another model's file")
    return Stage(file, tensors, settings, tile_px)


def config_fields(sources: Sources) -> dict[str, Any]:
    """The fields of a TinyGPTVConfig, the image token's id excepted.

    Raises CheckpointError for files that don't fit together, or where something is in no file.
    """
    spec = PyramidSpec.plain(1, 1, tile_px=sources.stage.tile_px)
    return {
        "vision_config": _vision(sources),
        "qformer_config": _qformer(sources),
        "text_config": _text(sources),
        "image_seq_length": _shape(sources.qformer, "query_tokens", 3, sources)[1],
        "projector_hidden_size": _shape(sources.stage.tensors, "llama_proj.weight", 2, sources)[0],
        "pyramid": dataclasses.asdict(spec),
    }


def _vision(sources: Sources) -> dict[str, Any]:
    tower = sources.tower
    width, _, patch_px, _ = _shape(tower, "patch_embed.proj.weight", 4, sources)
    positions = _shape(tower, "pos_embed", 3, sources)[1]
    side = math.isqrt(positions - 1)
    if side * side + 1 != positions:
        raise CheckpointError(
            f"{sources.folder}: pos_embed has {positions} positions; expected a class token's and those of a square"
        )
    heads = sources.vision_heads or (width // EVA_HEAD if width % EVA_HEAD == 0 else None)
    if heads is None:
        raise CheckpointError(
            f"{sources.folder}: the vision encoder is {width} wide, and how many attention heads it has is in no file: "
            "say vision_heads=... (--vision-heads)"
        )
    if type(heads) is not int or heads < 1 or width % heads:
        raise UsageError(f"vision_heads={heads!r}: expected a whole number that divides the vision encoder's width, {width}")
    return {
        "model_type": "blip_2_vision_model",
        "hidden_size": width,
        "intermediate_size": _shape(tower, "blocks.0.mlp.fc1.weight", 2, sources)[0],
        "num_hidden_layers": min(_count(r"blocks\.(\d+)\..*", tower), VISION_BLOCKS),
        "num_attention_heads": heads,
        "image_size": side * patch_px,
        "patch_size": patch_px,
    }


def _qformer(sources: Sources) -> dict[str, Any]:
    width = _shape(sources.qformer, "query_tokens", 3, sources)[2]
    bert = sources.bert
    if bert is not None:
        fields = {name: bert[name] for name in (*_BERT, *_BERT_DROPOUT) if name in bert}
    elif width % BERT_HEAD:
        raise CheckpointError(
            f"{sources.folder}: the Q-Former is {width} wide, not BERT base's 768: put its bert-base-uncased/config.json there"
        )
    else:
        feed_forward = "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"
        fields = {
            "hidden_size": width,
            "num_attention_heads": width // BERT_HEAD,
            "num_hidden_layers": _count(r"Qformer\.bert\.encoder\.layer\.(\d+)\..*", sources.qformer),
            "intermediate_size": _shape(sources.qformer, feed_forward, 2, sources)[0],
        }
    return fields | {"cross_attention_frequency": 2, "use_qformer_text_input": False}


def _text(sources: Sources) -> dict[str, Any]:
    settings, stage = sources.language, sources.stage
    for name in _PHI_REQUIRED:
        if type(settings.get(name)) is not int or settings[name] < 1:
            raise CheckpointError(
                f"{sources.folder}: {name} of Phi-2's config.json is {settings.get(name)!r}; expected a whole number, 1 or more"
            )
    if settings["hidden_size"] % settings["num_attention_heads"]:
        raise CheckpointError(f"{sources.folder}: Phi-2's hidden_size is no multiple of its num_attention_heads")
    if settings.get("rope_scaling") is not None:
        raise CheckpointError(
            f"{sources.folder}: rope_scaling of Phi-2's config.json is {settings['rope_scaling']!r}; expected none"
        )
    rank = stage.lora_rank
    if stage.settings.get("lora_r") not in (None, rank):
        raise CheckpointError(
            f"{stage.file}: lora_r is {stage.settings['lora_r']!r}, but its updates have rank {rank}; get the file anew"
        )
    alpha = stage.settings.get("lora_alpha", LORA_ALPHA)
    if type(alpha) is not int or alpha < 1:
        raise CheckpointError(f"{stage.file}: lora_alpha is {alpha!r}; expected a whole number, 1 or more")
    fields = {name: settings[name] for name in _PHI if name in settings}
    return fields | {"lora_rank": rank, "lora_alpha": alpha}


def _shape(tensors: Mapping[str, LazyTensor], name: str, dimensions: int, sources: Sources) -> tuple[int, ...]:
    shape = tensors[name].shape if name in tensors else None
    if shape is None or len(shape) != dimensions:
        found = "missing" if shape is None else f"of shape {list(shape)}"
        raise CheckpointError(f"{sources.folder}: {name} is {found}; expected {dimensions} dimensions")
    return shape


def _count(pattern: str, tensors: Mapping[str, LazyTensor]) -> int:
    """How many layers a file has: one more than the highest number in its names."""
    numbers = (re.fullmatch(pattern, name) for name in tensors)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)
