"""`minimonkey COMMAND ...`: the list of commands, and what becomes of errors. Knows nothing of models or pictures.

Exit codes: 0 success, 2 bad usage or input (one line on standard error), 130 interrupted, 1 anything else, a standard output that
can't be written among it (one line, too).
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from minimonkey.cli import ask, batch, bench, chat, convert, data, doctor, extract, inspect, train
from minimonkey.cli.streams import standard_streams
from minimonkey.errors import MiniMonkeyError, MissingExtraError, UsageError

WRONG_WORDS: Any = typer.BadParameter.__mro__[1]
"""What typer raises for options and arguments that it doesn't know, or that are none: its UsageError."""
EXTRA_OF_MODULE = {"accelerate": "train", "yaml": "train"}


class Command(TyperCommand):
    """A command whose usage line shows its arguments as we write them, without the braces that typer puts round them."""

    def collect_usage_pieces(self, ctx) -> list[str]:
        return ["[OPTIONS]", *(param.metavar or "" for param in self.params if param.param_type_name == "argument")]


app = typer.Typer(
    help="Small multimodal language models that read fine print.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("ask", cls=Command, no_args_is_help=True)(ask.ask)
app.command("chat", cls=Command, no_args_is_help=True)(chat.chat)
app.command("extract", cls=Command, no_args_is_help=True)(extract.extract)
app.command("batch", cls=Command, no_args_is_help=True)(batch.batch)
app.command("inspect", cls=Command, no_args_is_help=True)(inspect.inspect)
app.command("train", cls=Command, no_args_is_help=True)(train.train)
app.command("convert", cls=Command, no_args_is_help=True)(convert.convert)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"minimonkey {importlib.metadata.version('minimonkey')}")
        raise typer.Exit


@app.callback(epilog='Start with: minimonkey ask examples/receipt.png "What is the total?"')
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Small multimodal language models that read fine print."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code. `arguments` stand for sys.argv[1:]."""
    with standard_streams(), _errors_alone("torchao", "torch.utils._pytree"), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        _run(arguments)


def _run(arguments: list[str] | None) -> NoReturn:
    try:
        raise SystemExit(app(args=arguments, prog_name="minimonkey", standalone_mode=False))
    except WRONG_WORDS as error:
        _leave_with_help(error)
    except MiniMonkeyError as error:
        _leave(error)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF_MODULE:
            raise
        _leave(MissingExtraError(error.name, EXTRA_OF_MODULE[error.name], "this command"))


@contextmanager
def _errors_alone(*loggers: str) -> Iterator[None]:
    """Only errors of these: torchao, where it is installed, has much to say about GPUs that aren't there."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One line on standard error, without the place in our code."""
    print("minimonkey:", " ".join(str(message).split()), file=sys.stderr)


def _leave_with_help(error: Any) -> NoReturn:
    """One line that names the page to read, or that page itself where no words were given at all."""
    message, page = error.format_message(), error.ctx.command_path
    if error.ctx.get_help() == message:
        print(message, file=sys.stderr)
        raise SystemExit(2)
    _leave(UsageError(f"{message.rstrip('.')}; {page} --help shows what it takes"))


def _leave(error: MiniMonkeyError) -> NoReturn:
    """One line on standard error, whatever the message holds, and exit code 2."""
    print("minimonkey:", " ".join(str(error).split()), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
