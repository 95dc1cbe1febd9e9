"""What users write becomes a JSON schema, or one line."""

import decimal

import pydantic
import pytest

from minimonkey.errors import UsageError
from minimonkey.inference.short_form import schema_of

NULL = {"type": "null"}


def or_null(**schema):
    return {"anyOf": [schema, NULL]}


def record(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


NUMBER, TEXT = or_null(type="number"), or_null(type="string")


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("total", record(total=TEXT)),
        ("total:number", record(total=NUMBER)),
        (" total : number , day: date ", record(total=NUMBER, day=or_null(type="string", format="date"))),
        ("items:[{name, price:number}]", record(items={"type": "array", "items": record(name=TEXT, price=NUMBER)})),
        ("tags:[string]", record(tags={"type": "array", "items": {"type": "string"}})),
        ("rows:[[integer]]", record(rows={"type": "array", "items": {"type": "array", "items": {"type": "integer"}}})),
        ("seller:{name, tax id}, n:integer", record(seller=record(**{"name": TEXT, "tax id": TEXT}), n=or_null(type="integer"))),
        ("paid:cash|credit card", record(paid=or_null(enum=["cash", "credit card"]))),
        ("Größe:text, ok:boolean, at:time", None),
        ("place:box", record(place=or_null(type="array", format="box"))),
    ],
)
def test_the_short_form(text, schema):
    found = schema_of(text)
    assert found["type"] == "object" and found["required"] == list(found["properties"])
    if schema is not None:
        assert found == schema


def test_a_dict_says_the_same_as_a_text():
    as_dict = {"total": "number", "paid": "cash|card", "items": [{"name": "string", "price": "number"}]}
    as_dict["seller"] = {"name": "string"}
    assert schema_of(as_dict) == schema_of("total:number, paid:cash|card, items:[{name, price:number}], seller:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected its end"),
        ("total:", "unexpected its end after 'total:'"),
        ("total:numbre", "no type 'numbre'; the nearest is 'number'"),
        ("total:number,", "unexpected its end after 'total:number,'"),
        ("a:number b:number", "no type 'number b'"),
        ("items:[{name", "unexpected its end"),
        ("items:[name]]", "no type 'name'"),
        ("items:[number]]", "unexpected ']'"),
        ("a, a", "'a' is there twice"),
        (":number", "unexpected ':'"),
        ("a:[]", "unexpected ']'"),
        ("a:{}", "unexpected '}'"),
    ],
)
def test_what_is_no_short_form(text, message):
    with pytest.raises(UsageError) as error:
        schema_of(text)
    assert message in str(error.value) and "\n" not in str(error.value)


NO_SCHEMAS = [None, 5, [], {}, int, {"total": 5}, {"total": []}, {"total": ["number", "string"]}, {5: "number"}]


@pytest.mark.parametrize("given", NO_SCHEMAS)
def test_what_is_no_schema(given):
    with pytest.raises(UsageError, match="expected") as error:
        schema_of(given)
    assert "\n" not in str(error.value)


def test_json_schema_and_pydantic_stay_as_they_are():
    class Invoice(pydantic.BaseModel):
        total: float
        price: decimal.Decimal = pydantic.Field(gt=0)

    found = schema_of(Invoice)
    assert found["properties"]["total"] == Invoice.model_json_schema()["properties"]["total"]
    assert found["properties"]["price"] == {"type": "number", "exclusiveMinimum": 0.0, "title": "Price"}, "no text beside it"
    for schema in ({"type": "object", "properties": {"a": {}}}, {"enum": ["a"]}, {"anyOf": [NULL]}, {"type": ["string", "null"]}):
        assert schema_of(schema) == schema
    assert schema_of({"type": "string"}) == {"type": "string"}
    assert schema_of({"type": "cash|card"})["properties"].keys() == {"type"}, "a field of that name, as its type is none of JSON's"
