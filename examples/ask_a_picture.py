"""Ask the embedded model to read a line, as a whole and as it is written."""

from pathlib import Path

import minimonkey

LINE = Path(__file__).parent / "line.png"

vlm = minimonkey.load()
answer = vlm.ask(LINE, "Read the text.")
print(answer.text)
print(f"{answer.image_tokens} image tokens, {answer.timings['total']:.2f} s, mean log-probability {answer.mean_logprob:.2f}")

for piece in vlm.stream(LINE, "Read the text."):
    print(piece, end="", flush=True)
print()
