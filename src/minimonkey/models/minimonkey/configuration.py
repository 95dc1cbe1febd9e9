"""The model's configuration: InternVL's, and which pyramid it was trained with."""

# No postponed annotations here: `strict` checks the types of fields only where it can see them.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import InternVLConfig

from minimonkey.errors import CheckpointError
from minimonkey.models.strict_loading import WHOLE

FORMER_SETTINGS = ("compression",)
"""Keys that folders of earlier versions have and that nothing ever read; they are left out."""


@strict
class MiniMonkeyConfig(InternVLConfig):
    """InternVLConfig with one more field, saved in config.json. The longest prompt stands in its text_config."""

    model_type = "minimonkey"
    also_reads: ClassVar[tuple[str, ...]] = (InternVLConfig.model_type,)
    """Further kinds of settings that mean the same."""

    pyramid: dict | None = None
    """Fields of the PyramidSpec that the model was trained with; None if nobody said."""

    @property
    def tile_px(self) -> int:
        """Side of the square that the vision encoder sees, in pixels."""
        return self.vision_config.image_size[0]

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that the language model gets of a tile. Raises ValueError for a patch of no pixels."""
        if min(self.vision_config.patch_size) < 1:
            raise ValueError(f"vision_config.patch_size is {self.vision_config.patch_size}; expected 1 or more")
        return int((self.tile_px // self.vision_config.patch_size[0]) * self.downsample_ratio) ** 2

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What config.json says, of a folder or hub id; the other files aren't looked at.

        Args:
            pretrained_model_name_or_path: the folder or hub id.
            **kwargs: as in transformers.

        Returns:
            The settings, and what is left of `kwargs`.

        Raises:
            CheckpointError: the settings are of another kind of model. transformers would take the default of each that is
                missing, and so make a network of 11.8 billion parameters of a published folder.
        """
        source = pretrained_model_name_or_path  # transformers' name for it
        settings, unused = super().get_config_dict(source, **kwargs)
        if not settings:
            raise CheckpointError(f"{source}: no config.json in it; give the folder that holds config.json and {WHOLE}")
        kind, known = settings.get("model_type"), (cls.model_type, *cls.also_reads)
        if kind not in known:
            raise CheckpointError(
                f"{source}: model_type is {kind!r}, expected {' or '.join(known)}; a published folder (internvl_chat) loads with "
                "minimonkey.load(), or once `minimonkey convert` has written it anew"
            )
        return settings, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return super().from_dict({name: value for name, value in config_dict.items() if name not in FORMER_SETTINGS}, **kwargs)
