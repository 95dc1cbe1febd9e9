"""A random model, which writes whatever it likes, is held to a schema: its answer always fits."""

import datetime
import decimal
import json
import math
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from minimonkey.checkpoints.tokenizers import published_tokenizer
from minimonkey.errors import ExtractionError, MissingExtraError, UsageError
from minimonkey.inference import EMBEDDED, VisionLanguageModel, extract
from minimonkey.inference.answer import Answer
from minimonkey.inference.extract import Fields, JsonConstraint, token_table
from minimonkey.pyramid import Box, PyramidSpec, Size
from tests.checkpoints.slow_llama import write_phi3_tokenizer

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60 + 20 * seed, 3), dtype=np.uint8)) for seed in range(3)
]


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=6)
    price: decimal.Decimal | None


class Invoice(pydantic.BaseModel):
    total: float
    day: datetime.date | None
    at: datetime.time | None = None
    kind: str = pydantic.Field(pattern="^[A-Z]{2}-[0-9]{1,3}$")
    count: int = pydantic.Field(ge=3, lt=17)
    items: list[Item] = pydantic.Field(max_length=3)
    paid: bool


SCHEMAS = [
    "total:number, day:date, paid:cash|card",
    "items:[{price:number, ok:boolean}]",
    "place:box",
    Invoice,
    {"type": "object", "properties": {"a": {"type": "string", "maxLength": 8}, "b": {"enum": ["x", 'q"', 5, None]}}},
    {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 4},
    {"type": "string", "format": "uuid"},
]


@pytest.fixture
def vlm(tiny_model, tiny_processor):
    return VisionLanguageModel(tiny_model(), tiny_processor(detail=(1, 2), adaptive=None))


def fits(schema, data) -> bool:
    """Whether a value meets the part of JSON schema that the tests use."""
    if "anyOf" in schema:
        return any(fits(one, data) for one in schema["anyOf"])
    if "enum" in schema:
        return data in schema["enum"]
    kinds = {"string": str, "number": (int, float), "integer": int, "array": list, "object": dict, "boolean": bool}
    kinds["null"] = type(None)
    if not isinstance(data, kinds[schema["type"]]) or (schema["type"] in ("number", "integer") and isinstance(data, bool)):
        return False
    if schema["type"] == "object":
        known = set(data) <= set(schema["properties"]) and set(schema["required"]) <= set(data)
        return known and all(fits(schema["properties"][name], value) for name, value in data.items())
    if schema["type"] == "array":
        return schema["minItems"] <= len(data) <= schema["maxItems"] and all(fits(schema["items"], each) for each in data)
    if schema["type"] in ("number", "integer"):
        return schema.get("minimum", -math.inf) <= data <= schema.get("maximum", math.inf)
    return schema["type"] != "string" or len(data) <= schema.get("maxLength", math.inf)


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_answer_always_fits(vlm, schema):
    """Greedy and drawn, one and several pictures at once."""
    fields = Fields.of(schema)
    for settings in ({}, {"do_sample": True, "temperature": 3.0}):
        torch.manual_seed(3)
        for found in vlm.extractions(PICTURES, schema, max_new_tokens=800, **settings):
            assert found.error is None, found
            assert json.loads(found.text) == found.data
            assert fits(fields.schema, found.data)
            assert isinstance(found.value, Invoice) if schema is Invoice else found.value == found.data
            assert all(0 < value <= 1 for value in found.confidence.values())
            assert " " not in found.text.replace('": "', "") or '"' in found.text, "no white space between values"


def test_a_batch_is_what_each_is_alone(vlm):
    schema = "total:number, items:[{ok:boolean}]"
    together = vlm.extractions(PICTURES, schema, max_new_tokens=400)
    alone = [vlm.extract(picture, schema, max_new_tokens=400) for picture in PICTURES]
    assert [found.value for found in together] == alone
    assert vlm.extract(PICTURES, schema, max_new_tokens=400).keys() == {"total", "items"}, "several pictures as one document"


def test_an_answer_that_is_cut_off_is_an_error_with_its_text(vlm):
    with pytest.raises(ExtractionError, match="it stops after 5 tokens; raise max_new_tokens") as error:
        vlm.extract(PICTURES[0], "total:number", max_new_tokens=5)
    assert error.value.text == '{"tot'
    (found,) = vlm.extractions([PICTURES[0]], "total:number", max_new_tokens=5)
    assert (found.value, found.columns, found.text) == (None, {}, '{"tot')
    assert "\n" not in found.error


def test_a_validator_of_the_class_may_refuse(vlm):
    class Picky(pydantic.BaseModel):
        total: int

        @pydantic.field_validator("total")
        @classmethod
        def refuse(cls, value):
            raise ValueError("never good enough")

    with pytest.raises(ExtractionError, match="never good enough") as error:
        vlm.extract(PICTURES[0], Picky, max_new_tokens=60)
    assert json.loads(error.value.text)["total"] is not None
    assert "\n" not in str(error.value)


