"""`minimonkey chat`: each answer is a fresh call's with that history, from a pipe as from a terminal."""

import builtins
import io
import signal
import threading

import pytest
from PIL import Image

from minimonkey.inference import VisionLanguageModel, load


@pytest.fixture
def vlm(tiny_model, tiny_processor, monkeypatch):
    """The model that every chat loads."""
    vlm = VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 4), adaptive=None))
    monkeypatch.setattr("minimonkey.inference.load", lambda model, **settings: vlm)
    return vlm


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "the other.png"
    Image.radial_gradient("L").resize((50, 80)).save(path)
    return str(path)


class Keyboard(io.RawIOBase):
    """Bytes that are typed, a line at a time."""

    def __init__(self, *lines: bytes) -> None:
        self.typed = list(lines)

    def isatty(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        line = self.typed.pop(0) if self.typed else b""
        buffer[: len(line)] = line
        return len(line)


class Typed(io.StringIO):
    """Lines that somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def chat(run, monkeypatch):
    """Call `chat("page.png", lines=["What?"])` for the Result of a chat; `terminal=True`: the lines are typed."""

    def call(*words: str, lines: list[str], terminal: bool = False):
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr("sys.stdin", Typed(text) if terminal else io.StringIO(text))
        return run("chat", "--max-new-tokens", "6", *words)

    return call


def fresh(vlm, pictures, *questions) -> list[str]:
    """The answers of fresh calls, the history being those before."""
    history = []
    for turn, question in enumerate(questions):
        asked = question if turn else "<image>\n" * len(pictures) + question
        history.append((asked, vlm.ask(pictures, asked, history=history, max_new_tokens=6).text))
    return [answer for _, answer in history]


def test_questions_from_a_pipe(chat, vlm, picture):
    answers = fresh(vlm, [picture], "What is it?", "And why?", "Sure?")
    result = chat(picture, lines=["What is it?", "", "  And why?  ", "Sure?"])
    assert result == (0, "".join(f"{answer}\n" for answer in answers), "")
    assert len(set(answers)) > 1


def test_a_model_folder_and_its_settings(run, tiny_model, tiny_processor, picture, tmp_path, monkeypatch):
    tiny_model(pyramid=None).save_pretrained(tmp_path / "model")
    tiny_processor(detail=(1, 4), adaptive=None).save_pretrained(tmp_path / "model")
    settings = {"system": "Be brief.", "pyramid": {"detail": (2, 6), "adaptive": None}, "max_new_tokens": 5}
    expected = load(tmp_path / "model", device="cpu").ask(picture, "What?", **settings)
    monkeypatch.setattr("sys.stdin", io.StringIO("What?\n"))
    words = ("--system", "Be brief.", "--pyramid", "2-6", "--no-pyramid", "--max-new-tokens", "5", "--device", "cpu")
    result = run("chat", "-m", str(tmp_path / "model"), *words, picture)
    assert result == (0, expected.text + "\n", "")


def test_compression_asks_the_pictures(chat, vlm, picture):
    """As a fresh call whose queries are the picture's own, whatever was said before."""
    first = vlm.ask(picture, "<image>\nWhat?", compression={"selector": "mmr", "queries": "vision"}, max_new_tokens=6).text
    assert first != vlm.ask(picture, "<image>\nWhat?", max_new_tokens=6).text
    assert chat("--compression", "mmr", picture, lines=["What?"]) == (0, f"{first}\n", "")


@pytest.mark.parametrize(
    ("compression", "message"),
    [("fastv", "compression='fastv' asks the question"), ("most:0.5", "no selector 'most'")],
)
def test_compression_that_chat_cannot_do(chat, picture, monkeypatch, compression, message):
    monkeypatch.setattr("minimonkey.inference.load", None)
    result = chat("--compression", compression, picture, lines=["What?"])
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err


def test_pictures_are_encoded_once(chat, vlm, picture, other):
    answers = fresh(vlm, [picture, other], "What?", "Why?", "Where?")
    encoded = []
    vlm.model.model.vision_tower.register_forward_pre_hook(lambda module, arguments: encoded.append(1))
    assert chat(picture, other, lines=["What?", "Why?", "Where?"]).out == "".join(f"{answer}\n" for answer in answers)
    assert encoded == [1]
    assert vlm.cache_bytes == 0


def test_marks_of_the_first_question(chat, vlm, picture, other):
    asked = "Is <image> wider than <image>?"
    first = vlm.ask([picture, other], asked, max_new_tokens=6).text
    second = vlm.ask([picture, other], "Sure?", history=[(asked, first)], max_new_tokens=6).text
    assert chat(picture, other, lines=[asked, "Sure?"]).out == f"{first}\n{second}\n"


def test_commands(chat, vlm, picture, other):
    one, two = fresh(vlm, [picture], "What?", "Why?")
    _, instead = fresh(vlm, [picture], "What?", "Where?")
    (elsewhere,) = fresh(vlm, [other], "What?")
    lines = ["What?", "Why?", "/undo", "Where?", "/clear", "What?", f"/picture '{other}'", "What?", " /exit ", "Never asked."]
    result = chat(picture, lines=lines)
    assert result == (0, "".join(f"{answer}\n" for answer in (one, two, instead, one, elsewhere)), "")


def test_a_path_is_no_command(chat, vlm, picture):
    assert chat(picture, lines=["/usr/bin: what is that?"]).out == fresh(vlm, [picture], "/usr/bin: what is that?")[0] + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/quit now", "/quit is no command; there are /undo, /clear, /picture, /help and /exit"),
        ("/undo", "/undo: nothing was asked yet"),
        ("/picture", "/picture needs a file: /picture page.png"),
        ("/picture gone.png", "gone.png"),
        ("/picture 'page.png", "/picture 'page.png: No closing quotation"),
        ("<image> <image>", "2 <image> marks for 1 pictures"),
    ],
)
def test_an_error_ends_a_pipe_but_no_conversation(chat, vlm, picture, line, message):
    (answer,) = fresh(vlm, [picture], "What?")
    piped = chat(picture, lines=[line, "What?"])
    assert (piped.code, piped.out) == (2, "")
    assert piped.err.startswith("minimonkey: ")
    assert message in piped.err
    assert piped.err.count("\n") == 1
    typed = chat(picture, lines=[line, "What?"], terminal=True)
    assert (typed.code, typed.out) == (0, f"{answer}\n")
    assert piped.err in typed.err


