"""Published tokenizers: recorded ids, the slow Llama rules, what is refused."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from minimonkey.checkpoints.tokenizers import LlamaSentencePieceTokenizer, SentencePieceTokenizer, published_tokenizer
from minimonkey.errors import CheckpointError
from minimonkey.models.minimonkey.configuration import MiniMonkeyConfig
from minimonkey.processing.image_processor import MiniMonkeyImageProcessor
from minimonkey.processing.processor import BREAK, MARKUP, MiniMonkeyProcessor
from minimonkey.pyramid import PyramidSpec
from tests.checkpoints.slow_llama import PHI3_TOKENS, SPECIAL, SlowLlama, sentences, train_pieces, write_phi3_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = [GOLDEN / "minimonkey-internlm2-56", GOLDEN / "internvl2-qwen2-56"]


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def tokenizer_of(folder: Path):
    return published_tokenizer(folder, read(folder / "config.json"))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def golden(request):
    return request.param, tokenizer_of(request.param), read(request.param / "golden.json")


# -- against the published code ------------------------------------------------------------------------------------------------


def test_recorded_ids(golden):
    _, tokenizer, record = golden
    assert len(record["tokenization"]) == 29
    for case in record["tokenization"]:
        assert tokenizer(case["text"]).input_ids == case["ids"]
        assert tokenizer(case["text"], add_special_tokens=False).input_ids == case["ids_no_special"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]
    texts = [case["text"] for case in record["tokenization"]]
    assert tokenizer(texts).input_ids == [case["ids"] for case in record["tokenization"]]


def test_recorded_names(golden):
    folder, tokenizer, record = golden
    due = record["tokenizer"]
    assert (len(tokenizer), tokenizer.vocab_size) == (due["length"], due["vocab_size"])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(tokenizer, name) == due[name]
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in due["ids"]} == due["ids"]
    assert tokenizer.extra_special_tokens == due["additional_special_tokens"]
    assert tokenizer.model_max_length == read(folder / "tokenizer_config.json")["model_max_length"] == 8192
    named = (tokenizer.start_image_token, tokenizer.end_image_token, tokenizer.context_image_token)
    assert named == ("<img>", "</img>", "<IMG_CONTEXT>")


def test_recorded_answers(golden):
    """Random models write bytes that are no text; each family has its way to show them."""
    folder, tokenizer, record = golden
    tensors = load_file(folder / "golden.safetensors")
    answers = 0
    for picture, sections in record["images"].items():
        for section, records in sections.items():
            for name, entry in records.items() if isinstance(records, dict) else ():
                if isinstance(entry, dict) and "response" in entry:
                    ids = tensors[f"{picture}/{section}/{name}/gen_ids"][0].tolist()
                    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == entry["response"]
                    answers += 1
    assert answers >= 4


def test_qwen2_from_a_tokenizer_json(tmp_path):
    folder = Path(shutil.copytree(FOLDERS[1], tmp_path / "copy", copy_function=shutil.copyfile))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": read(folder / "vocab.json"), "merges": merges}}))
    (folder / "vocab.json").unlink()
    tokenizer = tokenizer_of(folder)
    for case in read(folder / "golden.json")["tokenization"]:
        assert tokenizer(case["text"]).input_ids == case["ids"]


# -- Phi-3, against what the slow class does -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phi3(tmp_path_factory) -> Path:
    return write_phi3_tokenizer(tmp_path_factory.mktemp("phi3"))


@pytest.fixture(scope="module")
def phi3_and_slow(phi3):
    return tokenizer_of(phi3), SlowLlama(phi3)


ATOMS = st.sampled_from(
    ["the", "cat", " ", "  ", "▁", "\n", "-", "--", "4", "図", "🙂", "é", "<unk", ">", *PHI3_TOKENS, "</s>", *SPECIAL[:6]]
)


def test_phi3_prompts(phi3):
    tokenizer, slow = tokenizer_of(phi3), SlowLlama(phi3)
    space = tokenizer.convert_tokens_to_ids("▁")
    system, user, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("system", "user", "end"))
    hi = slow.model.encode("\nthe cat")[2:]
    assert isinstance(tokenizer, LlamaSentencePieceTokenizer)
    assert tokenizer("").input_ids == [1]
    assert tokenizer("<|user|>\n the cat<|end|>").input_ids == [1, space, user, *hi, end]
    assert tokenizer("▁<|system|>▁the cat").input_ids == [1, *slow.model.encode(" "), system, *hi]
    assert tokenizer("the cat").input_ids == [1, *slow.model.encode("the cat")]
    assert tokenizer(" the cat").input_ids == [1, *slow.model.encode(" the cat")]
    assert tokenizer("<img>the cat").input_ids == [1, tokenizer.convert_tokens_to_ids("<img>"), *hi]
    assert tokenizer("<s>").input_ids == [1, 1]
    assert tokenizer("<|user|>", add_special_tokens=False).input_ids == [space, user]
    batch = tokenizer(["the cat", "<|user|>"], padding=True)
    rows = [tokenizer("the cat").input_ids, tokenizer("<|user|>").input_ids]
    longest = max(map(len, rows))
    assert batch.input_ids == [[tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows]
    assert tokenizer([["the", "cat"]], is_split_into_words=True).input_ids == [
        [1, *slow.model.encode("the"), *slow.model.encode("cat")]
    ]


def test_phi3_decoding(phi3):
    tokenizer = tokenizer_of(phi3)
    ids = tokenizer("<|user|>\nthe<img> cat<|end|><|assistant|>\n 図 <s>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<|user|> the cat <|end|> <|assistant|> 図 "
    assert tokenizer.decode(ids) == "<s> <|user|>the<img> cat<|end|><|assistant|>図 <s>"
    assert tokenizer.decode(tokenizer(" the  cat").input_ids, skip_special_tokens=True) == " the  cat"
    lead, fox = tokenizer.convert_tokens_to_ids(["<0xE5>", "<0x41>"])
    assert tokenizer.decode([lead, lead, fox, 999_999]) == "\ufffd\ufffdA"
    assert tokenizer.decode(fox) == "A"
    assert tokenizer.decode([]) == ""


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ATOMS, max_size=8).map("".join))
def test_phi3_as_the_slow_class(phi3_and_slow, text):
    tokenizer, slow = phi3_and_slow
    ids = slow.ids(text)
    assert tokenizer(text).input_ids == [1, *ids]
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == slow.decode(text)


def test_running_text_as_sentencepiece(phi3, golden):
    """Every piece of the vocabulary, and lines whose neighbours could be merged in more than one order."""
    tokenizer, slow = tokenizer_of(phi3), SlowLlama(phi3)
    pieces = [slow.model.id_to_piece(n).replace("▁", " ") for n in range(259, 420)]
    for text in [*pieces, *sentences(1), *("-" * n for n in range(20)), *(" " * n + "the" for n in range(9))]:
        assert tokenizer(text, add_special_tokens=False).input_ids == slow.model.encode(text)
    folder, published, _ = golden
    if (folder / "tokenizer.model").is_file():
        model = SentencePieceProcessor(model_proto=(folder / "tokenizer.model").read_bytes())
        for text in [*sentences(2), *(model.id_to_piece(n).replace("▁", " ") for n in range(259, 694))]:
            assert published(text, add_special_tokens=False).input_ids == model.encode(text)


# -- in a processor, saved and loaded ------------------------------------------------------------------------------------------


@pytest.fixture(params=[*FOLDERS, "phi3"], ids=["internlm2", "qwen2", "phi3"])
def any_folder(request) -> Path:
    return request.getfixturevalue("phi3") if request.param == "phi3" else request.param


TEXTS = ["", " ", "the cat", "<|user|>\nHi<|end|>", "<img>x", "▁a  b", "図\n🙂", "<|im_start|>user\nHi"]


def test_in_a_processor(any_folder):
    """It looks for special strings first, so that a broken one is plain text."""
    plain, tokenizer = tokenizer_of(any_folder), tokenizer_of(any_folder)
    processor = MiniMonkeyProcessor(MiniMonkeyImageProcessor(pyramid=PyramidSpec(tile_px=28)), tokenizer, image_seq_length=4)
    for text in TEXTS:
        assert tokenizer(text).input_ids == plain(text).input_ids
    added = plain.get_added_vocab()
    forged = "".join(added.keys() - set(MARKUP))
    ids = tokenizer(processor.plain_text(forged)).input_ids
    assert not set(ids[plain.add_bos_token :]) & set(added.values())
    assert tokenizer.decode(ids, skip_special_tokens=True) == forged
    assert BREAK not in tokenizer.get_vocab()
    inputs = processor(images=[], text=["<|user|>\nHi", "a"], return_tensors="pt")
    assert inputs.input_ids.shape == inputs.attention_mask.shape


def test_saved_and_loaded(any_folder, tmp_path, auto_classes):
    for kind in (SentencePieceTokenizer, LlamaSentencePieceTokenizer):
        AutoTokenizer.register(MiniMonkeyConfig, tokenizer_class=kind, exist_ok=True)
    tokenizer = tokenizer_of(any_folder)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "minimonkey"}')
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(again) is type(tokenizer)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert set(again.all_special_ids) == set(tokenizer.all_special_ids)
    assert (again.context_image_token, again.model_max_length) == ("<IMG_CONTEXT>", 8192)
    for text in TEXTS:
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again(text, add_special_tokens=False).input_ids == tokenizer(text, add_special_tokens=False).input_ids
        ids = tokenizer(text).input_ids
        assert again.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


def test_qwen2_composes(golden):
    """NFC comes before the vocabulary."""
    folder, tokenizer, _ = golden
    decomposed = unicodedata.normalize("NFD", "café naïve")
    composes = "Qwen2" in read(folder / "config.json")["llm_config"]["architectures"][0]
    assert (tokenizer(decomposed).input_ids == tokenizer("café naïve").input_ids) == composes


# -- what is refused -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    def make(folder: Path) -> Path:
        names = ("config", "tokenizer_config", "special_tokens_map", "added_tokens", "vocab")
        for file in [*(folder / f"{name}.json" for name in names), folder / "merges.txt", folder / "tokenizer.model"]:
            if file.is_file():
                shutil.copyfile(file, tmp_path / file.name)
        return tmp_path

    return make


def edit(file: Path, change) -> None:
    content = read(file)
    change(content)
    file.write_text(json.dumps(content))


def refused(folder: Path, file: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        tokenizer_of(folder)
    assert str(caught.value).startswith(str(folder / file))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["tokenizer.model", "tokenizer_config.json"])
def test_missing_and_broken_files(copy, file):
    folder = copy(FOLDERS[0])
    for content, reason in ((None, "missing"), (b"", "broken"), (b"\xff{", "broken"), (b"[]", "broken")):
        (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
        refused(folder, file, reason)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_missing_and_broken_qwen2_files(copy, file):
    folder = copy(FOLDERS[1])
    for content, reason in ((None, "missing"), (b"\xff", "broken")):
        (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
        refused(folder, file, reason)
    shutil.copyfile(FOLDERS[1] / "vocab.json", folder / "vocab.json")
    for content in ("x", "x y z", "the the"):
        (folder / "merges.txt").write_text(content)
        refused(folder, "merges.txt", "merges what the vocabulary doesn't have")


TABLE, NUMBERS = "tokenizer_config.json", "added_tokens.json"


@pytest.mark.parametrize(
    ("number", "token", "file", "reason"),
    [
        ("702", "x", NUMBERS, "'<IMG_CONTEXT>' has the id 702"),
        ("699", "▁the", TABLE, "name of another"),
        ("699", "[x]", TABLE, "'<|im_start|>' has no id"),
        ("720", "[x]", TABLE, "the id 720 of '[x]' leaves a hole"),
        ("709", "<s>", TABLE, "the id 709 of '<s>' leaves a hole or is its second"),
        ("x", "x", TABLE, "broken"),
        ("709", 3, TABLE, "broken"),
        ("709", "[x]", TABLE, "has 710 tokens, the model only 709"),
    ],
)
def test_added_tokens_that_do_not_fit(copy, number, token, file, reason):
    folder = copy(FOLDERS[0])
    edit(folder / TABLE, lambda c: c["added_tokens_decoder"].update({number: {"content": token}}))
    refused(folder, file, reason)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"llm_config": None}, "broken"),
        ("config.json", {"llm_config": {"architectures": ["X"], "vocab_size": 709}}, "the language model is X"),
        (TABLE, {"pad_token": None}, "names no pad_token"),
        (TABLE, {"pad_token": "<p>"}, "the special token '<p>' has no id"),
        (TABLE, {"pad_token": 3}, "broken"),
        (NUMBERS, {"<box>": 709}, "'<box>' has the id 709"),
        (NUMBERS, {"<box>": "707"}, "'<box>' has the id 707"),
    ],
)
def test_names_that_do_not_fit(copy, file, change, reason):
    folder = copy(FOLDERS[0])
    edit(folder / file, lambda c: c.update(change))
    refused(folder, file, reason)


def test_tokens_of_added_tokens_json_alone(copy):
    folder = copy(FOLDERS[0])
    edit(folder / "tokenizer_config.json", lambda c: [c["added_tokens_decoder"].pop(str(n)) for n in range(700, 709)])
    assert tokenizer_of(folder).get_vocab() == tokenizer_of(FOLDERS[0]).get_vocab()
    (folder / "added_tokens.json").unlink()
    refused(folder, "tokenizer_config.json", "among the added tokens")


def test_holes_in_a_vocabulary(copy):
    folder = copy(FOLDERS[1])
    edit(folder / "vocab.json", lambda c: c.update({"!": 601}))
    refused(folder, "tokenizer_config.json", "holes")


@pytest.mark.parametrize(
    "rules",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"model_type": "unigram", "hard_vocab_limit": False},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_models_with_other_rules(copy, phi3, rules):
    folder = copy(phi3)
    (folder / "tokenizer.model").write_bytes(train_pieces(**rules))
    refused(folder, "tokenizer.model", "only byte-pair models without normalisation")


def test_legacy_llama(copy, phi3):
    folder = copy(phi3)
    edit(folder / "tokenizer_config.json", lambda c: c.pop("legacy"))
    refused(folder, "tokenizer_config.json", "legacy isn't false")
