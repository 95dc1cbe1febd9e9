"""A model folder in another layout: our own, or that of transformers' InternVL for engines that don't know us.

Tensors and their names are the same in both; config.json and the processor's settings differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import InternVLForConditionalGeneration

from minimonkey.checkpoints.folder import Layout, find_folder, load_processor
from minimonkey.errors import UsageError
from minimonkey.modeling import MiniMonkeyForConditionalGeneration, load_strictly
from minimonkey.processing import MiniMonkeyProcessor

MODELS: dict[Layout, type[InternVLForConditionalGeneration]] = {
    "native": MiniMonkeyForConditionalGeneration,
    "stock": InternVLForConditionalGeneration,
}


def convert(source: str | Path, destination: str | Path, *, to: Layout) -> None:
    """Write the model of a folder or hub id as a "native" or "stock" folder, with equal logits and number format.

    A stock folder has no pyramid: there a picture is cut by plain tiling with the detail level's budget. A native folder made from
    a stock one goes on cutting so. Raises CheckpointError for a broken source, UsageError for a destination that isn't empty.
    """
    if to not in MODELS:
        raise UsageError(f"to={to!r}: expected one of {', '.join(MODELS)}")
    destination = Path(destination).expanduser()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination}: exists and isn't an empty folder; name a new one")
    folder = find_folder(source)
    processor = load_processor(folder, folder.config("native"))
    settings = {"config": folder.config(to), "dtype": "auto", "local_files_only": True}
    model, _ = load_strictly(MODELS[to].from_pretrained, folder.path, **settings)
    model.save_pretrained(destination)
    if to == "native":
        processor.save_pretrained(destination)
    else:
        _save_stock_processor(processor, destination)


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
