"""The chat templates: the prompts of the published conversation.py."""

import json
from pathlib import Path

import pytest
from jinja2 import TemplateError

import minimonkey.processing.processor

TEMPLATES = Path(minimonkey.processing.processor.__file__).parent / "templates"
RECORDS = json.loads((Path(__file__).parents[1] / "golden" / "templates.json").read_text(encoding="utf-8"))
NAMES = sorted({record["template"] for record in RECORDS})
ENDS = {
    "Hermes-2": "<|im_end|>",
    "internlm2-chat": "<|im_end|>",
    "internvl2_5": "<|im_end|>\n",
    "internvl_zh": "</s>",
    "phi3-chat": "<|end|>",
}


@pytest.fixture
def processor_of(tiny_processor):
    def make(name: str):
        processor = tiny_processor()
        processor.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        return processor

    return make


def of(role: str, content) -> dict:
    return {"role": role, "content": content}


def test_every_published_template_is_here():
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == {*NAMES, "chatml", "monkey"}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record['template']}-{len(record['prompt'])}")
def test_prompts_are_the_published_ones(processor_of, record):
    processor = processor_of(record["template"])
    *history, (question, answer) = record["turns"]
    if answer is None:
        assert processor.prompt(question, system=record["system_message"], history=history) == record["prompt"]
    else:
        assert not history and record["system_message"] is None
        assert processor.apply_chat_template([of("user", question), of("assistant", answer)]) == record["prompt"]


@pytest.mark.parametrize("name", NAMES)
def test_system_messages(processor_of, name):
    processor = processor_of(name)
    (own,) = {record["default_system_message"] for record in RECORDS if record["template"] == name}
    given, default, none = (processor.prompt("Hello", system=system) for system in ("Be brief.", None, ""))
    assert default == given.replace("Be brief.", own)
    assert none == given[given.index("Hello") - len(opening(name)) :]
    assert own not in none or not own


def opening(name: str) -> str:
    """What stands before a question that nothing else stands before."""
    return {"internvl_zh": " <human>: ", "phi3-chat": "<|user|>\n"}.get(name, "<|im_start|>user\n")


@pytest.mark.parametrize("name", NAMES)
def test_what_ends_an_answer(processor_of, name):
    processor = processor_of(name)
    assert processor._turn_end == ENDS[name]
    one = processor.prompt("q", history=[("a", "b!")])
    assert one.startswith(processor.prompt("a") + (" " if name == "internvl_zh" else "") + "b!" + ENDS[name])


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_without_words_is_open_as_published(processor_of, name):
    """conversation.py writes the role alone, and no separator, for whatever is empty."""
    processor = processor_of(name)
    messages = [of("user", "Hello"), of("assistant", "")]
    assert processor.apply_chat_template(messages) == processor.prompt("Hello")


@pytest.mark.parametrize("name", NAMES)
def test_content_in_blocks(processor_of, name):
    processor = processor_of(name)
    image, text = {"type": "image"}, {"type": "text", "text": "Which?"}
    messages = [of("system", [{"type": "text", "text": "Be brief."}]), of("user", [image, image, text])]
    expected = processor.prompt("Which?", pictures=2, system="Be brief.")
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
    with pytest.raises(TemplateError, match="content block of type audio: expected image or text"):
        processor.apply_chat_template([of("user", [{"type": "audio"}])])


def test_internvl_zh_knows_two_roles(processor_of):
    processor = processor_of("internvl_zh")
    for messages in ([of("tool", "x")], [of("user", "x"), of("system", "y")]):
        with pytest.raises(TemplateError, match="expected user or assistant"):
            processor.apply_chat_template(messages)
