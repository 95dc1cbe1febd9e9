"""Training data for any model: conversations in, batches out. Each name brings its module when it is first used."""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "Conversation": "conversation",
    "read_conversations": "readers",
    "encode": "encoding",
    "collate": "collation",
    "pack": "packing",
}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'minimonkey.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minimonkey.data.{_MODULE_OF[name]}"), name)
