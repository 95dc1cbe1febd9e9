"""Marks what fails by design, and says what is left out."""

from __future__ import annotations

import pytest

from tests.peer.by_design import BY_DESIGN, OF_GENERATION
from tests.peer.suite import CHECKOUT, HAS_GENERATION_TESTS


def pytest_report_header() -> str:
    if HAS_GENERATION_TESTS:
        return f"tests of generation: those of {CHECKOUT}"
    return "tests of generation are left out: the source package has none; PEER_TESTS=folder names the tests of a whole checkout"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = BY_DESIGN | (OF_GENERATION if HAS_GENERATION_TESTS else {})
    names = {f"{item.cls.__name__}.{item.name}": item for item in items if isinstance(item, pytest.Function) and item.cls}
    classes = {name.partition(".")[0] for name in names}
    if stale := [name for name in reasons.keys() - names.keys() if name.partition(".")[0] in classes]:
        raise pytest.UsageError(f"tests/peer/by_design.py names tests that transformers doesn't have: {', '.join(sorted(stale))}")
    for name, reason in reasons.items():
        if name in names:
            names[name].add_marker(pytest.mark.xfail(reason=reason, strict=True))
