"""Loading that refuses a tensor too few, too many or of a wrong shape, and the key names of our classes on disk.

Knows `from_pretrained` of transformers and no model: any folder that can be loaded with it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AttentionInterface
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.utils import logging as progress

from minimonkey.errors import CheckpointError, MiniMonkeyError, UsageError
from minimonkey.memory import HINTS, explain_out_of_memory

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Weights in one file, or what says in which files they are."""
FROM_SETTINGS = (OSError, ValueError, TypeError, KeyError, RuntimeError, AssertionError, ZeroDivisionError, StrictDataclassError)
"""What transformers and torch raise when they build a network by settings that make no sense."""
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate to spread a model over the devices that there are."""


def load_strictly(from_pretrained, source, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Call a `from_pretrained` of transformers, with safetensors only and without remote code.

    Args:
        from_pretrained: the bound method of transformers.
        source: a folder or hub id; None for weights that are given as `state_dict`.
        *args: as in transformers.
        **kwargs: as in transformers.

    Returns:
        The model and its loading info.

    Raises:
        UsageError: one of the settings in `kwargs` is wrong; the message names it.
        CheckpointError: the message names every tensor that is missing, not expected, or of another shape than the configuration
            says (transformers would go on with random values), or says why no model can be made of the folder.
        ShortOfMemoryError: the weights don't fit into memory.
    """
    check_settings(**{name: kwargs.get(name) for name in ("attn_implementation", "device_map")})
    if source is not None and kwargs.get("variant") is None:
        check_one_set(Path(source, kwargs.get("subfolder") or ""))
    name = source if source is not None else getattr(kwargs.get("config"), "name_or_path", None) or "the weights given"
    forced = {"output_loading_info": True, "use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    with _quietly(source), _explained(name, kwargs), explain_out_of_memory(f"loading {name}", HINTS["load"]):
        model, info = from_pretrained(source, *args, **(kwargs | forced))
    misshapen = (f"{tensor} {list(found)} for {list(due)}" for tensor, found, due in info["mismatched_keys"])
    check_fit(name, missing=info["missing_keys"], unexpected=info["unexpected_keys"], misshapen=misshapen)
    if info["error_msgs"]:
        raise CheckpointError(f"{name}: no model can be made of it ({'; '.join(info['error_msgs'])[:300]})")
    return model, info


@contextmanager
def _explained(name, settings: dict[str, Any]) -> Iterator[None]:
    """What transformers and torch say of a wrong folder becomes a CheckpointError, of a wrong setting of the call a UsageError."""
    try:
        yield
    except MiniMonkeyError:
        raise
    except FROM_SETTINGS as error:
        reason = " ".join(str(error).split())[:300]
        for setting, value in settings.items():  # their messages name it
            if value is not None and setting not in ("config", "state_dict") and re.search(rf"\b{setting}\b", reason):
                raise UsageError(f"{setting}={value!r}: can't be used for {name} ({type(error).__name__}: {reason})") from error
        raise CheckpointError(f"{name}: no model can be made of it ({type(error).__name__}: {reason})") from error


def check_settings(*, attn_implementation: Any = None, device_map: Any = None) -> None:
    """Settings of `from_pretrained` that can be checked without a folder.

    Args:
        attn_implementation: the name of an implementation, or one for each part of the model.
        device_map: a name of `DEVICE_MAPS`, a device, or a device for each module; there "disk" is one too.

    Raises:
        UsageError: no such implementation here, or no such device. Implementations on the hub are code, which is never fetched.
    """
    known = ["eager", *AttentionInterface().valid_keys()]
    for name in attn_implementation.values() if isinstance(attn_implementation, dict) else [attn_implementation]:
        if name is not None and name not in known:
            raise UsageError(f"attn_implementation={attn_implementation!r}: expected one of {', '.join(known)}")
    if device_map is None or device_map in DEVICE_MAPS:
        return
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    for place in places:
        if not (place == "disk" and isinstance(device_map, dict)):
            check_device(
                place,
                f"device_map={device_map!r}: {place!r}",
                f"expected one of {', '.join(DEVICE_MAPS)}, or devices that are there",
            )


def check_device(device: Any, setting: str, advice: str) -> torch.device:
    """The device of this name or number. Raises UsageError, from `setting` on to `advice`, if it isn't there."""
    try:
        place = torch.device(device)
        torch.empty(1, device=place).item()  # "meta" has no values
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # AssertionError: a torch built without CUDA
        reason = str(error).strip().splitlines()[0][:120]
        raise UsageError(f"{setting} is not there ({reason}); {advice}") from error
    return place


def check_one_set(folder: Path) -> None:
    """Raises CheckpointError for a folder with two sets of weights: of two saves into it, and one of them is stale."""
    if (folder / WHOLE).is_file() and (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: holds both {WHOLE} and {INDEX}, weights of two saves; remove the older of the two")


def check_fit(source, *, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
    """Raises CheckpointError naming the tensors that don't fit the configuration, if there are any."""
    faults = [*_fault("missing", missing), *_fault("not expected", unexpected), *_fault("of another shape", misshapen)]
    if faults:
        raise CheckpointError(f"{source}: tensors and config.json don't fit: {'; '.join(faults)}; get the folder anew")


def _fault(what: str, tensors: Iterable[str]) -> Iterator[str]:
    names = sorted(tensors)
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield f"{len(names)} {what} ({', '.join(names[:4])}{more})"


@contextmanager
def _quietly(source) -> Iterator[None]:
    """Keep back transformers' table of tensors that don't fit (the error names them), and its bar where nothing is fetched.

    What other threads load meanwhile is told of as ever, their bars excepted.
    """
    logger, here = logging.getLogger("transformers.modeling_utils"), threading.get_ident()

    def no_report(record: logging.LogRecord) -> bool:
        return record.thread != here or "LOAD REPORT" not in record.getMessage()

    logger.addFilter(no_report)
    try:
        if source is None or Path(source).is_dir():
            with _BARS.hidden():
                yield
        else:
            yield
    finally:
        logger.removeFilter(no_report)


class _Bars:
    """The progress bars of transformers, which are switched for the whole process: off from the first that wants it to the last."""

    def __init__(self) -> None:
        self._lock, self._hiding, self._shown = threading.Lock(), 0, False

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._lock:
            if not self._hiding:
                self._shown = progress.is_progress_bar_enabled()
                if self._shown:
                    progress.disable_progress_bar()
            self._hiding += 1
        try:
            yield
        finally:
            with self._lock:
                self._hiding -= 1
                if self._shown and not self._hiding:
                    progress.enable_progress_bar()


_BARS = _Bars()


@cache
def register_key_names() -> None:
    """Give our classes the key names of the stock class on disk.

    transformers skips its renaming for classes outside the library unless they are registered by name; a stock folder would then
    load with a random head. The getter returns copies, which transformers goes on to change.
    """
    stock = get_checkpoint_conversion_mapping("internvl")
    register_checkpoint_conversion_mapping("MiniMonkeyForConditionalGeneration", stock, overwrite=True)
    register_checkpoint_conversion_mapping("MiniMonkeyModel", get_checkpoint_conversion_mapping("InternVLModel"), overwrite=True)
