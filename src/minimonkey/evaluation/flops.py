"""The arithmetic of reading a picture once, before the first word of an answer, from the sizes of a model. Knows no weights.

It counts multiplications and additions, 2 FLOPs each pair: every tile through the vision encoder and the projector, then all
image tokens through the language model. Not counted: norms, activations and the prompt's other tokens. Tiles that are equal, and
so encoded once, count each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import InternVLConfig


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that its arithmetic follows from. Widths are numbers of features."""

    name: str
    tile_px: int
    tokens_per_tile: int
    patches: int
    """Positions of the vision encoder for one tile, the class token included."""
    vision_width: int
    vision_mlp: int
    vision_layers: int
    text_width: int
    text_mlp: int
    text_layers: int
    text_kv_width: int
    """Key-value heads times the size of a head."""

    @classmethod
    def of(cls, name: str, config: InternVLConfig) -> Shape:
        """The shape of a configuration.

        Args:
            name: what messages call the model.
            config: of a model whose language model is Llama, Qwen2 or Phi-3.
        """
        vision, text = config.vision_config, config.text_config
        tile_px, patch_px = vision.image_size[0], vision.patch_size[0]
        patches = (tile_px // patch_px) ** 2
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            name=name,
            tile_px=tile_px,
            tokens_per_tile=int(patches * config.downsample_ratio**2),
            patches=patches + 1,
            vision_width=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            vision_layers=vision.num_hidden_layers,
            text_width=text.hidden_size,
            text_mlp=text.intermediate_size,
            text_layers=text.num_hidden_layers,
            text_kv_width=text.num_key_value_heads * head,
        )

    def vision_flops(self, tiles: int) -> float:
        """FLOPs of the vision encoder and the projector for `tiles` tiles: 0.72e12 a tile for InternViT-300M at 448 px."""
        weights = self.vision_layers * (4 * self.vision_width**2 + 2 * self.vision_width * self.vision_mlp)
        attention = 4 * self.patches**2 * self.vision_width * self.vision_layers
        stacked = self.vision_width * (self.patches - 1) // self.tokens_per_tile  # pixel unshuffle
        projector = 2 * self.tokens_per_tile * (stacked * self.text_width + self.text_width**2)
        return float(tiles * (2 * self.patches * weights + attention + projector))

    def text_flops(self, tokens: int) -> float:
        """FLOPs of the language model's layers for a prompt of `tokens` tokens, with causal attention."""
        layer = 2 * self.text_width * (self.text_width + self.text_kv_width) + 3 * self.text_width * self.text_mlp
        return float(2 * tokens * self.text_layers * layer + 2 * tokens**2 * self.text_width * self.text_layers)


_INTERNVIT_300M = {
    "tile_px": 448,
    "tokens_per_tile": 256,
    "patches": 1025,
    "vision_width": 1024,
    "vision_mlp": 4096,
    "vision_layers": 24,
}
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("internvl2-1b", **_INTERNVIT_300M, text_width=896, text_mlp=4864, text_layers=24, text_kv_width=128),
        Shape("internvl2-2b", **_INTERNVIT_300M, text_width=2048, text_mlp=8192, text_layers=24, text_kv_width=1024),
        Shape("internvl2-4b", **_INTERNVIT_300M, text_width=3072, text_mlp=8192, text_layers=32, text_kv_width=3072),
    )
}
"""Published models by name. Mini-Monkey is an internvl2-2b."""


def readable_flops(flops: float) -> str:
    """Three figures and a unit: 14.9 TFLOP."""
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= scale:
            return f"{flops / scale:.3g} {unit}"
    return f"{flops / 1e6:.3g} MFLOP"
