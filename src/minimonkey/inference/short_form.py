"""The ways in which users write what shall be read, each as a JSON schema: a pydantic class, JSON schema itself, or the short form.

    "total:number, paid:cash|card, items:[{name, price:number}]"

Knows the names of types; whether a model can be held to a schema is the business of `json_schema.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from minimonkey.errors import UsageError, shown, unknown
from minimonkey.inference.json_schema import TYPES, Schema

_SHORT: dict[str, Schema] = {
    "string": {"type": "string"},
    "text": {"type": "string"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "box": {"type": "array", "format": "box"},
}
"""Types of the short form."""
_NULL: Schema = {"type": "null"}


def schema_of(given: Any) -> Schema:
    """The JSON schema of a pydantic class, a JSON schema, or the short form as a text or a dict.

    In the short form every field may be null, for what isn't there; lists may be empty.

    Raises:
        UsageError: it is none of these; the message shows where.
    """
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return given.model_json_schema(schema_generator=_numbers())
    if isinstance(given, str):
        return _ShortForm(given).schema()
    if isinstance(given, Mapping) and given:
        return dict(given) if _is_json_schema(given) else _of_short_value(dict(given), "")
    raise UsageError(f"schema={shown(given)}: expected a pydantic class, a JSON schema, or fields as in 'total:number, date:date'")


def _numbers() -> Any:
    """pydantic's schema of decimals takes any text beside numbers, which the class itself doesn't: numbers alone."""
    from pydantic.json_schema import GenerateJsonSchema

    class Numbers(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            found = super().decimal_schema(schema)
            return next((one for one in found.get("anyOf", ()) if one.get("type") == "number"), found)

    return Numbers


def _is_json_schema(given: Mapping[Any, Any]) -> bool:
    kinds = given.get("type")
    known = [kind in TYPES for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)]
    named = isinstance(given.get("properties"), Mapping) or isinstance(given.get("$ref"), str) or "const" in given
    listed = any(isinstance(given.get(name), list) for name in ("anyOf", "oneOf", "allOf", "enum"))
    return (bool(known) and all(known)) or named or listed


def _of_short_value(value: Any, where: str) -> Schema:
    """{"total": "number", "items": [{"name": "string"}]}."""
    if isinstance(value, str):
        return _ShortForm(value).type_alone()
    if isinstance(value, list) and len(value) == 1:
        return _listed(_of_short_value(value[0], f"{where}[]"))
    if isinstance(value, Mapping) and value and all(isinstance(name, str) and name for name in value):
        return _object({name: _of_short_value(inner, f"{where}.{name}") for name, inner in value.items()})
    expected = f"expected {', '.join(_SHORT)}, choices as in 'cash|card', [type] or {{field: type}}"
    raise UsageError(f"schema: {where.lstrip('.') or 'it'} is {shown(value)}: {expected}")


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _listed(item: Schema) -> Schema:
    """A list's own items are never null."""
    return {"type": "array", "items": item["anyOf"][0] if "anyOf" in item else item}


class _ShortForm:
    """Reads "total:number, paid:cash|card, items:[{name, price:number}]" from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens = text, re.findall(r"[\[\]{},:|]|[^\s\[\]{},:|][^\[\]{},:|]*", text)
        self.tokens = [token.strip() for token in self.tokens]
        self.place = 0

    def schema(self) -> Schema:
        """The fields, with or without braces around all of them."""
        inner = self.fields(closing="")
        return self._whole(inner)

    def type_alone(self) -> Schema:
        return self._whole(self.type())

    def _whole(self, found: Schema) -> Schema:
        if self.place < len(self.tokens):
            raise self._refusal()
        return found

    def fields(self, closing: str) -> Schema:
        properties: dict[str, Schema] = {}
        while True:
            name = self._word()
            if name in properties:
                raise UsageError(f"fields {self.text!r}: {name!r} is there twice")
            properties[name] = self.type() if self._take(":") else self._or_null(_SHORT["string"])
            if not self._take(","):
                break
        if closing and not self._take(closing):
            raise self._refusal()
        return _object(properties)

    def type(self) -> Schema:
        if self._take("["):
            item = self.type()
            if not self._take("]"):
                raise self._refusal()
            return _listed(item)
        if self._take("{"):
            return self.fields(closing="}")
        choices = [self._word()]
        while self._take("|"):
            choices.append(self._word())
        if len(choices) > 1:
            return self._or_null({"enum": list(dict.fromkeys(choices))})
        if choices[0] not in _SHORT:
            raise UsageError(unknown(f"fields {self.text!r}: no type", choices[0], _SHORT))
        return self._or_null(_SHORT[choices[0]])

    @staticmethod
    def _or_null(schema: Schema) -> Schema:
        return {"anyOf": [schema, _NULL]}

    def _take(self, token: str) -> bool:
        if self.place < len(self.tokens) and self.tokens[self.place] == token:
            self.place += 1
            return True
        return False

    def _word(self) -> str:
        if self.place < len(self.tokens) and self.tokens[self.place] not in tuple("[]{},:|"):
            self.place += 1
            return self.tokens[self.place - 1]
        raise self._refusal()

    def _refusal(self) -> UsageError:
        found = repr(self.tokens[self.place]) if self.place < len(self.tokens) else "its end"
        behind = "".join(self.tokens[: self.place][-4:])
        where = f" after {behind!r}" if behind else ""
        expected = "expected a form such as 'total:number, items:[{name, price:number}]'"
        return UsageError(f"fields {shown(self.text)}: unexpected {found}{where}; {expected}")
