"""Loading that refuses a tensor too few, too many or of a wrong shape, and the key names of our classes on disk.

Knows `from_pretrained` of transformers and no model: any folder that can be loaded with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.utils import logging as progress

from minimonkey.errors import CheckpointError
from minimonkey.memory import enough_memory

SMALLER = "load with a smaller dtype, quantize='int8' or 'int4', or device_map='auto'"
"""What needs less memory for the weights."""


def load_strictly(from_pretrained, source, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Call a `from_pretrained` of transformers; safetensors only, no remote code; returns the model and its loading info.

    Raises CheckpointError naming every tensor that is missing, not expected, or of another shape than the configuration says:
    transformers would go on with random values. Raises ShortOfMemoryError if they don't fit into memory.
    """
    settings = {"output_loading_info": True, "use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    with _quietly(source):
        try:
            with enough_memory(f"loading {source}", SMALLER):
                model, info = from_pretrained(source, *args, **(kwargs | settings))
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{source}: no model can be made of it ({type(error).__name__}: {reason})") from error
    misshapen = (f"{name} {list(found)} for {list(due)}" for name, found, due in info["mismatched_keys"])
    check_fit(source, missing=info["missing_keys"], unexpected=info["unexpected_keys"], misshapen=misshapen)
    if info["error_msgs"]:
        raise CheckpointError(f"{source}: no model can be made of it ({'; '.join(info['error_msgs'])[:300]})")
    return model, info


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
    """Keep back transformers' table of tensors that don't fit (the error names them), and its bar where nothing is fetched."""
    hide_bar = (source is None or Path(source).is_dir()) and progress.is_progress_bar_enabled()
    if hide_bar:
        progress.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")

    def no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(no_report)
    try:
        yield
    finally:
        logger.removeFilter(no_report)
        if hide_bar:
            progress.enable_progress_bar()


def register_key_names() -> None:
    """Give our classes the key names of the stock class on disk.

    transformers skips its renaming for classes outside the library unless they are registered by name; a stock folder would then
    load with a random head. The getter returns copies, which transformers goes on to change.
    """
    stock = get_checkpoint_conversion_mapping("internvl")
    register_checkpoint_conversion_mapping("MiniMonkeyForConditionalGeneration", stock, overwrite=True)
    register_checkpoint_conversion_mapping("MiniMonkeyModel", get_checkpoint_conversion_mapping("InternVLModel"), overwrite=True)
