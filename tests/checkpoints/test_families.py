"""Which of our classes transformers' Auto classes answer with."""

import transformers

from minimonkey.models.minimonkey.backbone import MiniMonkeyModel
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration


def test_every_auto_class_that_knows_stock_internvl_knows_ours(tiny_config, auto_classes):
    stock = transformers.InternVLConfig
    mapped = [getattr(transformers, name) for name in dir(transformers) if name.startswith("AutoModel")]
    both = {auto.__name__ for auto in mapped if stock in getattr(auto, "_model_mapping", None) or ()}
    assert both == {"AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"}
    config = tiny_config("qwen2")
    assert type(transformers.AutoModel.from_config(config)) is MiniMonkeyModel
    for name in both - {"AutoModel"}:
        assert type(getattr(transformers, name).from_config(config)) is MiniMonkeyForConditionalGeneration
