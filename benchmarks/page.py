"""docs/performance.json as people read it: the tables between the marks of docs/performance.md, and the plot beside it.

    python benchmarks/page.py [--figures FILE --page FILE --plot FILE]

Measures nothing; the benchmarks write the figures when they are given `--figures`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from plot import Panel, draw
from report import FIGURES, ROOT, read

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "performance.png"
NOTHING = "*Not measured yet.*"
BARS = ("questions", "compression", "encoder", "generation")
GROWTH = {
    "tiles": ("tiles of a picture", {"encoder": "vision encoder", "first_token": "picture to first token"}),
    "questions": (
        "questions about one picture of 13 tiles",
        {"fresh": "asked afresh", "one_by_one": "on the open picture, one by one", "in_a_batch": "on the open picture, in a batch"},
    ),
    "batch": ("pictures of one tile", {"one_by_one": "one by one", "in_a_batch": "in a batch"}),
}
"""What each piece of growth.py counts, and what its figures are called."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def bars(kept: dict) -> str:
    """The figures of every benchmark that was run, with their bars, and where it was."""
    found = [name for name in BARS if name in kept]
    rows = [
        (f"`{name}`", row["what"], row["bar"], row["figure"] if row["holds"] else f"**{row['figure']}, missed**")
        for name in found
        for row in kept[name]["rows"]
    ]
    places = [f"`{name}`: {kept[name]['where']}, commit {kept[name]['commit']}." for name in found]
    return "\n".join([table(("benchmark", "what", "bar", "measured"), rows), "", *places]) if found else NOTHING


def growth(kept: dict, piece: str) -> str:
    """Seconds at every point of a piece."""
    points, (counted, lines) = kept.get("growth", {}).get(piece, {}), GROWTH[piece]
    rows = [(point, *(three_digits(seconds[name]) for name in lines)) for point, seconds in sorted(points.items(), key=by_number)]
    return table((counted, *(f"{name}, s" for name in lines.values())), rows) if rows else NOTHING


def three_digits(seconds: float) -> str:
    """1440 seconds aren't 1.44e+03 for those who read."""
    return f"{seconds:.3g}" if seconds < 999.5 else f"{seconds:.0f}"


def by_number(item: tuple[str, dict]) -> int:
    return int(item[0])


def image(kept: dict, plot: Path, page: Path) -> str:
    """The plot as the page shows it, and where it was measured."""
    if not panels(kept):
        return NOTHING
    said = "Seconds against tiles, questions and pictures in a batch; the tables below have the figures"
    commits = dict.fromkeys(point["commit"] for piece in GROWTH for point in kept["growth"].get(piece, {}).values())
    where = f"{kept['growth']['where']}, commit {', '.join(commits)}."
    return f"![{said}]({os.path.relpath(plot, page.parent)})\n\n{where}"


def panels(kept: dict) -> list[Panel]:
    """A diagram for each piece of which there are two points or more."""
    found = []
    for piece, (counted, lines) in GROWTH.items():
        points = sorted(kept.get("growth", {}).get(piece, {}).items(), key=by_number)
        if len(points) > 1:
            across = [int(point) for point, _ in points]
            values = {said: [seconds[name] for _, seconds in points] for name, said in lines.items()}
            title = {"tiles": "Tiles", "questions": "Questions", "batch": "Batch"}[piece]
            unit = "seconds, both axes logarithmic" if piece == "questions" else "seconds"
            found.append(Panel(title, unit, counted, across, values, logarithmic=piece == "questions"))
    return found


def rewrite(page: str, blocks: dict[str, str]) -> str:
    """The page with each block in place of what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""
    for name, block in blocks.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, count = marks.subn(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", page)
        assert count == 1, f"{count} pairs of marks for {name}"
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, path in (("figures", FIGURES), ("page", PAGE), ("plot", PLOT)):
        parser.add_argument(f"--{name}", type=Path, default=path, metavar="FILE")
    given = parser.parse_args()
    kept = read(given.figures)
    if found := panels(kept):
        draw(found).save(given.plot, optimize=True)
        print(f"wrote {given.plot}")
    blocks = {"bars": bars(kept), "plot": image(kept, given.plot, given.page)} | {name: growth(kept, name) for name in GROWTH}
    given.page.write_text(rewrite(given.page.read_text(), blocks))
    print(f"wrote {given.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
