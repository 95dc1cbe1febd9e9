"""Schemas are bounded so that answers end, and what can't be kept to is one line."""

import datetime
import decimal
import enum
import re

import pydantic
import pytest

from minimonkey.errors import UsageError
from minimonkey.inference.json_schema import MAX_ITEMS, PATTERNS, bounded, in_words
from minimonkey.inference.short_form import schema_of

NUMBER = {"type": "number", "multipleOf": 1e-6, "minimum": -(10**12), "maximum": 10**12}
TEXT = {"type": "string", "minLength": 0, "maxLength": 200}


class Paid(enum.Enum):
    CASH = "cash"
    CARD = "card"


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20, description="as printed")
    price: decimal.Decimal


class Invoice(pydantic.BaseModel):
    total: float
    day: datetime.date | None = None
    paid: Paid | None
    items: list[Item] = []
    pair: tuple[int, str] = (1, "a")


class Node(pydantic.BaseModel):
    inner: "Node | None" = None


def closed(required=None, **properties):
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def test_a_pydantic_class_is_bounded():
    found = bounded(schema_of(Invoice))
    day, paid = {"type": "string", "pattern": f"^{PATTERNS['date']}$"}, {"enum": ["cash", "card"]}
    item = closed(name=TEXT | {"maxLength": 20}, price=NUMBER)
    whole = {"type": "integer", "minimum": -(10**12), "maximum": 10**12}
    assert found == closed(
        required=["total", "day", "paid"],  # what may be null has to be there
        total=NUMBER,
        day={"anyOf": [day, {"type": "null"}]},
        paid={"anyOf": [paid, {"type": "null"}]},
        items={"type": "array", "minItems": 0, "maxItems": MAX_ITEMS, "items": item},
        pair={"type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [whole, TEXT]},
    )


MANY_NULLS = {"type": "array", "items": {"type": "null"}, "minItems": 60, "maxItems": 60}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "number", "minimum": 0}, NUMBER | {"minimum": 0}),
        ({"type": "number", "maximum": -1e15}, NUMBER | {"minimum": -1e15, "maximum": -1e15}),
        (
            {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
            {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5, "maximum": 10**12},
        ),
        ({"type": "string", "maxLength": 5000, "minLength": 2}, TEXT | {"maxLength": 5000, "minLength": 2}),
        ({"type": "string", "minLength": 300}, TEXT | {"minLength": 300, "maxLength": 300}),
        ({"type": "string", "format": "email"}, TEXT | {"format": "email"}),
        (
            {"type": ["integer", "null"], "minimum": 5},
            {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 10**12}, {"type": "null"}]},
        ),
        ({"const": 5}, {"enum": [5]}),
        ({"allOf": [{"type": "boolean"}], "title": "x"}, {"type": "boolean"}),
        ({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
        ({"type": "array", "items": {"type": "null"}, "minItems": 60}, MANY_NULLS),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, {"type": "boolean"}),
    ],
)
def test_bounds(schema, expected):
    assert bounded(schema) == expected


def of_a(schema):
    return {"type": "object", "properties": {"a": schema}}


def nested(levels):
    return {"type": "boolean"} if not levels else {"type": "array", "items": nested(levels - 1)}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (of_a({"type": "string", "lenght": 3}), "a has a keyword that can't be kept to, 'lenght'; the nearest is"),
        ({"type": "array", "items": {"type": "number"}, "uniqueItems": True}, "can't be kept to, 'uniqueItems'"),
        ({"type": "string", "minimum": 3}, "has 'minimum', which says nothing about type string"),
        ({"type": "object"}, "the schema is an object of any fields: name its properties"),
        (of_a({"type": "number"}) | {"additionalProperties": {"type": "number"}}, "an object of any fields"),
        (of_a({"type": "object", "properties": {"b": {}}}), "a.b has no type"),
        ({"type": "array"}, "the schema[] has no type"),
        ({"type": "array", "items": 5}, "the schema[] is 5: expected an object"),
        ({"type": "text"}, "has type 'text'; expected one of string"),
        ({"type": "string", "format": "iban"}, "has a format that can't be kept to, 'iban'"),
        ({"type": "array", "format": "boxes", "items": {"type": "null"}}, "has format 'boxes': a list's is 'box'"),
        ({"enum": []}, "has [] to choose from"),
        ({"enum": [{"a": 1}]}, "to choose from: expected texts"),
        ({"anyOf": []}, "has [] to choose from"),
        ({"allOf": [{"type": "null"}, {"type": "null"}]}, "has allOf of several schemas"),
        ({"$ref": "#/$defs/gone"}, "refers to '#/$defs/gone', which isn't in its $defs"),
        ({"$ref": "other.json"}, "refers to 'other.json'"),
        (Node.model_json_schema(), "is within itself (#/$defs/Node), without end"),
        (nested(40), "levels deep"),
        ({"anyOf": [5]}, "is 5: expected an object"),
    ],
)
def test_what_cannot_be_kept_to(schema, message):
    with pytest.raises(UsageError) as error:
        bounded(schema)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_days_are_days():
    """Those of the calendar, and no others: compared with Python's own."""
    date = re.compile(PATTERNS["date"])

    def is_day(text):
        try:
            datetime.date.fromisoformat(text)
        except ValueError:
            return False
        return True

    for year in ("0000", "0001", "0004", "0010", "0100", "0400", "1000", "1900", "1996", "2000", "2023", "2024", "2100", "9999"):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year}-{month:02}-{day:02}"
                assert (date.fullmatch(text) is not None) == is_day(text), text
    for text, fits in (("23:59", True), ("24:00", False), ("07:05:59", True), ("7:05", False)):
        assert (re.fullmatch(PATTERNS["time"], text) is not None) == fits


def test_in_words():
    words = in_words(bounded(schema_of("total:number, day:date, paid:cash|card, items:[{name, price:number}], ok:boolean")))
    assert words == (
        '{"total": number or null, "day": date as YYYY-MM-DD or null, "paid": "cash" or "card" or null, '
        '"items": [{"name": string or null, "price": number or null}], "ok": boolean or null}'
    )
