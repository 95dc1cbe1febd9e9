"""How long does the language model take to read a picture of which half the detail tokens are dropped?

    python benchmarks/compression.py [--dtype bfloat16] [--rounds 5] [--layers 24] [--figures docs/performance.json]

Prefill of the language model of InternVL2-1B (Qwen2-0.5B's shape, random weights), choosing included, image features given: 12
detail and 7 adaptive tiles and a thumbnail (CIP at its largest), then 12 tiles and a thumbnail (plain tiling), 256 tokens each,
40 tokens of template before them and 30 of question behind. Against no compression, and against the published scm: two layers run
on everything, the second with full attention maps (eager), then the whole model again on what is kept, with sdpa, or eager
throughout. Rounds alternate between the rivals; medians. The published way with eager attention throughout, and every other
selector, are timed too, without a bar. Full maps of 5,190 tokens take some 6 GB. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from internvl2_1b import TILE_TOKENS, random_model
from minimonkey.compression.spec import SELECTORS, CompressionSpec
from minimonkey.evaluation.speed import medians
from minimonkey.language_model.layers import rotary_cos_sin, run_layers
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from report import Bar, circumstances, conclude, options, parse

BARS = {(12, 7, 1): 0.68, (12, 0, 1): 0.53}
PUBLISHED_BAR = 1.3
BEFORE, BEHIND = 40, 30


def prompt(level_tiles: tuple[int, int, int], model: MiniMonkeyForConditionalGeneration) -> dict:
    """Ids and image features of one question about one picture."""
    tiles = sum(level_tiles)
    ids = [*range(100, 100 + BEFORE), *[model.config.image_token_id] * (TILE_TOKENS * tiles), *range(300, 300 + BEHIND)]
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(tiles, TILE_TOKENS, model.config.text_config.hidden_size, generator=generator) * 0.02
    cls_attention = torch.rand(tiles, 4 * TILE_TOKENS, generator=generator).to(model.device)
    encoded = {
        "image": BaseModelOutputWithPooling(pooler_output=features.to(model.device, model.dtype), attentions=(cls_attention,))
    }
    tensors = {"input_ids": torch.tensor([ids]), "level_tiles": torch.tensor([level_tiles])}
    return {name: tensor.to(model.device) for name, tensor in tensors.items()} | {"mm_encoder_outputs": encoded}


@torch.no_grad()
def ours(model: MiniMonkeyForConditionalGeneration, inputs: dict, spec: CompressionSpec | None) -> None:
    model(**inputs | {"mm_encoder_outputs": dict(inputs["mm_encoder_outputs"])}, compression=spec, use_cache=True, logits_to_keep=1)


@torch.no_grad()
def published(model: MiniMonkeyForConditionalGeneration, inputs: dict, elsewhere: str) -> None:
    """scm as in `modeling_minimonkey_chat.py`: two layers, the attention map of the second, and everything again on the half."""
    text = model.model.language_model
    ids = inputs["input_ids"]
    embeddings = model.get_input_embeddings()(ids)
    embeddings[ids == model.config.image_token_id] = inputs["mm_encoder_outputs"]["image"].pooler_output.flatten(0, 1)
    start, stop = BEFORE, BEFORE + TILE_TOKENS * int(inputs["level_tiles"][0, 0])
    maps: list[torch.Tensor] = []
    hook = text.layers[1].self_attn.register_forward_hook(lambda module, args, output: maps.append(output[1]))
    cos_sin = rotary_cos_sin(text, embeddings, torch.arange(ids.shape[1], device=ids.device)[None])
    ours = text.config._attn_implementation
    text.set_attn_implementation(elsewhere)
    hidden = run_layers(text, embeddings, range(1), cos_sin=cos_sin)
    text.set_attn_implementation("eager")
    run_layers(text, hidden, range(1, 2), cos_sin=cos_sin)
    hook.remove()
    scores = maps.pop()[:, :, stop:, start:stop].mean(dim=2).mean(dim=1)[0]
    best = scores.topk((stop - start) // 2).indices.sort().values
    kept = torch.cat((embeddings[:, :start], embeddings[:, start + best], embeddings[:, stop + 1 :]), dim=1)
    text.set_attn_implementation(elsewhere)
    model(inputs_embeds=kept, use_cache=True, logits_to_keep=1)
    text.set_attn_implementation(ours)


def compare(model: MiniMonkeyForConditionalGeneration, given: argparse.Namespace) -> Iterator[Bar]:
    """Time everything with either number of tiles; bars come when those of their number are timed."""
    for level_tiles, bar in BARS.items():
        inputs = prompt(level_tiles, model)
        rivals = {name: CompressionSpec(name) for name in (("scm",) if given.scm_alone else SELECTORS)}
        calls: dict[str, Callable[[], None]] = {"none": lambda inputs=inputs: ours(model, inputs, None)}
        calls |= {name: lambda inputs=inputs, spec=spec: ours(model, inputs, spec) for name, spec in rivals.items()}
        calls |= {
            "published, eager map": lambda inputs=inputs: published(model, inputs, "sdpa"),
            "published, all eager": lambda inputs=inputs: published(model, inputs, "eager"),
        }
        taken = medians(calls, given.rounds)
        print(f"\n{sum(level_tiles)} tiles {level_tiles}, {inputs['input_ids'].shape[1]} tokens")
        for name, seconds in taken.items():
            print(f"  {name:<22} {seconds:7.3f} s   {seconds / taken['none']:5.2f} of none", flush=True)
        what = f"reading with scm 0.5, {sum(level_tiles)} tiles"
        yield Bar(f"{what}, of the time without", taken["scm"] / taken["none"], bar, True)
        yield Bar(f"{what}, against the published way", taken["published, eager map"] / taken["scm"], PUBLISHED_BAR)
        yield Bar(f"{what}, against the published way, all eager", taken["published, all eager"] / taken["scm"])


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--scm-alone", action="store_true", help="leave the other selectors out: they have no bars, and take long")
    given = parse(parser)
    if given.engine is not None:
        parser.error(f"--engine {given.engine}: which tokens may go is decided between layers, in torch; leave --engine out")
    where = circumstances(given)
    model = random_model(getattr(torch, given.dtype), given.device, vision_layers=1, text_layers=given.layers)
    print(f"{where}; sdpa, keep_ratio 0.5; rounds alternate after one that warms up, medians")
    return conclude("compression", where, compare(model, given), given.figures)


if __name__ == "__main__":
    sys.exit(main())
