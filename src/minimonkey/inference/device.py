"""Where a model runs and in which numbers: the only place that chooses a device, a number format and a quantizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration, PretrainedConfig

from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.models.strict_loading import check_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZERS = {"int8": "torchao", "int4": "bitsandbytes"}
"""The package that keeps weights in 8 bits with a scale a row, and in 4 bits (NF4) with a scale a block, on a CPU and with CUDA."""
INT4_BLOCK = (32, 64)
"""On a CPU, bitsandbytes packs so many outputs and inputs together: layers that aren't made of whole blocks stay as they are."""


@dataclass(frozen=True)
class Placement:
    """A device (the first one, where a model is spread), a number format, and in how many bits the weights are kept."""

    device: torch.device
    dtype: torch.dtype
    device_map: str | dict | None = None
    quantize: str | None = None

    @classmethod
    def resolve(
        cls,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict | None = None,
        quantize: str | None = None,
    ) -> Placement:
        """Decide where a model runs: what is given if this machine has it, the best there is for the rest.

        Args:
            device: "cuda", "cpu", "cuda:1" ...; CUDA, else MPS, else the CPU if not given.
            dtype: "float32", "bfloat16" or "float16"; float32 on a CPU and bfloat16 elsewhere if not given.
            device_map: a model spread over devices, as in accelerate; in place of `device`.
            quantize: "int8" or "int4".

        Raises:
            UsageError: no such device, number format or quantizer, or two settings that don't go together.
            MissingExtraError: the quantizer's package isn't installed.
        """
        if device_map is not None and device is not None:
            raise UsageError(f"device={str(device)!r} and device_map={device_map!r}: give one of them")
        place = _device(device)
        if quantize is not None:
            if quantize not in QUANTIZERS:
                raise UsageError(f"quantize={quantize!r}: expected one of {', '.join(QUANTIZERS)}")
            if place.type not in ("cpu", "cuda"):
                raise UsageError(f"quantize={quantize!r} runs on a CPU or CUDA, not on {place.type}; leave it out")
            _require(QUANTIZERS[quantize], "quantize", f"quantize={quantize!r}")
        if device_map is not None or quantize is not None:
            _require("accelerate", "quantize" if quantize else "train", "quantize" if quantize else "device_map")
        return cls(place, _dtype(dtype, place), device_map, quantize)

    def from_pretrained_kwargs(self, config: PretrainedConfig) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained` for a model; weights go to their places as they are read."""
        settings: dict[str, Any] = {"dtype": self.dtype}
        if self.device_map is not None or self.quantize is not None:
            settings["device_map"] = self.device_map or {"": self.device}
        if self.quantize is not None:
            settings["quantization_config"] = self._quantization(config)
        return settings

    def _quantization(self, config: PretrainedConfig) -> Any:
        from transformers import BitsAndBytesConfig, TorchAoConfig

        if self.quantize == "int4":
            whole = ["lm_head", *(_odd_layers(config) if self.device.type == "cpu" else ())]
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype, llm_int8_skip_modules=whole
            )
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())


def _odd_layers(config: PretrainedConfig) -> list[str]:
    with torch.device("meta"):
        network = InternVLForConditionalGeneration(config)
    layers = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear))
    return [name for name, layer in layers if layer.out_features % INT4_BLOCK[0] or layer.in_features % INT4_BLOCK[1]]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return check_device(device, f"device={str(device)!r}", "leave it out for the best there is")


def _dtype(dtype: str | torch.dtype | None, place: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if place.type == "cpu" else torch.bfloat16
    number = DTYPES.get(str(dtype).removeprefix("torch."))
    if number is None:
        raise UsageError(f"dtype={str(dtype)!r}: expected one of {', '.join(DTYPES)}")
    return number


def _require(package: str, extra: str, purpose: str) -> None:
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)  # while it is imported, torchao tells of each GPU library that it doesn't find
    try:
        __import__(package)
    except ImportError as error:
        raise MissingExtraError(package, extra, purpose) from error
    finally:
        logger.setLevel(level)
