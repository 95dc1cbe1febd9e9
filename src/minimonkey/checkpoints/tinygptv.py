"""TinyGPT-V as it was published: a stage file, and three other people's files that it changes.

    folder/TinyGPT-V_for_Stage4.pth             what was trained (Stage1 to Stage3: with pictures of 224 px)
           phi-2/                               Phi-2 by Microsoft: config.json, safetensors, tokenizer
           eva_vit_g.pth                        the vision encoder
           blip2_pretrained_flant5xxl.pth       the Q-Former
           bert-base-uncased/config.json        its settings; without it, those of BERT base

They are read in the published order, so that later files override earlier ones: Phi-2, encoder, Q-Former, stage. Nowhere is a
config.json of the whole: `tinygptv_settings.py` finds the network's sizes in these files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from minimonkey.checkpoints.family import PublishedFolder
from minimonkey.checkpoints.files import check_weights, first_line, read_json, weight_files
from minimonkey.checkpoints.rules import Rule, disk_name
from minimonkey.checkpoints.tensors import LazyTensor, opened
from minimonkey.checkpoints.tinygptv_names import LANGUAGE, QFORMER, STAGE, VISION, Named, native_tensors
from minimonkey.checkpoints.tinygptv_settings import Sources, Stage, config_fields, stage_of
from minimonkey.checkpoints.torch_files import lazy_tensors, read_torch_file
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models.strict_loading import check_fit
from minimonkey.processing.tinygptv import END, IMAGE_TOKEN, TinyGPTVImageProcessor, TinyGPTVProcessor
from minimonkey.pyramid import PyramidSpec

HUB_ID = "tyrannosaurus/tinygpt-v"
"""Where the stage files are published, and nothing else."""
STAGE_FILE = re.compile(r"TinyGPT-?V.*Stage\s?(\d).*\.pth", re.IGNORECASE)
"""Names of stage files; the number of the stage."""
TOWER_FILE, QFORMER_FILE = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"
BERT_FOLDER = "bert-base-uncased"
SOURCES = {
    "phi-2/": "microsoft/phi-2 on the hub: config.json, safetensors and tokenizer",
    TOWER_FILE: "storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
    QFORMER_FILE: "storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/blip2_pretrained_flant5xxl.pth",
}
"""What stands beside a stage file, and where it comes from."""
NORMS = re.compile(r"model\.language_model\.layers\.\d+\.self_attn\.(post_layernorm|[qk]_layernorm)\.(weight|bias)")
"""What TinyGPT-V adds to Phi-2: nobody's file has it before the first stage, where weights are 1 and biases 0."""