def test_the_question_is_the_fields_in_words_unless_there_is_one(vlm, monkeypatch):
    asked, original = [], type(vlm.processor).encode_chat

    def noting(self, question, **more):
        asked.append(question)
        return original(self, question, **more)

    monkeypatch.setattr(type(vlm.processor), "encode_chat", noting)
    vlm.extractions(PICTURES[:2], "ok:boolean", ["Is it?", None], max_new_tokens=30)
    assert asked == ["Is it?", Fields.of("ok:boolean").question]
    assert asked[1].endswith('{"ok": boolean or null}')


def answer_of(vlm, text, logprobs=None, pyramids=()):
    """What the model would have written."""
    table = token_table(vlm.processor.tokenizer, len(vlm.processor.tokenizer), [vlm.processor.tokenizer.eos_token_id])
    ids = vlm.processor.tokenizer(text).input_ids
    logprobs = [0.0] * len(ids) if logprobs is None else logprobs
    timings = dict.fromkeys(("prepare", "first_token", "total"), 0.0)
    answer = Answer(text, ids, 0.0, [], 0, 0, timings, list(pyramids), token_logprobs=logprobs)
    return answer, [table.decode_bytes([token]) for token in ids]


def test_confidence_is_of_the_tokens_of_each_value(vlm):
    text = '{"n":12.5,"a":["x\\"}",null],"o":{"k":true}}'
    logprobs = [-float(index) / 100 for index in range(len(text))]
    found = Fields.of("n:number, a:[string], o:{k:boolean}").read(*answer_of(vlm, text, logprobs))

    def mean(part):
        begin = text.index(part)
        return round(math.exp(sum(logprobs[begin : begin + len(part)]) / len(part)), 4)

    assert found.confidence == {
        "n": mean("12.5"),
        "a[0]": mean('"x\\"}"'),
        "a[1]": mean("null"),
        "o.k": mean("true"),
    }
    assert found.lowest_confidence == found.confidence["o.k"]
    assert found.columns == {"n": 12.5, "a": ['x"}', None], "o": {"k": True}}


def test_boxes_are_pixels_of_the_one_picture(vlm):
    pyramid = PyramidSpec(tile_px=28, detail=(1, 2), adaptive=None).plan(Size(height=200, width=400))
    text = '{"place":[100,500,200,250],"note":"<box>[[0, 0, 500, 1000]]</box>","all":[[0,0,1000,1000],[1,2,3,4]]}'
    fields = Fields.of("place:box, note, all:[box]")
    found = fields.read(*answer_of(vlm, text, pyramids=[pyramid]))
    assert found.boxes == {
        "place": Box(40, 50, 80, 100),
        "note": Box(0, 0, 200, 200),
        "all[0]": Box(0, 0, 400, 200),
        "all[1]": Box(0, 0, 1, 1),
    }
    assert found.data["place"] == [100, 500, 200, 250], "the value stays as it was written"
    assert fields.read(*answer_of(vlm, text, pyramids=[pyramid] * 2)).boxes == {}


def constraint_of(vlm, schema, rows=1):
    tokenizer = vlm.processor.tokenizer
    return JsonConstraint(Fields.of(schema), tokenizer, len(tokenizer), [tokenizer.eos_token_id], rows)


def test_who_would_end_the_answer_ends_the_value(vlm):
    """Behind a number there could be more digits; a model that would stop there means that it is whole."""
    tokenizer = vlm.processor.tokenizer
    constraint, written = constraint_of(vlm, "total:number, n:integer"), []
    digit, stop = tokenizer.convert_tokens_to_ids("7"), tokenizer.eos_token_id
    for _ in range(40):
        scores = torch.zeros(1, len(tokenizer))
        scores[0, digit], scores[0, stop] = 5.0, 9.0 if written[-2:] == [digit, digit] else -9.0
        token = int(constraint(torch.tensor([[0, *written]]), scores).argmax())
        if token == stop:
            break
        written.append(token)
    assert b"".join(constraint.bytes_of(written)) == b'{"total":77,"n":77}'


def test_settings_that_forbid_all_that_is_left_change_nothing(vlm):
    """Another processor may have ruled out the one token that the schema leaves."""
    constraint = constraint_of(vlm, "a:boolean")
    scores = constraint(torch.tensor([[0]]), torch.full((1, len(vlm.processor.tokenizer)), -math.inf))
    assert constraint.bytes_of([int(scores.argmax())]) == [b"{"]
    assert vlm.extract(PICTURES[0], "a:boolean", max_new_tokens=40, no_repeat_ngram_size=1).keys() == {"a"}


