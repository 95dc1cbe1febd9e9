"""From the name of a model to one that can be asked: the only place that chooses device, number format, quantizer and backend."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from minimonkey.checkpoints.folder import find_folder
from minimonkey.checkpoints.load import load_network, load_processor
from minimonkey.compression.spec import CompressionSpec
from minimonkey.errors import UsageError
from minimonkey.inference.adapters import AdapterBase, with_adapter
from minimonkey.inference.device import Placement
from minimonkey.inference.openvino import OpenVINOBackend
from minimonkey.inference.vision_language_model import VisionLanguageModel, compression_spec
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.models.strict_loading import check_settings
from minimonkey.pyramid import PyramidSpec

EMBEDDED = Path(__file__).parents[1] / "nano"
logger = logging.getLogger(__name__)


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    pyramid: PyramidSpec | dict | None = None,
    compression: CompressionSpec | dict | None = None,
    quantize: Literal["int8", "int4"] | None = None,
    device_map: str | dict | None = None,
    adapter: str | Path | None = None,
    engine: Literal["openvino"] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    attn_implementation: str | None = None,
    vision_heads: int | None = None,
) -> VisionLanguageModel:
    """Load a model and make it ready to be asked.

    Args:
        model: a folder or a hub id, in our layout, that of transformers, or as InternVL and Mini-Monkey were published. None: the
            embedded model, or the one that `adapter` was trained on.
        device: "cuda", "cpu" ...; the best there is if not given.
        dtype: "float32", "bfloat16" or "float16"; float32 on a CPU and bfloat16 elsewhere if not given.
        pyramid: how pictures are cut unless a call says otherwise. None: as the folder or its published code has it.
        compression: which image tokens are dropped unless a call says otherwise. None: none.
        quantize: weights in 8 bits (torchao) or 4 bits (bitsandbytes).
        device_map: a model spread over devices, as in accelerate; in place of `device`.
        adapter: a folder of LoRA adapters, as training and peft write them, for the model.
        engine: "openvino" computes the encoder and reads prompts, faster on many CPUs, for as much memory again. None: torch.
        revision: branch, tag or commit of a hub id.
        token: of the hub, for models that ask for one.
        attn_implementation: that of transformers.
        vision_heads: attention heads of the vision encoder, where no file of a published folder says it (TinyGPT-V of other sizes).

    Returns:
        The model and its processor; `repr` shows device, number format and pyramid.

    Raises:
        CheckpointError: the model is missing, broken, of an unknown kind, or at odds with its processor.
        PyramidError: tiles of another size than the model's.
        UsageError: settings that can't run here.
        MissingExtraError: a package isn't installed.
        ShortOfMemoryError: weights don't fit.

    Warns:
        The folder's pyramid isn't the one that the model was trained with.
    """
    compression = compression_spec(compression)
    if engine not in (None, "openvino"):
        raise UsageError(f"engine={engine!r}: expected 'openvino', or nothing for torch")
    where = Placement.resolve(device, dtype, device_map, quantize)
    check_settings(attn_implementation=attn_implementation, device_map=device_map)  # now, not after a download
    base = None if adapter is None else AdapterBase.read(Path(adapter))
    if model is None:
        model = EMBEDDED if base is None else base.model
    folder = find_folder(model, revision=revision, token=token, vision_heads=vision_heads)
    config = folder.config("native")
    processor = load_processor(folder, config)
    try:
        network = load_network(folder, config, attn_implementation=attn_implementation, **where.from_pretrained_kwargs(config))
    except ImportError as error:
        reason = " ".join(str(error).split())[:160]
        what = "this model" if attn_implementation is None else f"attn_implementation={attn_implementation!r}"
        raise UsageError(f"{what} can't run here ({reason})") from error
    if adapter is not None:
        network = with_adapter(network, Path(adapter), base)
        pyramid = base.pyramid if pyramid is None and base is not None else pyramid
    if pyramid is not None:
        processor.image_processor.spec = processor.image_processor.spec_for({"pyramid": pyramid})
    if device_map is None and quantize is None:
        with explain_out_of_memory(f"moving the model to {where.device}", HINTS["load"]):
            network = network.to(where.device)
    backend = None if engine is None else OpenVINOBackend(network.eval())
    vlm = VisionLanguageModel(network.eval(), processor, compression, backend)
    logger.info("%s: %r", folder.name, vlm)
    return vlm
