"""Runs the command line in this process, as the installed script does."""

from typing import NamedTuple

import pytest
from PIL import Image

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


@pytest.fixture
def folder(tiny_model, tiny_processor, tmp_path):
    """A model folder on disk: tiny, random, with the published budgets."""
    path = tmp_path / "model"
    tiny_model(pyramid=None).save_pretrained(path)
    tiny_processor(detail=(1, 4), adaptive=None).save_pretrained(path)
    return str(path)


@pytest.fixture
def picture(tmp_path):
    """The path of a picture of 90 x 60 px."""
    path = tmp_path / "page.png"
    Image.linear_gradient("L").resize((90, 60)).save(path)
    return str(path)