def test_special_tokens_are_no_text(vlm):
    """Marks such as <box> are written out, not as the tokens that places are written with."""
    tokenizer = vlm.processor.tokenizer
    constraint = constraint_of(vlm, {"type": "string", "maxLength": 9})
    constraint(torch.tensor([[0]]), torch.zeros(1, len(tokenizer)))
    scores = constraint(torch.tensor([tokenizer('"').input_ids]), torch.zeros(1, len(tokenizer)))
    special = [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]
    assert special and scores[0, special].isneginf().all()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "no answer can meet it"),
        ({"type": "string", "pattern": "^a{30}$", "maxLength": 3}, "no answer can meet it"),
        ({"type": "string", "pattern": "(?=a)b"}, "no answer can meet it"),
        ({"type": "string", "pattern": "("}, "no answer can meet it"),
        ({"type": "string", "surprise": 1}, "can't be kept to, 'surprise'"),
        ("total:nubmer", "no type 'nubmer'"),
    ],
)
def test_a_schema_that_cannot_be_met(vlm, monkeypatch, schema, message):
    """It is refused before any picture is looked at."""
    monkeypatch.setattr(vlm, "_prepared", None)
    with pytest.raises(UsageError) as error:
        vlm.extract("no picture.png", schema)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_without_llguidance(vlm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"reading fields needs llguidance: pip install 'minimonkey\[extract\]'"):
        vlm.extract(PICTURES[0], "total:number")


def test_a_model_without_a_stop_token(vlm):
    tokenizer = vlm.processor.tokenizer
    with pytest.raises(UsageError, match="no token that ends an answer"):
        JsonConstraint(Fields.of("a:boolean"), tokenizer, len(tokenizer), [None, 10**9], 1)


def test_logits_may_be_more_than_tokens(vlm):
    """Published models pad their vocabulary: V is the width of the logits."""
    tokenizer = vlm.processor.tokenizer
    width = len(tokenizer) + 37
    constraint = JsonConstraint(Fields.of("a:boolean"), tokenizer, width, [tokenizer.eos_token_id], 1)
    scores = torch.zeros(1, width)
    scores[0, len(tokenizer) :] = 9.0
    assert constraint.bytes_of([int(constraint(torch.tensor([[0]]), scores).argmax())]) == [b"{"]


def test_pictures_and_questions_are_as_many(vlm):
    for pictures, questions in ((PICTURES[0], None), (PICTURES, ["?"]), (PICTURES[:1], "?")):
        with pytest.raises(UsageError, match="expected a list"):
            vlm.extractions(pictures, "a:boolean", questions)


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["minimonkey-internlm2-56", "internvl2-qwen2-56", "phi3", "nano"])
def tokenizer(request, tmp_path):
    """One of each kind that a loaded model may have: sentencepiece with bytes to fall back on, bytes merged, Phi-3's, nano's."""
    if request.param == "nano":
        return AutoTokenizer.from_pretrained(EMBEDDED, trust_remote_code=False)
    if request.param == "phi3":
        write_phi3_tokenizer(tmp_path)
        settings = {"llm_config": {"architectures": ["Phi3ForCausalLM"], "vocab_size": 10**6}}
        return published_tokenizer(tmp_path, settings)
    folder = GOLDEN / request.param
    return published_tokenizer(folder, json.loads((folder / "config.json").read_text()))


def test_tokens_of_every_kind_of_tokenizer(tokenizer, auto_classes):
    """Random logits: what comes out is JSON that fits, and its bytes are what the tokenizer itself decodes."""
    fields = Fields.of("total:number, day:date, name:string, paid:cash|card, items:[{what, price:number}]")
    width, dice = len(tokenizer) + 5, torch.Generator().manual_seed(1)
    constraint, written = JsonConstraint(fields, tokenizer, width, [tokenizer.eos_token_id], 1), []
    for _ in range(3000):
        scores = constraint(torch.tensor([[0, *written]]), 4 * torch.randn(1, width, generator=dice))
        if (token := int(scores.argmax())) == tokenizer.eos_token_id:
            break
        written.append(token)
    data = json.loads(b"".join(constraint.bytes_of(written)))
    assert fits(fields.schema, data) and data.keys() == {"total", "day", "name", "paid", "items"}
    decoded = tokenizer.decode(written, clean_up_tokenization_spaces=False)
    assert json.loads(decoded).keys() == data.keys()


def test_the_table_is_made_once(vlm, monkeypatch):
    vlm.extract(PICTURES[0], "a:boolean", max_new_tokens=30)
    import llguidance.hf

    monkeypatch.setattr(llguidance.hf, "from_tokenizer", None)
    vlm.extract(PICTURES[0], "a:boolean", max_new_tokens=30)
    assert len(extract._tables[vlm.processor.tokenizer]) == 1
