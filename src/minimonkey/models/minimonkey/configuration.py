"""The model's configuration: InternVL's, and which pyramid and token selection it was trained with."""

# No postponed annotations here: `strict` checks the types of fields only where it can see them.
from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig


@strict
class MiniMonkeyConfig(InternVLConfig):
    """InternVLConfig with two more fields, saved in config.json. How long a prompt may be says its text_config."""

    model_type = "minimonkey"

    pyramid: dict | None = None
    """Fields of the PyramidSpec that the model was trained with; None if nobody said."""
    compression: dict | None = None
    """Settings of the token selection that the model was trained with; None for none."""
