"""The model's configuration: InternVL's, and which pyramid and token selection it was trained with."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig


@strict
class MiniMonkeyConfig(InternVLConfig):
    """InternVLConfig with two more fields, saved in config.json."""

    model_type = "minimonkey"

    pyramid: dict | None = None
    """Fields of the PyramidSpec that the model was trained with; None if nobody said."""
    compression: dict | None = None
    """Settings of the token selection that the model was trained with; None for none."""
