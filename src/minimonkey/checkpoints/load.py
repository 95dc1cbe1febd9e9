"""The two transformers objects of a model's folder: its processor and its network, each fitting the other."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, InternVLConfig, InternVLForConditionalGeneration

from minimonkey.checkpoints.folder import ModelFolder, first_line, read_json, weight_files
from minimonkey.checkpoints.published import STOP, chat_template
from minimonkey.checkpoints.rules import DROPPED, Rule, disk_name, to_published
from minimonkey.checkpoints.tensors import LazyTensor, opened
from minimonkey.errors import CheckpointError, PyramidError
from minimonkey.models.generation_settings import RULES, checked
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.registration import register
from minimonkey.models.strict_loading import check_fit
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec

GENERATION = "generation_config.json"


def load_network(folder: ModelFolder, config: InternVLConfig, **settings: Any) -> MiniMonkeyForConditionalGeneration:
    """Load the network of a folder of any layout.

    Of a published folder each tensor is read when its turn comes, so that no second copy of the weights is ever in memory.

    Args:
        folder: from `find_folder`.
        config: the folder's native configuration.
        settings: those of `from_pretrained`, such as dtype and device_map.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: tensors are missing, not expected or misshapen (by their names in the folder), or a setting of
            generation_config.json is wrong.
        UsageError: one of `settings` is wrong.
        ShortOfMemoryError: the weights don't fit.

    Warns:
        generation_config.json has a `max_length`, which isn't used.
    """
    generation = generation_settings(folder)  # before the weights, which take their time
    if folder.layout != "published":
        network = MiniMonkeyForConditionalGeneration.from_pretrained(folder.path, config=config, local_files_only=True, **settings)
        if (folder.path / GENERATION).is_file():
            network.generation_config = generation
    else:
        check_files(folder, config)
        config.name_or_path = str(folder.path)  # what errors call it
        with folder.tensors() as tensors:
            network = MiniMonkeyForConditionalGeneration.from_pretrained(None, config=config, state_dict=dict(tensors), **settings)
        network.name_or_path = network.config.name_or_path = config.name_or_path
        network.generation_config = generation
    if generation.max_length is not None:
        warnings.warn(
            f"{folder.path / GENERATION}: max_length={generation.max_length} isn't used, as it counts the tokens of prompts, too; "
            "max_new_tokens says how long answers may be",
            stacklevel=3,
        )
        generation.max_length = None
    return network.eval()


def generation_settings(folder: ModelFolder) -> GenerationConfig:
    """The settings of a folder's generation_config.json.

    Those of a published folder have the one token that ends an answer in its template, as in the published `chat`, which doesn't
    read the file. A padding token beyond the vocabulary becomes None. `max_length` stays as it is.

    Raises:
        CheckpointError: a wrong setting: one that transformers refuses, or that would fail once a question is asked.
    """
    file = folder.path / GENERATION
    settings = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: expected a JSON object of settings")
    vocabulary = folder.config("native").text_config.vocab_size
    if not RULES["pad_token_id"].accepts(settings.get("pad_token_id"), vocabulary):
        settings["pad_token_id"] = None
    try:
        found = GenerationConfig.from_dict(checked(settings, vocabulary, sampling=False))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: {first_line(error)}") from error
    if folder.layout != "published":
        return found
    template = folder.published.template
    if STOP[template] not in folder.tokenizer.get_vocab():
        raise CheckpointError(
            f"{folder.path / 'config.json'}: template is {template!r}, whose {STOP[template]} isn't a token of this folder"
        )
    found.eos_token_id = folder.tokenizer.convert_tokens_to_ids(STOP[template])
    found.pad_token_id = folder.tokenizer.pad_token_id
    return found


def check_files(folder: ModelFolder, config: InternVLConfig) -> None:
    """Compare the names and shapes in the weight files of a folder with what its config.json promises; no values are read.

    Raises CheckpointError for tensors that are missing, not expected, or of another shape.
    """
    try:
        with torch.device("meta"):
            network = InternVLForConditionalGeneration(config)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder.path / 'config.json'}: no network can be made of it ({first_line(error)})") from error
    rules = folder.published.rules if folder.layout == "published" else ()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    due, optional = (_shapes({disk_name(n): shapes[n] for n in names}, rules) for names in (shapes.keys() - tied, tied))
    with opened(weight_files(folder.path)) as tensors:
        found = {name: tensor.shape for name, tensor in tensors.items() if not DROPPED.fullmatch(name)}
    check_fit(
        folder.path,
        missing=due.keys() - found.keys(),
        unexpected=found.keys() - due.keys() - optional.keys(),
        misshapen=(f"{n} {list(found[n])} for {list(due[n])}" for n in due.keys() & found.keys() if found[n] != due[n]),
    )


def _shapes(native: dict[str, tuple[int, ...]], rules: Iterable[Rule]) -> dict[str, tuple[int, ...]]:
    """The published names and shapes of native ones."""
    tensors = {name: LazyTensor(shape, partial(torch.empty, shape, device="meta")) for name, shape in native.items()}
    return {name: tensor.shape for name, tensor in to_published(tensors, rules).items()}


def load_processor(folder: ModelFolder, config: InternVLConfig) -> MiniMonkeyProcessor:
    """Load the processor of a folder of any layout, and hold it against the model's configuration.

    Args:
        folder: from `find_folder`.
        config: the folder's native configuration.

    Returns:
        The processor.

    Raises:
        CheckpointError: files are missing or broken, or the tile, the tokens a tile or token ids aren't the model's.

    Warns:
        A setting of the pyramid differs from what the model was trained with.
    """
    processor = _published_processor(folder) if folder.layout == "published" else _saved_processor(folder)
    vision, spec = config.vision_config, processor.image_processor.spec
    try:
        processor.prompt("?", pictures=1)
    except (TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.path}: its chat template can't be used ({first_line(error)}); get the folder anew"
        ) from error
    if min(vision.patch_size) < 1:
        raise CheckpointError(f"{folder.path / 'config.json'}: vision_config.patch_size is {vision.patch_size}; expected 1 or more")
    patches = (vision.image_size[0] // vision.patch_size[0]) * config.downsample_ratio
    due = {
        "tile_px": (spec.tile_px, vision.image_size[0]),
        "image_seq_length": (processor.image_seq_length, int(patches) ** 2),
        "image token": (processor.image_token_id, config.image_token_id),
    }
    for name, (ours, theirs) in due.items():
        if ours != theirs:
            raise CheckpointError(
                f"{folder.path}: the processor's {name} is {ours}, the model's {theirs}; correct the processor's files"
            )
    if len(processor.tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{folder.path}: the tokenizer knows {len(processor.tokenizer)} tokens, the model {config.text_config.vocab_size}"
        )
    try:
        trained = spec if config.pyramid is None else PyramidSpec.from_dict(config.pyramid)
    except PyramidError as error:
        raise CheckpointError(f"{folder.path / 'config.json'}: {error}") from error
    for field in dataclasses.fields(PyramidSpec):
        ours, theirs = getattr(spec, field.name), getattr(trained, field.name)
        if ours != theirs:
            warnings.warn(
                f"{folder.path}: pictures are cut with {field.name}={ours}, the model was trained with {theirs}", stacklevel=3
            )
    return processor


def _saved_processor(folder: ModelFolder) -> MiniMonkeyProcessor:
    register()  # its parts are found by name
    for file in folder.path.glob("*.json"):
        read_json(file)
    try:
        return MiniMonkeyProcessor.from_pretrained(folder.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.path}: no usable processor in it ({first_line(error)}); get the folder anew") from error


def _published_processor(folder: ModelFolder) -> MiniMonkeyProcessor:
    settings = folder.published
    return MiniMonkeyProcessor(
        MiniMonkeyImageProcessor(pyramid=folder.pyramid),
        folder.tokenizer,
        chat_template=chat_template(settings.template),
        image_seq_length=settings.tokens_per_tile,
    )
