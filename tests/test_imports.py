"""What loading a module may drag in, and code that must not appear anywhere."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_importing_the_package_is_light():
    loaded = modules_after("import minimonkey")
    assert "minimonkey" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "PIL", "typer"}


def test_the_command_line_starts_without_torch():
    loaded = modules_after("import minimonkey.cli.main")
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "PIL"}


@pytest.mark.parametrize("module", ["minimonkey.pyramid", "minimonkey.errors", "minimonkey.evaluation.metrics"])
def test_stands_on_the_standard_library(module):
    third_party = modules_after(f"import {module}") - set(sys.stdlib_module_names) - modules_after("pass")
    assert third_party == {"minimonkey"}


BANNED = {
    "devices are chosen by inference.load alone": r"\.cuda\(",
    "remote code is never run": r"trust_remote_code\s*=\s*True",
    "pickle runs code": r"\bpickle\.loads?\(|^\s*(?:import|from) pickle\b|weights_only\s*=\s*False|allow_pickle\s*=\s*True",
    "torchvision is no dependency": r"^\s*(?:import|from) torchvision\b",
    "an error is caught by its name": r"except Exception\b|except:",
}


def offences(source: str, pattern: str) -> list[int]:
    """Numbers of the lines that match, from 1."""
    return [number for number, line in enumerate(source.splitlines(), 1) if re.search(pattern, line)]


@pytest.mark.parametrize("reason", BANNED)
def test_banned_code(reason):
    found = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in offences(path.read_text(), BANNED[reason])]
    assert not found, f"{reason}: {', '.join(found)}"


def test_the_ban_sees_what_it_bans():
    code = "model.cuda()\nload(trust_remote_code = True)\nimport pickle\nfrom torchvision import io\nexcept Exception as error:"
    assert [offences(code, pattern) for pattern in BANNED.values()] == [[1], [2], [3], [4], [5]]


SEAMS = {
    "transformers",
    "transformers.activations",
    "transformers.cache_utils",
    "transformers.conversion_mapping",
    "transformers.generation",
    "transformers.image_processing_base",
    "transformers.image_transforms",
    "transformers.image_utils",
    "transformers.integrations.sdpa_attention",
    "transformers.masking_utils",
    "transformers.modeling_outputs",
    "transformers.modeling_rope_utils",
    "transformers.models.got_ocr2.image_processing_pil_got_ocr2",
    "transformers.models.internvl.modeling_internvl",
    "transformers.models.phi3.modeling_phi3",
    "transformers.processing_utils",
    "transformers.tokenization_utils_base",
    "transformers.utils",
    "transformers.utils.logging",
}
"""The modules of transformers that we import, which may move. A new one is a decision, and a row in CONTRIBUTING.md."""


def modules_of(source: str, package: str) -> set[str]:
    """The modules of a package that a source imports, wherever in it the import stands."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name for name in names if name.partition(".")[0] == package}


def test_the_modules_of_transformers_that_we_stand_on():
    found = {module for path in SOURCES for module in modules_of(path.read_text(), "transformers")}
    assert found == SEAMS
    rows = (ROOT / "CONTRIBUTING.md").read_text()
    assert {module for module in SEAMS if f"| `{module}` |" not in rows} == set(), "each is listed with its reason"


def test_imports_are_seen_wherever_they_stand():
    code = "import a.b\nfrom a import c\nfrom . import a\nif True:\n    def f():\n        from a.d.e import g\n        import ab"
    assert modules_of(code, "a") == {"a.b", "a", "a.d.e"}
