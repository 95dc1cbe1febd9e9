"""A model folder in another layout: our own, that of transformers' InternVL for engines that don't know us, or the published one.

Weights go from file to file a shard at a time, bit for bit. A native folder made from a published one keeps the published settings
and tokenizer files in `published/`, so that it can become a published folder again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from minimonkey.checkpoints.folder import Layout, ModelFolder, find_folder, read_json
from minimonkey.checkpoints.load import check_files, generation_settings, load_processor
from minimonkey.checkpoints.published import PublishedSettings
from minimonkey.checkpoints.rules import to_published
from minimonkey.checkpoints.tensors import SHARD_BYTES, write_shards
from minimonkey.errors import CheckpointError, UsageError
from minimonkey.models.strict_loading import INDEX
from minimonkey.processing.processor import MiniMonkeyProcessor

ARCHITECTURES = {"native": "MiniMonkeyForConditionalGeneration", "stock": "InternVLForConditionalGeneration"}
KEPT = "published"
"""Where a native folder keeps the small files of the published folder that it was made from."""
_SMALL_FILES = ("*.json", "tokenizer.model", "merges.txt", "vocab.json", "README.md", "LICENSE*")


def convert(source: str | Path, destination: str | Path, *, to: Layout, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model in another layout, with equal logits and the same number format.

    A stock folder has no pyramid: there a picture is cut by plain tiling with the detail level's budget. A native folder made from
    a stock one goes on cutting so. Only what was published can become a published folder.

    Args:
        source: a folder or a hub id.
        destination: a folder that isn't there yet, or is empty.
        to: "native", "stock" or "published".
        shard_bytes: the most bytes of one weight file.

    Raises:
        CheckpointError: the source is broken, or can't be had in that layout.
        UsageError: the destination isn't empty, or there is no such layout.
    """
    if to not in get_args(Layout):
        raise UsageError(f"to={to!r}: expected one of {', '.join(get_args(Layout))}")
    destination = Path(destination).expanduser().absolute()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination}: exists and isn't an empty folder; name a new one")
    folder = find_folder(source)
    with _all_or_nothing(destination) as partial:
        if to == "published":
            _to_published(folder, partial, shard_bytes)
        else:
            _to_hf(folder, partial, to, shard_bytes)


@contextmanager
def _all_or_nothing(destination: Path) -> Iterator[Path]:
    """A folder beside the destination, not made yet, that takes its place in the end. Whatever goes wrong, nothing is left."""
    partial = destination.with_name(f"{destination.name}.partial-{os.getpid()}")
    try:
        yield partial
        if destination.exists():
            destination.rmdir()  # it is empty
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_hf(folder: ModelFolder, destination: Path, to: Literal["native", "stock"], shard_bytes: int) -> None:
    config = folder.config("native")
    processor = load_processor(folder, config)
    generation = generation_settings(folder)
    check_files(folder, config)
    destination.mkdir(parents=True, exist_ok=True)
    with folder.tensors() as tensors:
        write_shards(tensors, destination, shard_bytes=shard_bytes)
        number = next(iter(tensors.values()))[...].dtype
    config = folder.config(to)
    config.architectures, config.dtype = [ARCHITECTURES[to]], str(number).removeprefix("torch.")
    config.save_pretrained(destination)
    generation.save_pretrained(destination)
    if to == "native":
        processor.save_pretrained(destination)
    else:
        _save_stock_processor(processor, destination)
    if to == "native" and _as_published(folder).is_dir():
        _copy_small_files(_as_published(folder), destination / KEPT)


def _to_published(folder: ModelFolder, destination: Path, shard_bytes: int) -> None:
    small = _as_published(folder)
    if not (small / "config.json").is_file():
        raise CheckpointError(
            f"{folder.path}: nothing in it says how it was published; only native folders made from published ones can go back"
        )
    settings = PublishedSettings(read_json(small / "config.json"), str(small / "config.json"))
    check_files(folder, folder.config("native"))
    destination.mkdir(parents=True, exist_ok=True)
    _copy_small_files(small, destination)
    with folder.tensors() as tensors:
        write_shards(to_published(tensors, settings.rules), destination, shard_bytes=shard_bytes)


def _as_published(folder: ModelFolder) -> Path:
    """Where the small files are that a folder was published with, if there are any."""
    return folder.path if folder.layout == "published" else folder.path / KEPT


def _copy_small_files(source: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for file in {file for pattern in _SMALL_FILES for file in source.glob(pattern)}:
        if file.name != INDEX:
            shutil.copyfile(file, destination / file.name)


def _save_stock_processor(processor: MiniMonkeyProcessor, destination: Path) -> None:
    """The files of a stock InternVLProcessor. Its video processor is named too, for engines that ask for one."""
    images = processor.image_processor
    pixels: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": images.rescale_factor,
        "do_normalize": True,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "resample": int(images.resample),
        "size": {"height": images.spec.tile_px, "width": images.spec.tile_px},
        "processor_class": "InternVLProcessor",
    }
    fewest, most = images.spec.detail
    tiling = {"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True, "min_patches": fewest, "max_patches": most}
    files = {
        "preprocessor_config.json": pixels | tiling,
        "video_preprocessor_config.json": pixels | {"video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": {"image_seq_length": processor.image_seq_length, "processor_class": "InternVLProcessor"},
    }
    for name, content in files.items():
        (destination / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (destination / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
    processor.tokenizer.save_pretrained(destination)
    file = destination / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    # The stock processor asks for the name of a video token. Where there is none, one that no text holds: a new one would have no
    # row in the model's embeddings.
    settings = {"video_token": processor.tokenizer.pad_token} | settings | {"processor_class": "InternVLProcessor"}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
