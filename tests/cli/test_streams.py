"""Closed and full standard streams: nothing but results on standard output, and one line where it takes no more."""

import errno
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minimonkey.cli.main import main
from minimonkey.cli.streams import standard_streams
from tests.cli.surface import SURFACE

FULL = "minimonkey: can't write to standard output: No space left on device\n"


class Full(io.StringIO):
    """Takes nothing once it is flushed, or at once; like /dev/full or a closed pipe."""

    def __init__(self, number: int, at_once: bool) -> None:
        super().__init__()
        self.number, self.at_once = number, at_once

    def write(self, text: str) -> int:
        if self.at_once:
            self.fail()
        return super().write(text)

    def flush(self) -> None:
        if self.getvalue():
            self.fail()

    def fail(self) -> None:
        raise OSError(self.number, errno.errorcode[self.number] if self.number != errno.ENOSPC else "No space left on device")


@pytest.fixture(params=[True, False], ids=["at once", "in the end"])
def run_into(request, monkeypatch, capsys):
    """Call `run_into(errno.ENOSPC, "inspect", "page.png")` for the exit code and what stands on standard error."""

    def call(number: int, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as leaving:
            patch.setattr("sys.stdout", Full(number, request.param))
            main(list(words))
        return leaving.value.code or 0, capsys.readouterr().err

    return call


@pytest.mark.parametrize("command", [*SURFACE, "--version"])
def test_help_into_a_full_disk(run_into, command):
    words = [command] if command.startswith("-") else [*command.split(), "--help"]
    assert run_into(errno.ENOSPC, *words) == (1, FULL)


def test_every_command_into_a_full_disk(run_into, folder, picture, tmp_path, monkeypatch):
    """`bench` and `data synthetic`, which take long, print as the others do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimonkey.training.nano.run.train", lambda *words: Path("runs/it/checkpoint-2"))
    ask = ("ask", "-m", folder, "--max-new-tokens", "2", "-q", picture, "What?")
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    chat = ("chat", "-m", folder, "--max-new-tokens", "2", picture)
    convert = ("convert", folder, str(tmp_path / "native"))
    others = (("inspect", picture, "-m", folder), ("doctor",), ("train", "recipe.yaml"))
    for words in (ask, (*ask, "--json"), chat, convert, *others):
        code, said = run_into(errno.ENOSPC, *words)
        assert (code, said.endswith(FULL), said.count("minimonkey:")) == (1, True, 1), words


def test_a_reader_that_left_is_told_nothing(run_into, picture, folder):
    assert run_into(errno.EPIPE, "inspect", picture, "-m", folder, "--out", f"{picture}.png") == (1, "")


def test_other_files_that_fail_are_not_standard_output(run, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minimonkey.cli.doctor.embedded_model", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        run("doctor")
    assert type(caught.value) is OSError


def test_usage_errors_keep_their_line_and_their_code(run_into):
    code, said = run_into(errno.ENOSPC, "inspect", "no-such.png")
    assert (code, said.count("\n")) == (2, 1)
    assert "no-such.png" in said


@pytest.mark.parametrize("words", [["inspect", "no-such.png"], ["ask"], ["ask", "--no-such", "a.png", "What?"]])
def test_without_standard_error_errors_are_printed_nowhere(run, monkeypatch, words):
    monkeypatch.setattr("sys.stderr", None)
    assert run(*words)[:2] == (2, "")
    assert sys.stderr is None, "as before"


def test_without_standard_error_an_answer_stands_alone(run, folder, tmp_path, monkeypatch):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    words = ("ask", "-m", folder, "--max-new-tokens", "2", str(tmp_path / "two.gif"), "What?")
    with_notes = run(*words)
    assert "two.gif" in with_notes.err
    monkeypatch.setattr("sys.stderr", None)
    assert run(*words).out == with_notes.out


@pytest.mark.parametrize(
    ("redirections", "code", "said"),
    [(">/dev/full", 1, FULL), (">&-", 0, ""), (">&- 2>&-", 0, ""), ("| head -c 0", 0, "")],
)
def test_from_the_shell(redirections, code, said):
    command = f"{sys.executable} -m minimonkey.cli.main --version {redirections}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", said)


def test_errors_from_the_shell_without_standard_error(tmp_path):
    command = f"{sys.executable} -m minimonkey.cli.main inspect no-such.png 2>&- | cat"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path).stdout == ""


def test_streams_and_loggers_are_as_before(run, monkeypatch):
    torchao = logging.getLogger("torchao")
    monkeypatch.setattr(torchao, "level", logging.INFO)
    before = sys.stdout, sys.stderr
    assert run("--version").code == 0
    assert (sys.stdout, sys.stderr) == before
    assert torchao.level == logging.INFO
    with standard_streams():
        assert sys.stdout.encoding == before[0].encoding


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_standard_error_that_is_full_changes_nothing_else(run, folder, picture, monkeypatch, number, at_once):
    ask = ("ask", "-m", folder, "--max-new-tokens", "2", picture, "What?")
    answer = run(*ask)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Full(number, at_once))
        assert run(*ask)[:2] == (0, answer.out)
        assert run("inspect", "no-such.png")[0] == 2


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2> >(exec true)"])
def test_errors_from_the_shell_into_a_full_standard_error(tmp_path, redirections):
    command = f"{sys.executable} -m minimonkey.cli.main inspect no-such.png {redirections}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
