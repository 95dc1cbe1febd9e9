"""README.md tells the truth: its file tree, the commands and options that it names, its links and its Python."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.surface import SURFACE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
TREE = next(code for language, code in BLOCKS if not language and "src/minimonkey/" in code)


def tree_entries() -> dict[str, str]:
    """Path -> clause for every line of the tree; a folder's path ends with a slash."""
    entries, folder = {}, ""
    for line in TREE.splitlines():
        name, _, clause = line.strip().partition(" ")
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        entries[name if not line.startswith(" ") else folder + name] = clause.strip()
    return entries


def tracked_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.splitlines() if (ROOT / name).exists()]


def test_the_tree_names_what_exists():
    assert not [path for path in tree_entries() if not (ROOT / path).exists()]


def test_the_tree_names_everything():
    """Each file stands in the tree itself, or in a folder whose content the tree doesn't list."""
    entries = tree_entries()
    leaves = tuple(p for p in entries if p.endswith("/") and not any(q != p and q.startswith(p) for q in entries))
    assert not [name for name in tracked_files() if name not in entries and not name.startswith(leaves)]


def test_the_tree_says_what_each_is():
    entries = tree_entries()
    parents = {path for path in entries if any(other != path and other.startswith(path) for other in entries)}
    assert not [path for path, clause in entries.items() if not clause and path not in parents]


def commands(program: str) -> list[list[str]]:
    """The words after each call of a program in the README's shell blocks."""
    found = []
    for line in SHELL:
        words = shlex.split(line, comments=True)
        found += [words[i + 1 :] for i, word in enumerate(words) if word == program]
    return found


def test_the_commands_exist():
    assert len(commands("minimonkey")) >= len(SURFACE) - 2, "every command has a line"
    for words in commands("minimonkey"):
        name = " ".join(words[:2]) if words[0] == "data" else words[0]
        assert name in SURFACE
        assert {word for word in words if word.startswith("--")} <= set(SURFACE[name])


def test_the_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[0] for words in commands("make")} | set(re.findall(r"`make ([\w-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_the_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("code", [code for code in PYTHON if "path/to/" not in code])
def test_the_python_runs(code, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "print" not in code or capsys.readouterr().out.strip()


def test_all_python_is_python():
    for code in PYTHON:
        compile(code, "README.md", "exec")
