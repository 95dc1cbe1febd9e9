"""How long does a person wait? `minimonkey ask` from a cold start, and one more line once the model is loaded.

    python benchmarks/ask.py [--rounds 5]

Cold: a new process, imports included, on examples/line.png. Warm: `vlm.ask` on the same picture, median. No rival: the bars are
seconds on two cores. Exits with 1 if one is missed.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import minimonkey

COLD_BAR_S, WARM_BAR_S = 8.0, 1.0
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
    tokens = f"{answer.image_tokens} image tokens, {len(answer.token_ids)} new ones"
    print(f"{torch.get_num_threads()} threads, {vlm.model.dtype}, {tokens}")
    print(f"cold start  {statistics.median(cold):5.2f} s   (bar {COLD_BAR_S:.0f} s; first of {rounds}: {cold[0]:.2f} s)")
    print(f"warm answer {statistics.median(warm):5.2f} s   (bar {WARM_BAR_S:.0f} s)")
    return int(statistics.median(cold) > COLD_BAR_S or statistics.median(warm) > WARM_BAR_S)


if __name__ == "__main__":
    sys.exit(main())
