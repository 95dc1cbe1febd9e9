"""What a benchmark found: options that all take, bars, lines to read, docs/performance.json, an exit code. Times nothing."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "performance.json"


class Bar(NamedTuple):
    """A ratio, and how large or small it must be."""

    what: str
    value: float
    limit: float | None = None
    """None: good to know, held to nothing."""
    at_most: bool = False
    """Whether the limit is one from above."""
    unit: str = ""

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def figure(self) -> str:
        return f"{self.value:.4g}{self.unit}"

    @property
    def bar(self) -> str:
        if self.limit is None:
            return "none"
        return f"{'<=' if self.at_most else '>='} {self.limit:g}{self.unit}"


def options(page: str, *, rounds: int | None = 3, **defaults: Any) -> argparse.ArgumentParser:
    """The options that benchmarks on the random model share; `page` is the benchmark's docstring. None: it has no rounds."""
    parser = argparse.ArgumentParser(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", choices=("openvino",), help="what computes ours where it can; torch if not given")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--layers", type=int, default=24, help="of each part; 24 is the real shape, to which the bars apply")
    parser.add_argument("--figures", type=Path, metavar="FILE", help=f"keep the figures; {FIGURES.relative_to(ROOT)} is the page's")
    parser.set_defaults(**defaults)
    return parser


def parse(parser: argparse.ArgumentParser, *real: str) -> argparse.Namespace:
    """What was given. Other layers than the real ones, or another value of an option named in `real`, are for trying things:
    their figures are refused to the page's file, with exit code 2, before anything is timed."""
    given = parser.parse_args()
    changed = [f"--{name}" for name in ("layers", *real) if getattr(given, name) != parser.get_default(name)]
    if changed and given.figures is not None and given.figures.resolve() == FIGURES.resolve():
        parser.error(f"{given.figures} is for the real size: leave out {' and '.join(changed)}, or give another file for --figures")
    return given


def circumstances(given: argparse.Namespace) -> str:
    """Sets the number of threads, and says on what and how is measured: figures from elsewhere can't be compared with these."""
    torch.set_num_threads(given.threads)
    device = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else f"{cpu()}, {given.threads} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    counts = {name: getattr(given, name) for name in ("layers", "tiles", "rounds") if hasattr(given, name)}
    size = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in counts.items())
    return f"{device}; {versions}; {given.dtype}, {size}, ours in {given.engine or 'torch'}"


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def conclude(name: str, where: str, bars: Iterable[Bar], figures: Path | None) -> int:
    """Keep each bar as soon as it is found, if there is a file to do so; print them all, and return 1 if one is missed, else 0."""
    found: list[Bar] = []
    measured_at = commit()  # what comes later may take an hour, in which files change
    for bar in bars:
        found.append(bar)
        if figures is not None:
            rows = [{"what": bar.what, "figure": bar.figure, "bar": bar.bar, "holds": bar.holds} for bar in found]
            store(figures, name, {"where": where, "commit": measured_at, "rows": rows})
    print()
    for bar in found:
        held = "" if bar.limit is None else f"  bar {bar.bar:<8} {'holds' if bar.holds else 'MISSED'}"
        print(f"{bar.what:<76} {bar.figure:>8}{held}")
    if figures is not None:
        print(f"wrote {figures}")
    return int(not all(bar.holds for bar in found))


def read(figures: Path) -> dict[str, Any]:
    """All that was kept, by the benchmarks' names."""
    return json.loads(figures.read_text()) if figures.exists() else {}


def store(figures: Path, name: str, found: dict[str, Any]) -> None:
    """Keep what a benchmark found in place of what it found before; the others' stays."""
    figures.write_text(json.dumps(read(figures) | {name: found}, indent=1) + "\n")


def commit() -> str:
    """The commit that is checked out, with a + if files but docs differ; "unknown" without git or outside a checkout."""
    try:
        said = [
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", ":!docs"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0] + ("+" if said[1] else "")
