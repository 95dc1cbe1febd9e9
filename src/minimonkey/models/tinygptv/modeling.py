"""TinyGPT-V with its head, and which of its parameters the published stages train.

shapes: B rows of text, L length of a row, V vocabulary
"""

from __future__ import annotations

import re

from torch import nn
from transformers import InternVLForConditionalGeneration

from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.tinygptv.backbone import TinyGPTVModel
from minimonkey.models.tinygptv.configuration import TinyGPTVConfig

TRAINED = re.compile(
    r"lora_[AB]\.weight|(input_layernorm|post_layernorm|q_layernorm|k_layernorm|final_layernorm)\.weight"
    r"|multi_modal_projector\.linear_[12]\.(weight|bias)"
)
"""Ends of the names of what every published stage trains: updates, weights (not biases) of Phi-2's norms, both projections."""


class TinyGPTVForConditionalGeneration(MiniMonkeyForConditionalGeneration):
    """TinyGPT-V: pictures and text in, text out."""

    config: TinyGPTVConfig
    config_class = TinyGPTVConfig
    backbone_class = TinyGPTVModel
    _no_split_modules = TinyGPTVModel._no_split_modules

    def __init__(self, config: TinyGPTVConfig) -> None:
        super(InternVLForConditionalGeneration, self).__init__(config)  # the stock __init__ would build a stock InternVLModel
        self.model = self.backbone_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=True)
        self.post_init()

    def freeze_as_published(self) -> list[str]:
        """Leave trainable what all four published stages train, and nothing else.

        That is the low-rank updates, the weights of Phi-2's norms (those of LayerNorms without their biases), and both projections
        with theirs. Encoder and Q-Former stay in evaluation mode from then on.

        Returns:
            The names of the parameters that are trained.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(TRAINED.search(name) is not None)
        self.train(self.training)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]
