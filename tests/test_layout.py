"""The shape of the house: sizes of files and functions, names, and that each room opens with what it is for."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "minimonkey"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400, "one noun per file: this one may hold two"
    assert path.stem not in NAMES_THAT_SAY_NOTHING
    assert not path.stem.startswith("legacy_")
    assert len(path.relative_to(PACKAGE).parts) <= 3, "at most two folders deep"
    module = ast.parse(source)
    assert not source.strip() or ast.get_docstring(module), "a file opens with what it answers"


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_are_short(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f"{function.name}: {body_lines(function)} lines" for function in functions if body_lines(function) > 50}
    assert not long


def test_there_is_no_empty_room():
    """A folder of the package holds code or data, not only an __init__.py."""
    rooms = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    empty = [name_of(room) for room in rooms if [p for p in room.iterdir() if p.name != "__pycache__"] == [room / "__init__.py"]]
    assert not empty


def test_the_page_for_agents_is_one_page():
    assert len((PACKAGE.parents[1] / "AGENTS.md").read_text().splitlines()) <= 100


def test_the_makefile_names_no_package_index():
    """pip's own settings do that, and whoever calls make."""
    assert "://" not in (PACKAGE.parents[1] / "Makefile").read_text()


GUIDE = (PACKAGE.parents[1] / "docs" / "reading-guide.md").read_text()


def test_every_file_of_the_core_stands_in_the_reading_guide():
    rooms = ("pyramid", "processing", "compression", "language_model", "inference")
    files = [path for room in rooms for path in (PACKAGE / room).glob("*.py") if path.name != "__init__.py"]
    assert [name_of(path) for path in files if f"`{path.name}`" not in GUIDE] == []


def test_each_hop_of_the_reading_guide_is_there():
    """The diagrams' lines: a file, and the functions and classes that it defines."""
    hops = re.findall(r"^ *([a-z_/]+\.py) {2,}((?:[A-Za-z_.]+, )*[A-Za-z_.]+)", GUIDE, re.M)
    assert len(hops) > 20
    for file, names in hops:
        defined = set()
        for node in ast.parse((PACKAGE / file).read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined |= {node.name} | {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        assert set(names.split(", ")) <= defined, (file, names)