class TinyGPTVFolder(PublishedFolder):
    """What `MiniGPTv2` and `MiniGPT4` of the published code load."""

    layout_name = "TinyGPT-V's stage files"
    arguments = ("vision_heads", "stage_file")
    kept_files: ClassVar[tuple[str, ...]] = ()  # a native folder needs none of them, and doesn't become a published one again

    @classmethod
    def matches(cls, path: Path, settings: Mapping[str, Any] | None) -> bool:
        return "model_type" not in (settings or {}) and any(map(STAGE_FILE.fullmatch, _names(path)))

    @classmethod
    def named_by(cls, file: Path) -> dict[str, Any] | None:
        return {"stage_file": file.name} if STAGE_FILE.fullmatch(file.name) else None

    @classmethod
    def lacks(cls, hub_id: str) -> str | None:
        sources = ", ".join(f"{source} (from {origin})" for source, origin in SOURCES.items())
        advice = f"has stage files alone; put one of them into a folder with {sources}, and give that folder"
        return advice if hub_id.lower() == HUB_ID else None

    # -- which files ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def stage_file(self) -> Path:
        """The one that was asked for, else that of the latest stage."""
        asked = self.settings.get("stage_file")
        return self.path / (asked or max(filter(STAGE_FILE.fullmatch, _names(self.path)), key=_stage_number))

    @cached_property
    def language_folder(self) -> Path:
        """The folder of Phi-2, whatever it is called."""
        known = [folder for folder in sorted(self.path.iterdir()) if _is_phi(folder)]
        if len(known) > 1:
            self._refuse(f"{known[0].name} and {known[1].name} are both folders of Phi-2: leave one of them")
        return known[0] if known else self.path / "phi-2"

    def _refuse(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {reason}")

    def check_settings(self) -> None:
        """Raises CheckpointError where one of the other sources isn't there, and says where it comes from."""
        files = {name: (self.path / name).is_file() for name in (TOWER_FILE, QFORMER_FILE)}
        there = {"phi-2/": _is_phi(self.language_folder), **files}
        lacking = [f"{name} (from {SOURCES[name]})" for name, is_there in there.items() if not is_there]
        if lacking:
            self._refuse(f"{self.stage_file.name} holds what was trained alone; put beside it {', '.join(lacking)}")

    def check_weights(self) -> None:
        self.check_settings()
        check_weights(self.language_folder)
        _ = self._sources

    # -- what is in them -----------------------------------------------------------------------------------------------------------

    @cached_property
    def stage(self) -> Stage:
        """What the stage file says of itself."""
        return stage_of(self.stage_file, read_torch_file(self.stage_file), int(_stage_number(self.stage_file.name)))

    @cached_property
    def _sources(self) -> Sources:
        """The tensors of the three files of torch, and the settings of the two folders."""
        bert = self.path / BERT_FOLDER / "config.json"
        qformer = read_torch_file(self.path / QFORMER_FILE)
        return Sources(
            folder=self.path,
            language=_settings_of(self.language_folder / "config.json"),
            bert=_settings_of(bert) if bert.is_file() else None,
            tower=lazy_tensors(read_torch_file(self.path / TOWER_FILE), self.path / TOWER_FILE),
            qformer=lazy_tensors(qformer.get("model", qformer), self.path / QFORMER_FILE),
            stage=self.stage,
            vision_heads=self.settings.get("vision_heads"),
        )

    def config_fields(self) -> dict[str, Any]:
        return config_fields(self._sources) | {"image_token_id": self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)}

    def stock_fields(self) -> dict[str, Any]:
        raise UsageError(f"{self.name}: transformers has no class that computes TinyGPT-V; convert it to native")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Phi-2's own, with one token more, for pictures, and a padding token."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.language_folder, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.language_folder}: no usable tokenizer in it ({first_line(error)})") from error
        return TinyGPTVProcessor.prepared(tokenizer)

    def processor(self) -> TinyGPTVProcessor:
        fields = self.config_fields()
        images = TinyGPTVImageProcessor(pyramid=PyramidSpec.from_dict(fields["pyramid"]))
        return TinyGPTVProcessor(images, self.tokenizer, image_seq_length=fields["image_seq_length"])

    def finish_generation(self, settings: GenerationConfig) -> None:
        """An answer ends with "###", behind a space too, or with Phi-2's end of text."""
        ends = [self.tokenizer(text, add_special_tokens=False).input_ids for text in (END, f" {END}")]
        settings.eos_token_id = [self.tokenizer.eos_token_id, *(ids[0] for ids in ends if len(ids) == 1)]
        settings.pad_token_id = self.tokenizer.pad_token_id

    @property
    def rules(self) -> Sequence[Rule]:
        raise UsageError(f"{self.name}: TinyGPT-V isn't written in its published layout; convert it to native")

    # -- weights -------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _named(self) -> Iterator[dict[str, Named]]:
        """All tensors by their native names, those of later files in place of earlier ones. Raises CheckpointError for one that no
        rule knows."""
        sources, heads = self._sources, self._sources.language.get("num_attention_heads") or 0
        with opened(weight_files(self.language_folder)) as language:
            parts = (
                (self.language_folder, native_tensors(language, LANGUAGE, heads=heads)),
                (self.path / TOWER_FILE, native_tensors(sources.tower, VISION)),
                (self.path / QFORMER_FILE, native_tensors(sources.qformer, QFORMER)),
                (self.stage_file, native_tensors(self.stage.tensors, STAGE)),
            )
            named: dict[str, Named] = {}
            for source, (tensors, unknown) in parts:
                check_fit(source, missing=(), unexpected=unknown, misshapen=())
                named |= tensors
            yield named

    @contextmanager
    def tensors(self) -> Iterator[dict[str, LazyTensor]]:
        with self._named() as named:
            there = {name: one.tensor for name, one in named.items()}
            yield {disk_name(name): tensor for name, tensor in (there | _untrained_norms(there, self._sources)).items()}

    def check_tensors(self, native: Mapping[str, tuple[int, ...]], tied: Iterable[str] = ()) -> None:
        optional = {*tied, *filter(NORMS.fullmatch, native)}
        with self._named() as named:
            check_fit(
                self.path,
                missing=native.keys() - named.keys() - optional,
                unexpected=(named[name].published for name in named.keys() - native.keys()),
                misshapen=(
                    f"{one.published} {list(one.tensor.shape)} for {list(native[name])}"
                    for name, one in named.items()
                    if name in native and one.tensor.shape != native[name]
                ),
            )


def _names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.is_file()) if path.is_dir() else []


def _stage_number(name: str) -> int:
    match = STAGE_FILE.fullmatch(name)
    return int(match[1]) if match else 0


def _is_phi(folder: Path) -> bool:
    return (folder / "config.json").is_file() and _settings_of(folder / "config.json").get("model_type") == "phi"


def _settings_of(file: Path) -> dict[str, Any]:
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: expected a JSON object of settings")
    return settings


def _untrained_norms(there: Mapping[str, LazyTensor], sources: Sources) -> dict[str, LazyTensor]:
    """The norms beside Phi-2's own that no file has: weights are 1, biases 0."""
    width, heads = sources.language["hidden_size"], sources.language["num_attention_heads"]
    of_head = (width // heads, ("weight", "bias"))
    sizes = {"post_layernorm": (width, ("weight",)), "q_layernorm": of_head, "k_layernorm": of_head}
    norms = {}
    for layer in range(sources.language["num_hidden_layers"]):
        for norm, (channels, kinds) in sizes.items():
            for kind in kinds:
                name = f"model.language_model.layers.{layer}.self_attn.{norm}.{kind}"
                if name not in there:
                    fill = torch.ones if kind == "weight" else torch.zeros
                    norms[name] = LazyTensor((channels,), lambda fill=fill, channels=channels: fill(channels))  # type: ignore[misc]
    return norms
