"""How long does a person wait? `minimonkey ask` from a cold start, and one more picture once the model is loaded.

    python benchmarks/ask.py [--rounds 5]

Cold: a new process, imports included, on examples/line.png. Warm: `vlm.ask` on the same picture, and on one of the size of a page
(1654 x 2339 pixels, A4 at 200 dpi) with 40 new tokens; medians. No rival: the bars are seconds on two cores. Exits with 1 if one is
missed.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import minimonkey
from minimonkey.evaluation.speed import noise_page

COLD_BAR_S, WARM_BAR_S, PAGE_BAR_S = 8.0, 1.0, 3.0
PAGE_TOKENS = 40
LINE = Path(__file__).parents[1] / "examples" / "line.png"
QUESTION = "Read the text."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    command = [str(Path(sys.executable).with_name("minimonkey")), "ask", "--quiet", str(LINE), QUESTION]
    cold = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        cold.append(time.perf_counter() - started)
    vlm = minimonkey.load()
    vlm.ask(LINE, QUESTION)
    warm = [vlm.ask(LINE, QUESTION).timings["total"] for _ in range(rounds)]
    answer = vlm.ask(LINE, QUESTION)
    page, length = noise_page(), {"max_new_tokens": PAGE_TOKENS, "min_new_tokens": PAGE_TOKENS}
    vlm.ask(page, QUESTION, **length)
    paged = [vlm.ask(page, QUESTION, **length) for _ in range(rounds)]
    seconds = statistics.median(cold), statistics.median(warm), statistics.median(answer.timings["total"] for answer in paged)
    tokens = f"{answer.image_tokens} image tokens, {len(answer.token_ids)} new ones"
    print(f"{torch.get_num_threads()} threads, {vlm.model.dtype}, {tokens}")
    bars = COLD_BAR_S, WARM_BAR_S, PAGE_BAR_S
    names = "cold start, line", "warm, line", f"warm, page of {paged[0].pyramids[0].tile_count} tiles"
    for name, taken, bar in zip(names, seconds, bars, strict=True):
        print(f"{name:<26} {taken:5.2f} s   (bar {bar:.0f} s)")
    return int(any(taken > bar for taken, bar in zip(seconds, bars, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
