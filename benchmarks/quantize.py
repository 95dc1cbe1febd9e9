"""What do weights in 8 and 4 bits cost and save? Seconds, bytes and greedy agreement against the same model in full.

    python benchmarks/quantize.py [MODEL ...]        # the embedded model if none is named

Each model answers the same prompts with the same threads, number format and new tokens; runs alternate, medians are reported.
Agreement: the share of greedy tokens that are those of the full model when each is given the full model's answer so far.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

import minimonkey
from minimonkey.evaluation.speed import medians

PICTURES = sorted(Path("examples").glob("*.png"))
QUESTION = "Read the text."
ROUNDS, NEW_TOKENS = 3, 24


def agreement(vlm, full_answers) -> float:
    """Teacher-forced: how often the largest logit is the token that the full model chose."""
    right = total = 0
    for inputs, answer in full_answers:
        ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
        with torch.no_grad():
            logits = vlm.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
        said = logits[0, inputs["input_ids"].shape[1] - 1 : -1].argmax(-1)
        right += int((said == torch.tensor(answer)).sum())
        total += len(answer)
    return right / total


def stored_bytes(model: torch.nn.Module) -> int:
    """What the weights take in memory: those of torchao are several tensors behind one that looks full."""

    def size(tensor: torch.Tensor) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.numel() * tensor.element_size()

    tied = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(map(size, tied.values()))


def ask_all(vlm) -> None:
    for picture in PICTURES:
        vlm.ask(picture, QUESTION, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)


def main(models: list[str | None]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32 activations, {len(PICTURES)} pictures, CPU")
    for name in models:
        vlms = {bits: minimonkey.load(name, device="cpu", quantize=bits) for bits in (None, "int8", "int4")}
        full_answers = []
        for picture in PICTURES:
            answer = vlms[None].ask(picture, QUESTION, max_new_tokens=NEW_TOKENS)
            text = vlms[None].processor.prompt(QUESTION, pictures=1)
            inputs = vlms[None].processor(images=[minimonkey.load_picture(picture)], text=[text], return_tensors="pt")
            full_answers.append((dict(inputs), answer.token_ids))
        taken = medians({bits or "full": partial(ask_all, vlm) for bits, vlm in vlms.items()}, ROUNDS, warm_up=0)
        for bits, vlm in vlms.items():
            median, size = taken[bits or "full"], stored_bytes(vlm.model) / 2**20
            share = f"{median / taken['full']:.2f} of full"
            print(
                f"{name or 'nano'} {bits or 'full'}: {median:.2f} s ({share}), {size:.1f} MiB of weights, "
                f"{agreement(vlm, full_answers):.0%} of greedy tokens"
            )


if __name__ == "__main__":
    main(sys.argv[1:] or [None])
