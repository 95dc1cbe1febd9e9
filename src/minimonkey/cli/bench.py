"""`minimonkey bench`: how fast a model is on this machine. The timing is the business of minimonkey.evaluation.speed."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from minimonkey.cli.options import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    ModelOption,
    PlainOption,
    PyramidOption,
    QuantizeOption,
    pyramid_changes,
    read_picture,
)

if TYPE_CHECKING:
    from minimonkey.evaluation.speed import Speed
    from minimonkey.inference import VisionLanguageModel

NOISE = "a page of noise"


def bench(
    model: ModelOption = None,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="The picture to look at; a page of noise (A4) if not given.")
    ] = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: the model, the machine, and every figure.")] = False,
) -> None:
    """Time a model on this machine.

    One picture is cut, encoded, read and asked about, afresh and kept open. Figures are medians of three rounds, or of one where
    an answer takes long. The embedded model takes less than a minute, one of a billion parameters on two cores some minutes.

    \b
    Examples:
      minimonkey bench
      minimonkey bench --model mx262/MiniMonkey --picture page.png --dtype bfloat16
      minimonkey bench --json > here.json
    """
    changes = pyramid_changes(pyramid, plain)
    source = None if picture is None else read_picture(picture)

    start = time.perf_counter()
    from tqdm import tqdm
    from transformers.utils.logging import disable_progress_bar

    from minimonkey.evaluation.speed import STAGES, measure, noise_page
    from minimonkey.inference import load

    disable_progress_bar()
    vlm = load(model, device=device, dtype=dtype, quantize=quantize, engine=engine, pyramid=changes or None)
    load_s = time.perf_counter() - start
    with tqdm(total=len(STAGES), desc="bench", unit="part", leave=False, disable=None) as bar:  # None: only in a terminal
        speed = measure(vlm, source or noise_page(), done=lambda stage: bar.update())
    setting = {"model": model or "nano", "picture": picture or NOISE} | where(vlm, engine, quantize)
    if as_json:
        print(json.dumps(setting | {"load_s": load_s} | asdict(speed)))
        return
    weights = f" with {quantize} weights" if quantize else ""
    print("{model} on {device} by {engine}, {dtype}{0}, {threads} threads, {picture}".format(weights, **setting))
    print(f"{speed.tiles} tiles, {speed.image_tokens} image tokens, {speed.prompt_tokens} tokens with the question")
    rows = table(speed, load_s)
    width = max(len(what) for what, _ in rows)
    for what, figure in rows:
        print(f"{what:<{width}}  {figure}")


def where(vlm: VisionLanguageModel, engine: str | None, quantize: str | None) -> dict:
    """On what a model runs, in words: the device, torch or another engine, the numbers, the bits of weights if fewer, threads."""
    import torch

    numbers = {"dtype": str(vlm.model.dtype).removeprefix("torch."), "quantize": quantize}
    return {"device": str(vlm.model.device), "engine": engine or "torch"} | numbers | {"threads": torch.get_num_threads()}


def table(speed: Speed, load_s: float) -> list[tuple[str, str]]:
    """What was measured, and how much it was."""
    faster, share = speed.eight_fresh_s / speed.eight_questions_s, speed.compressed_share
    of_first = speed.second_question_s / speed.first_token_s
    batch_s = speed.eight_questions_s - speed.open_s
    in_turn_s = 8 * (speed.second_question_s + (speed.new_tokens - 1) / speed.new_tokens_a_s)  # both were measured alone
    return [
        ("loading the model, imports included", seconds(load_s)),
        ("cutting the picture into tiles", seconds(speed.cut_s)),
        ("vision encoder", f"{speed.encode_ms_a_tile:.1f} ms a tile"),
        ("language model, reading", f"{speed.prompt_tokens_a_s:,.0f} tokens a second"),
        ("reading without half of the detail tokens", "there is no detail level" if share is None else f"{share:.0%} of the time"),
        ("picture and question to the first token", seconds(speed.first_token_s)),
        ("language model, writing", f"{speed.new_tokens_a_s:.1f} tokens a second"),
        ("opening the picture for several questions", seconds(speed.open_s)),
        ("second question about it to the first token", f"{seconds(speed.second_question_s)}, {of_first:.2%} of afresh"),
        ("eight questions in a batch, opening included", f"{seconds(speed.eight_questions_s)}, {faster:.1f} x faster than afresh"),
        ("the same without opening, against one by one", f"{seconds(batch_s)}, {in_turn_s / batch_s:.1f} x faster"),
    ]


def seconds(number: float) -> str:
    """Three figures: 123 s, 12.3 s, 1.23 s, 123 ms, 1.23 ms."""
    value, unit = (number, "s") if number >= 1 else (1e3 * number, "ms")
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f} {unit}"
