"""How much of packed rows stays empty, against examples packed as they come?

    python benchmarks/packing.py [--examples 20000]

Lengths log-uniform in 256-4,096 tokens, without tiles; then examples with 0-13 tiles of 256 tokens and some text under four tile
budgets, against the fewest rows that any packing could need. Times are those of choosing alone, on the processor.
"""

import argparse
import math
import random
import time

from minimonkey.data.packing import ExampleSize, pack


def log_uniform(draw: random.Random, least: int, most: int) -> int:
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def as_they_come(sizes: list[ExampleSize], max_tokens: int) -> int:
    """Rows that are closed as soon as the next example doesn't fit."""
    rows, filled = 1, 0
    for size in sizes:
        if filled + size.tokens > max_tokens:
            rows, filled = rows + 1, 0
        filled += size.tokens
    return rows


def packed(sizes: list[ExampleSize], max_tokens: int, max_tiles: int | None = None) -> tuple[int, float]:
    """Rows, and milliseconds for each."""
    start = time.process_time()
    rows = sum(1 for _ in pack(sizes, max_tokens=max_tokens, max_tiles=max_tiles, size=lambda size: size))
    return rows, 1000 * (time.process_time() - start) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20_000)
    count = parser.parse_args().examples
    draw = random.Random(0)
    sizes = [ExampleSize(log_uniform(draw, 256, 4096), 0) for _ in range(count)]
    total = sum(size.tokens for size in sizes)
    print("max_tokens  empty as they come  empty packed  ms a row")
    for max_tokens in (16_384, 8_192, 4_096):
        rows, duration = packed(sizes, max_tokens)
        plain, ours = (100 * (1 - total / (number * max_tokens)) for number in (as_they_come(sizes, max_tokens), rows))
        print(f"{max_tokens:10} {plain:17.2f} % {ours:11.2f} % {duration:9.2f}")
    tiles = [draw.choice([0, *range(1, 14)]) for _ in range(count // 10)]
    sizes = [ExampleSize(256 * has + log_uniform(draw, 32, 800), has) for has in tiles]
    print("max_tiles (16,384 tokens)  fewest rows  rows  ms a row")
    for max_tiles in (24, 40, 48, 64):
        fewest = max(sum(size.tokens for size in sizes) / 16_384, sum(tiles) / max_tiles)
        rows, duration = packed(sizes, 16_384, max_tiles)
        print(f"{max_tiles:25} {math.ceil(fewest):12} {rows:5} {duration:9.2f}")


if __name__ == "__main__":
    main()
