"""Runs the command line in this process, as the installed script does."""

from typing import NamedTuple

import pytest

from minimonkey.cli.main import main


class Result(NamedTuple):
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Call `run("ask", "page.png", "What?")` for the Result of a command."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()  # what fixtures said before
        with pytest.raises(SystemExit) as leaving:
            main(list(arguments))
        return Result(leaving.value.code or 0, *capsys.readouterr())

    return call
