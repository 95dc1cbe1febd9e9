"""The command line as a whole: its surface, its exit codes and what becomes of errors."""

import importlib.metadata
import subprocess
import sys

import pytest
import typer

from minimonkey.cli import main as command_line
from minimonkey.errors import PictureError
from tests.cli.surface import SURFACE

COMMANDS = [name for name in SURFACE if name not in ("", "data")]


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command and group of the command line by the words that call it."""
    found, waiting = {}, {"": typer.main.get_command(command_line.app)}
    while waiting:
        name, command = waiting.popitem()
        found[name] = command
        waiting |= {f"{name} {child}".strip(): sub for child, sub in getattr(command, "commands", {}).items()}
    return found


def words(command: typer.core.TyperCommand) -> list[str]:
    """The options and arguments of a command as users write them."""
    root = typer.main.get_command(command_line.app).make_context("minimonkey", [], resilient_parsing=True)
    parameters = command.get_params(command.make_context("command", [], resilient_parsing=True, parent=root))
    return sorted(word for p in parameters for word in ([p.metavar] if p.param_type_name == "argument" else p.opts))


def test_the_surface_is_frozen():
    assert {name: words(command) for name, command in commands().items()} == SURFACE


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(run, name):
    result = run(*name.split(), "--help")
    assert result.code == 0
    assert "Example" in result.out
    assert f"  minimonkey {name} " in f"{result.out} ".replace("\n", " \n")
    assert "\b" not in result.out


@pytest.mark.parametrize("name", [name for name in SURFACE if name not in ("bench", "doctor", "data packages")])
def test_no_arguments_show_the_help(run, name):
    result = run(*name.split())
    assert result.code == 2
    assert result.err.startswith(f"Usage: minimonkey {name}".strip())


def test_version(run):
    assert run("--version").out == f"minimonkey {importlib.metadata.version('minimonkey')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aks", "a.png", "What?"], "'aks'"),
        (["ask", "--pyramids", "4-12", "a.png", "What?"], "; minimonkey ask --help shows what it takes"),
        (["ask", "--max-new-tokens", "0", "a.png", "What?"], "--max-new-tokens"),
        (["ask", "--max-new-tokens", "abc", "a.png", "What?"], "--max-new-tokens"),
        (["inspect", "a.png", "b.png"], "b.png"),
        (["convert", "a"], "DST"),
        (["data", "synthetic", "--count", "3"], "--contact-sheet"),
        (["data", "synthetic", "--contact-sheet", "a.png", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_words_are_one_line(run, arguments, message):
    result = run(*arguments)
    assert result.code == 2
    assert not result.out
    assert result.err.startswith("minimonkey: ")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_our_errors_are_one_line(run, monkeypatch):
    def fail():
        raise PictureError("page.png: 3 pixels,\n  expected\t4")

    monkeypatch.setattr(command_line.app.registered_commands[-1], "callback", fail)  # doctor
    result = run("doctor")
    assert (result.code, result.out, result.err) == (2, "", "minimonkey: page.png: 3 pixels, expected 4\n")


def test_a_missing_extra_names_the_pip_command(run, monkeypatch):
    def fail():
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.setattr(command_line.app.registered_commands[-1], "callback", fail)
    result = run("doctor")
    assert result.code == 2
    assert result.err == "minimonkey: this command needs yaml: pip install 'minimonkey[train]'\n"


def test_our_mistakes_keep_their_traceback(run, monkeypatch):
    def fail():
        raise ModuleNotFoundError("No module named 'minimonkey.gone'", name="minimonkey.gone")

    monkeypatch.setattr(command_line.app.registered_commands[-1], "callback", fail)
    with pytest.raises(ModuleNotFoundError, match="gone"):
        run("doctor")


def test_an_interrupt_is_quiet(run, monkeypatch):
    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.app.registered_commands[-1], "callback", fail)
    result = run("doctor")
    assert (result.code, result.out, result.err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error_message():
    """`minimonkey ... | head -c 0`: no traceback, whatever the exit code."""
    script = "import sys; from minimonkey.cli.main import main; sys.stdout.reconfigure(line_buffering=True); main(['--help'])"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
