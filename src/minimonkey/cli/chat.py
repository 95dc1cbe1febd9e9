"""`minimonkey chat`: question after question about pictures that are read once. Answers go to standard output, the rest to standard
error; in a terminal there are a prompt and notes, and errors don't end the conversation."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minimonkey.cli.ask import CompressionOption, names_a_picture
from minimonkey.cli.options import (
    DeviceOption,
    DtypeOption,
    EngineOption,
    MaxNewTokensOption,
    ModelOption,
    PlainOption,
    PyramidOption,
    QuantizeOption,
    SystemOption,
    pyramid_changes,
    read_picture,
)
from minimonkey.errors import MiniMonkeyError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from minimonkey.compression.spec import CompressionSpec
    from minimonkey.inference import OpenPicture, VisionLanguageModel

HINT = "Ctrl-C stops an answer, Ctrl-D leaves, /help lists what else there is"


def chat(
    sources: Annotated[list[str], typer.Argument(metavar="PICTURE...", hidden=True)],
    model: ModelOption = None,
    pyramid: PyramidOption = None,
    plain: PlainOption = False,
    compression: CompressionOption = None,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
) -> None:
    """Talk about pictures: ask one question after the other.

    The pictures are read once, then each question costs its own words alone; earlier questions and answers are part of it. What
    --compression keeps of the pictures is chosen before there is a question. A line is a question. Ctrl-C stops an answer, Ctrl-D
    or /exit leaves, /undo takes the last question back, /clear takes back all, /picture FILE goes on with another picture.

    \b
    Examples:
      minimonkey chat examples/receipt.png
      minimonkey chat --model mx262/MiniMonkey --pyramid 12-24/3-5 page-1.png page-2.png
      minimonkey chat --compression scm:0.5 examples/receipt.png
      printf 'What is the total?\\nIs that with tax?\\n' | minimonkey chat examples/receipt.png
    """
    if sys.stdin is None:
        raise UsageError("standard input is closed: questions come from there, a line each")
    settings: dict[str, Any] = {"system": system, "pyramid": pyramid_changes(pyramid, plain) or None}
    if compression is not None:
        settings["compression"] = question_free(compression)
    pictures = read_pictures(sources)

    from transformers.utils.logging import disable_progress_bar

    from minimonkey.inference import load

    disable_progress_bar()
    vlm = load(model, device=device, dtype=dtype, quantize=quantize, engine=engine)
    with Conversation(vlm, settings, max_new_tokens, terminal=sys.stdin.isatty()) as conversation:
        conversation.show(sources, pictures)
        conversation.run()


def read_pictures(sources: list[str]) -> list[Image]:
    """The pictures of these files. Raises UsageError for words that are none."""
    if "-" in sources:
        raise UsageError("standard input (-) is where the questions come from: name the picture's file")
    for source in sources:
        if not names_a_picture(source):
            raise UsageError(f"{source!r} is no picture: name pictures alone, questions follow, a line each")
    return [read_picture(source) for source in sources]


def question_free(text: str) -> CompressionSpec:
    """What `--compression` asks for, the pictures alone being asked. Raises UsageError for a selector that asks the question."""
    from minimonkey.compression.spec import CompressionSpec

    return CompressionSpec.parse(text).before_questions()


class Conversation:
    """Pictures, what was said about them so far, and the commands that change either."""

    opened: OpenPicture | None = None

    def __init__(self, vlm: VisionLanguageModel, settings: dict[str, Any], max_new_tokens: int | None, *, terminal: bool) -> None:
        """`settings` are those of `vlm.open`. `terminal`: somebody sits there, who wants a prompt and can try again."""
        self.vlm, self.settings, self.max_new_tokens, self.terminal = vlm, settings, max_new_tokens, terminal
        self.history: list[tuple[str, str]] = []
        self.commands: dict[str, tuple[str, Callable[[list[str]], None]]] = {
            "/undo": ("take the last question back", self.undo),
            "/clear": ("take all questions back", self.clear),
            "/picture": ("go on with other pictures, from the start: /picture FILE...", self.open_pictures),
            "/help": ("this list", self.help),
        }
        """What each does, and who does it, given the words that follow."""

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        if self.opened is not None:
            self.opened.close()

    def show(self, sources: list[str], pictures: list[Image]) -> None:
        """Have the model read pictures, in place of those before and what was said about them."""
        opened = self.vlm.open(pictures, **self.settings)
        if self.opened is not None:
            self.opened.close()
        self.opened, self.history = opened, []
        tiles = sum(pyramid.tile_count for pyramid in opened.pyramids)
        self.note(f"{', '.join(sources)}: {tiles} tiles, {tiles * self.vlm.processor.image_seq_length} image tokens. {HINT}.")

    def run(self) -> None:
        """Answer lines until there are no more. An error ends it, unless somebody sits there."""
        for line in self.read_lines():
            words = line.split()
            if not words:
                continue
            if words == ["/exit"]:
                return
            try:
                if words[0].startswith("/") and words[0][1:].isalpha():
                    self.run_command(line.strip())
                else:
                    self.answer(line.strip())
            except MiniMonkeyError as error:
                if not self.terminal:
                    raise
                self.note(f"minimonkey: {' '.join(str(error).split())}")
            except KeyboardInterrupt:  # answers see to it themselves; reading another picture may take long too
                if not self.terminal:
                    raise
                self.note(f"\nstopped: {line.strip()}")

    def read_lines(self) -> Iterator[str]:
        """What is typed, or what comes in."""
        if not self.terminal:
            try:
                yield from sys.stdin
            except UnicodeDecodeError as error:
                raise UsageError(_no_text(error)) from error
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  lines can be edited and called back with it; Windows has none
        while True:
            try:
                yield input("> " if sys.stdout.isatty() else "")
            except EOFError:
                self.note("")
                return
            except KeyboardInterrupt:
                self.note(f"\n({HINT})")
            except UnicodeDecodeError as error:
                self.note(f"minimonkey: {_no_text(error)}")

    def answer(self, question: str) -> None:
        """Print the answer as it comes; one that is stopped counts as far as it was said."""
        from minimonkey.processing.processor import IMAGE_MARK

        assert self.opened is not None, "questions come after the first pictures"
        if not self.history and IMAGE_MARK not in question:  # marked, the pictures stay where they are from turn to turn
            question = f"{IMAGE_MARK}\n" * len(self.opened.pyramids) + question
        stream = self.opened.stream(question, history=self.history, max_new_tokens=self.max_new_tokens)
        said, stopped = "", False
        try:
            for piece in stream:
                said += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            stopped = True
        finally:
            stream.close()
            print(flush=True)
        if said or not stopped:
            self.history.append((question, said))

    def run_command(self, line: str) -> None:
        """Run a command with its arguments. Raises UsageError for one that doesn't exist."""
        name = line.split()[0]
        if name not in self.commands:
            raise UsageError(f"{name} is no command; there are {', '.join(self.commands)} and /exit")
        try:
            arguments = shlex.split(line)[1:]
        except ValueError as error:
            raise UsageError(f"{line}: {error}") from error
        self.commands[name][1](arguments)

    def undo(self, _: list[str]) -> None:
        if not self.history:
            raise UsageError("/undo: nothing was asked yet")
        self.history.pop()
        self.note(f"turns left: {len(self.history)}")

    def clear(self, _: list[str]) -> None:
        self.history = []
        self.note("turns left: 0")

    def open_pictures(self, sources: list[str]) -> None:
        if not sources:
            raise UsageError("/picture needs a file: /picture page.png")
        self.show(sources, read_pictures(sources))

    def help(self, _: list[str]) -> None:
        what = {name: what for name, (what, _) in self.commands.items()} | {"/exit": "leave"}
        self.note("\n".join(f"{name:9} {does}" for name, does in what.items()))

    def note(self, text: str) -> None:
        """Tell whoever sits there."""
        if self.terminal:
            print(text, file=sys.stderr)


def _no_text(error: UnicodeDecodeError) -> str:
    return f"standard input is no UTF-8 text ({error.reason})"