def test_a_terminal_has_a_prompt_and_notes(chat, vlm, picture, monkeypatch):
    prompts, lines = [], iter(["What?", "/undo", "/help"])

    def typed(prompt: str) -> str:
        prompts.append(prompt)
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr(builtins, "input", typed)
    monkeypatch.setattr("minimonkey.cli.chat.sys.stdout.isatty", lambda: True)
    result = chat(picture, lines=[], terminal=True)
    assert prompts == ["> "] * 4
    assert result.out == fresh(vlm, [picture], "What?")[0] + "\n"
    head, left, *commands = result.err.splitlines()
    assert head.startswith(f"{picture}: 5 tiles, 20 image tokens. Ctrl-C stops an answer")
    assert left == "turns left: 0"
    assert [command.split()[0] for command in commands[:5]] == ["/undo", "/clear", "/picture", "/help", "/exit"]


def interrupting(vlm, step: int) -> None:
    """Press Ctrl-C while the model is at this step."""
    steps = []

    def press(module, arguments, settings):
        steps.append(settings["inputs_embeds"].shape[1])
        if len(steps) == step:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    vlm.model.model.language_model.register_forward_pre_hook(press, with_kwargs=True)


def test_an_interrupt_stops_an_answer(chat, vlm, picture, interruptible):
    (whole,) = fresh(vlm, [picture], "What?")
    interrupting(vlm, step=5)  # one for the picture, one for the question
    result = chat(picture, lines=["What?", "Why?"], terminal=True)
    said, second = result.out.split("\n")[:2]
    assert result.code == 0
    assert said != whole
    assert whole.startswith(said)
    history = [("<image>\nWhat?", said)] if said else []
    assert second == vlm.ask(picture, "Why?" if said else "<image>\nWhy?", history=history, max_new_tokens=6).text


def test_an_interrupt_while_a_picture_is_read_leaves_the_one_before(chat, vlm, picture, other, interruptible):
    one, two = fresh(vlm, [picture], "What?", "Why?")
    runs = []

    def press(module, arguments):
        runs.append(1)
        if len(runs) == 2:  # the first is the picture that chat begins with
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    vlm.model.model.vision_tower.register_forward_pre_hook(press)
    typed = chat(picture, lines=["What?", f"/picture '{other}'", "Why?"], terminal=True)
    assert (typed.code, typed.out) == (0, f"{one}\n{two}\n")
    assert f"\nstopped: /picture '{other}'\n" in typed.err
    del runs[:]
    piped = chat(picture, lines=["What?", f"/picture '{other}'", "Why?"])
    assert (piped.code, piped.out, piped.err) == (130, f"{one}\n", "")


def test_an_interrupt_ends_a_pipe(chat, vlm, picture, interruptible):
    interrupting(vlm, step=4)
    result = chat(picture, lines=["What?", "Why?"])
    assert (result.code, result.err) == (130, "")
    assert result.out.count("\n") == 1


def test_an_interrupt_at_the_prompt_is_a_note(chat, vlm, picture, monkeypatch):
    steps = iter([KeyboardInterrupt, EOFError])

    def typed(prompt: str) -> str:
        raise next(steps)

    monkeypatch.setattr(builtins, "input", typed)
    result = chat(picture, lines=[], terminal=True)
    assert (result.code, result.out) == (0, "")
    assert "(Ctrl-C stops an answer" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-"], "standard input (-) is where the questions come from: name the picture's file"),
        (["What is the total?"], "'What is the total?' is no picture: name pictures alone, questions follow, a line each"),
        (["gone.png"], "gone.png"),
    ],
)
def test_what_is_no_picture(chat, words, message, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("minimonkey.inference.load", refuse)
    result = chat(*words, lines=["What?"])
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_standard_input_that_is_closed_or_no_text(run, picture, vlm, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    result = run("chat", picture)
    assert (result.code, result.err) == (2, "minimonkey: standard input is closed: questions come from there, a line each\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"What \xff?\n"), encoding="utf-8"))
    result = run("chat", picture)
    assert (result.code, result.err) == (2, "minimonkey: standard input is no UTF-8 text (invalid start byte)\n")


def test_bytes_that_are_no_text_end_no_conversation(run, picture, vlm, monkeypatch):
    (answer,) = fresh(vlm, [picture], "What?")
    keyboard = io.BufferedReader(Keyboard(b"Wh\xff?\n", b"What?\n"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(keyboard, encoding="utf-8", errors="strict"))
    result = run("chat", "--max-new-tokens", "6", picture)
    assert (result.code, result.out) == (0, f"{answer}\n")
    assert "\nminimonkey: standard input is no UTF-8 text (invalid start byte)\n" in result.err
