"""`minimonkey doctor`: what is installed, what the machine offers, and whether the embedded model is whole."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from importlib.resources import files

import typer

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


def doctor() -> None:
    """Show what is installed, and whether it is whole.

    Prints versions, devices, extras and the embedded model's checksum. Exits with 1 if the embedded model is missing or damaged.

    \b
    Example:
      minimonkey doctor
    """
    for name, finding in [*_versions(), *_machine(), *_extras()]:
        print(f"{name:<13} {finding}")
    finding, sound = embedded_model()
    print(f"{'nano':<13} {finding}")
    if not sound:
        raise typer.Exit(1)


def _versions() -> Iterator[tuple[str, str]]:
    yield "minimonkey", importlib.metadata.version("minimonkey")
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, importlib.metadata.version(package)


def _machine() -> Iterator[tuple[str, str]]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, {capability}"
    accelerators = []
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        accelerators = [f"{kind}:{index}" for index in range(torch.accelerator.device_count())]
    yield "devices", ", ".join(["cpu", *accelerators])


def _extras() -> Iterator[tuple[str, str]]:
    """One row for each extra of the package, read from its metadata."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("minimonkey") or []]
    for extra in importlib.metadata.metadata("minimonkey").get_all("Provides-Extra") or []:
        names = [
            r.name for r in wanted if r.marker and not r.marker.evaluate({"extra": ""}) and r.marker.evaluate({"extra": extra})
        ]
        missing = [name for name in names if not _is_installed(name)]
        finding = f"not installed ({', '.join(missing)}): pip install 'minimonkey[{extra}]'" if missing else "installed"
        yield f"extra {extra}", finding


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def embedded_model() -> tuple[str, bool]:
    """A sentence on the embedded model's weights, and whether they are those that the package was made with.

    nano/checksum holds one line as `sha256sum model.safetensors` prints it.
    """
    weights = files("minimonkey") / "nano" / "model.safetensors"
    recorded = files("minimonkey") / "nano" / "checksum"
    if not weights.is_file():
        return "model.safetensors is missing: install minimonkey again", False
    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    finding = f"{len(content) / 1e6:.1f} MB, sha256 {digest[:16]}"
    if not recorded.is_file():
        return f"{finding}, no checksum recorded", True
    expected = recorded.read_text().split()[0]
    if digest != expected:
        return f"{finding} is not the recorded {expected[:16]}: install minimonkey again", False
    return f"{finding}, as recorded", True
