"""How long does the language model take to read a picture of which half the detail tokens are dropped?

    python benchmarks/compression.py [--dtype bfloat16] [--rounds 5] [--layers 24]

Prefill of the language model of InternVL2-1B (Qwen2-0.5B's shape, random weights), choosing included, image features given: 12
detail and 7 adaptive tiles and a thumbnail (CIP at its largest), then 12 tiles and a thumbnail (plain tiling), 256 tokens each,
40 tokens of template before them and 30 of question behind. Against no compression, and against the published scm: two layers run
on everything, the second with full attention maps (eager), then the whole model again on what is kept, with sdpa, or eager
throughout. Rounds alternate between the rivals; medians. Every other selector is timed too, without a bar. Full maps of 5,190
tokens take some 6 GB. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression import SELECTORS, CompressionSpec
from minimonkey.configuration import MiniMonkeyConfig
from minimonkey.decoder import rotation, walk
from minimonkey.modeling import MiniMonkeyForConditionalGeneration

BARS = {(12, 7, 1): 0.68, (12, 0, 1): 0.53}
PUBLISHED_BAR = 1.3
TILE_TOKENS, BEFORE, BEHIND, IMAGE = 256, 40, 30, 151648


def random_model(layers: int, dtype: torch.dtype) -> MiniMonkeyForConditionalGeneration:
    """The language model has InternVL2-1B's shape; the encoder, which isn't timed, is small."""
    text = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": layers, "vocab_size": 151655}
    text |= {"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6}
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 448}
    config = MiniMonkeyConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, image_seq_length=TILE_TOKENS)
    torch.manual_seed(0)
    return MiniMonkeyForConditionalGeneration(config).to(dtype).eval()


def prompt(level_tiles: tuple[int, int, int], dtype: torch.dtype) -> dict:
    """Ids and image features of one question about one picture."""
    tiles = sum(level_tiles)
    ids = [*range(100, 100 + BEFORE), *[IMAGE] * (TILE_TOKENS * tiles), *range(500, 500 + BEHIND)]
    features = torch.randn(tiles, TILE_TOKENS, 896, generator=torch.Generator().manual_seed(1)).to(dtype) * 0.02
    encoded = {"image": BaseModelOutputWithPooling(pooler_output=features, attentions=(torch.rand(tiles, 4 * TILE_TOKENS),))}
    return {"input_ids": torch.tensor([ids]), "level_tiles": torch.tensor([level_tiles]), "mm_encoder_outputs": encoded}


@torch.no_grad()
def ours(model: MiniMonkeyForConditionalGeneration, inputs: dict, spec: CompressionSpec | None) -> None:
    model(**inputs | {"mm_encoder_outputs": dict(inputs["mm_encoder_outputs"])}, compression=spec, use_cache=True, logits_to_keep=1)


@torch.no_grad()
def published(model: MiniMonkeyForConditionalGeneration, inputs: dict, elsewhere: str) -> None:
    """scm as in `modeling_minimonkey_chat.py`: two layers, the attention map of the second, and everything again on the half."""
    text = model.model.language_model
    ids = inputs["input_ids"]
    embeddings = model.get_input_embeddings()(ids)
    embeddings[ids == IMAGE] = inputs["mm_encoder_outputs"]["image"].pooler_output.flatten(0, 1)
    start, stop = BEFORE, BEFORE + TILE_TOKENS * int(inputs["level_tiles"][0, 0])
    maps: list[torch.Tensor] = []
    hook = text.layers[1].self_attn.register_forward_hook(lambda module, args, output: maps.append(output[1]))
    turned = rotation(text, embeddings, torch.arange(ids.shape[1])[None])
    text.set_attn_implementation(elsewhere)
    hidden = walk(text, embeddings, range(1), turned=turned)
    text.set_attn_implementation("eager")
    walk(text, hidden, range(1, 2), turned=turned)
    hook.remove()
    scores = maps.pop()[:, :, stop:, start:stop].mean(dim=2).mean(dim=1)[0]
    best = scores.topk((stop - start) // 2).indices.sort().values
    kept = torch.cat((embeddings[:, :start], embeddings[:, start + best], embeddings[:, stop + 1 :]), dim=1)
    text.set_attn_implementation(elsewhere)
    model(inputs_embeds=kept, use_cache=True, logits_to_keep=1)
    text.set_attn_implementation("sdpa")


def medians(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each call, the rivals in turn, after one round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--layers", type=int, default=24, help="of the language model; 24 is the real shape, to which the bars apply"
    )
    settings = parser.parse_args()
    torch.set_num_threads(2)
    dtype = getattr(torch, settings.dtype)
    model = random_model(settings.layers, dtype)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads, {settings.dtype}, {settings.layers} layers, sdpa, keep_ratio 0.5")
    missed = False
    for level_tiles, bar in BARS.items():
        inputs = prompt(level_tiles, dtype)
        rivals = {name: CompressionSpec(name) for name in SELECTORS}
        calls: dict[str, Callable[[], None]] = {"none": lambda inputs=inputs: ours(model, inputs, None)}
        calls |= {name: lambda inputs=inputs, spec=spec: ours(model, inputs, spec) for name, spec in rivals.items()}
        calls |= {
            "published, eager map": lambda inputs=inputs: published(model, inputs, "sdpa"),
            "published, all eager": lambda inputs=inputs: published(model, inputs, "eager"),
        }
        taken = medians(calls, settings.rounds)
        share, faster = taken["scm"] / taken["none"], taken["published, eager map"] / taken["scm"]
        print(f"\n{sum(level_tiles)} tiles {level_tiles}, {inputs['input_ids'].shape[1]} tokens")
        for name, seconds in taken.items():
            print(f"  {name:<22} {seconds:7.3f} s   {seconds / taken['none']:5.2f} of none")
        print(f"  scm against none {share:.3f} (bar {bar}), published against scm {faster:.2f} x (bar {PUBLISHED_BAR} x)")
        missed |= share > bar or faster < PUBLISHED_BAR
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
