"""A JSON schema that a model can be held to: references resolved, unknown keywords refused, everything bounded so that a text ends.

Knows no model. A text that fits the bounded schema fits the one that was given, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minimonkey.errors import UsageError, shown, unknown

Schema = dict[str, Any]

MAX_CHARACTERS = 200
"""Longest text, unless a schema says `maxLength`."""
MAX_ITEMS = 50
"""Longest list, unless a schema says `maxItems`."""
MAX_NUMBER = 10**12
"""Largest number, unless a schema says so."""
SMALLEST_STEP = 1e-6
"""Numbers have no more places behind the point, unless a schema says `multipleOf`."""
MAX_DEPTH = 12
BOX_FULL = 1000
"""Corners of a box are in thousandths of the picture's width and height, as InternVL writes them."""

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP}-02-29)"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
PATTERNS = {"date": _DATE, "time": f"{_TIME}(?::[0-5][0-9])?", "date-time": f"{_DATE}T{_TIME}:[0-5][0-9]"}
"""Formats that are days and hours, exactly."""
FORMATS = ("email", "hostname", "ipv4", "ipv6", "uri", "uuid")
"""Formats that the grammar's engine knows itself."""

_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "format"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}
"""What each type may say about itself."""
TYPES = tuple(_KEYWORDS)
_COMBINING = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
_REMARKS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment"}
_REMARKS |= {"$defs", "definitions", "discriminator"}
KEYWORDS = sorted(_COMBINING | _REMARKS | {keyword for own in _KEYWORDS.values() for keyword in own})


def bounded(schema: Schema) -> Schema:
    """The same schema with references resolved, and with bounds to whatever has none, so that a text that fits it ends.

    Objects take no other properties than those that are named; a property that may be null has to be there.

    Raises:
        UsageError: a keyword that is unknown or can't be kept to, a schema within itself, a value of any type; one line.
    """
    places = {place: schema.get(place, {}) for place in ("$defs", "definitions")}
    definitions = {f"#/{place}/{name}": inner for place, found in places.items() for name, inner in found.items()}
    return _Bounds(definitions).of(schema, "the schema", ())


class _Bounds:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self.definitions = definitions

    def of(self, schema: Any, where: str, within: tuple[str, ...]) -> Schema:
        if not isinstance(schema, Mapping):
            raise UsageError(f"schema: {where} is {shown(schema)}: expected an object that says its type")
        for keyword in schema:
            if keyword not in KEYWORDS:
                raise UsageError(unknown(f"schema: {where} has a keyword that can't be kept to,", keyword, KEYWORDS))
        if len(within) > MAX_DEPTH:
            raise UsageError(f"schema: {where} is more than {MAX_DEPTH} levels deep")
        if "$ref" in schema:
            return self._reference(schema, where, within)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._choices(schema[name], where, within)
        if "allOf" in schema:
            if not isinstance(schema["allOf"], list) or len(schema["allOf"]) != 1:
                raise UsageError(f"schema: {where} has allOf of several schemas: write them as one")
            return self.of(schema["allOf"][0], where, within)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            if not isinstance(values, list) or not values or any(isinstance(value, list | dict) for value in values):
                raise UsageError(f"schema: {where} has {shown(values)} to choose from: expected texts, numbers, booleans or null")
            return {"enum": values}
        kinds = schema.get("type")
        if isinstance(kinds, list) and kinds:
            return {"anyOf": [self._of_type(kind, schema, where, within, kinds) for kind in kinds]}
        return self._of_type(kinds, schema, where, within, [kinds])

    def _reference(self, schema: Mapping[str, Any], where: str, within: tuple[str, ...]) -> Schema:
        name = schema["$ref"]
        if name not in self.definitions:
            raise UsageError(f"schema: {where} refers to {shown(name)}, which isn't in its $defs")
        if name in within:
            raise UsageError(f"schema: {where} is within itself ({name}), without end: write out the levels that you need")
        return self.of(self.definitions[name], where, (*within, name))

    def _choices(self, choices: Any, where: str, within: tuple[str, ...]) -> Schema:
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"schema: {where} has {shown(choices)} to choose from: expected a list of schemas")
        return {"anyOf": [self.of(one, where, within) for one in choices]}

    def _of_type(self, kind: Any, schema: Mapping[str, Any], where: str, within: tuple[str, ...], kinds: list[Any]) -> Schema:
        if kind not in _KEYWORDS:
            what = "has no type: a value of any kind could go on for ever" if kind is None else f"has type {shown(kind)}"
            raise UsageError(f"schema: {where} {what}; expected one of {', '.join(_KEYWORDS)}")
        known = {keyword for each in kinds for keyword in _KEYWORDS.get(each, ())}
        for keyword in schema:
            if keyword not in known | _COMBINING | _REMARKS:
                raise UsageError(f"schema: {where} has {keyword!r}, which says nothing about type {', '.join(map(str, kinds))}")
        own = {keyword: schema[keyword] for keyword in _KEYWORDS[kind] if keyword in schema}
        match kind:
            case "string":
                return _text(own, where)
            case "number" | "integer":
                return _number(kind, own)
            case "array":
                return self._array(own, where, within)
            case "object":
                return self._object(own, where, within)
        return {"type": kind}

    def _array(self, own: Schema, where: str, within: tuple[str, ...]) -> Schema:
        if own.get("format") == "box":
            corner = {"type": "integer", "minimum": 0, "maximum": BOX_FULL}
            return {"type": "array", "items": corner, "minItems": 4, "maxItems": 4}
        if "format" in own:
            raise UsageError(f"schema: {where} has format {shown(own['format'])}: a list's is 'box', or none")
        first = [self.of(item, f"{where}[{place}]", (*within, "[]")) for place, item in enumerate(own.get("prefixItems", []))]
        least, most = own.get("minItems", 0), own.get("maxItems", len(first) if "items" not in own else MAX_ITEMS)
        found: Schema = {"type": "array", "minItems": least, "maxItems": max(most, least)}
        if first:
            found["prefixItems"] = first
        if own.get("items") not in (None, False, True) or not first:
            found["items"] = self.of(own.get("items", {}), f"{where}[]", (*within, "[]"))
        return found

    def _object(self, own: Schema, where: str, within: tuple[str, ...]) -> Schema:
        properties = own.get("properties", {})
        if not isinstance(properties, Mapping) or not properties or own.get("additionalProperties", False) not in (True, False):
            raise UsageError(f"schema: {where} is an object of any fields: name its properties")
        outer = "" if where == "the schema" else f"{where}."
        inner = {name: self.of(schema, f"{outer}{name}", (*within, ".")) for name, schema in properties.items()}
        required = [name for name in inner if name in own.get("required", ()) or _takes_null(inner[name])]
        return {"type": "object", "properties": inner, "required": required, "additionalProperties": False}


def _text(own: Schema, where: str) -> Schema:
    found: Schema = {"type": "string"}
    if (name := own.get("format")) is not None:
        if name in PATTERNS:
            return found | {"pattern": f"^{PATTERNS[name]}$"}
        if name not in FORMATS:
            raise UsageError(unknown(f"schema: {where} has a format that can't be kept to,", name, (*PATTERNS, *FORMATS)))
        found["format"] = name
    least = own.get("minLength", 0)
    return own | found | {"minLength": least, "maxLength": own.get("maxLength", max(MAX_CHARACTERS, least))}


def _number(kind: str, own: Schema) -> Schema:
    """Digits end: there is a largest, a smallest and a step."""
    own = {keyword: value for keyword, value in own.items() if keyword != "format"}
    found: Schema = {"type": kind} | own | ({"multipleOf": SMALLEST_STEP} if kind == "number" and "multipleOf" not in own else {})
    if not {"minimum", "exclusiveMinimum"} & own.keys():
        found["minimum"] = min(-MAX_NUMBER, *(own[name] for name in ("maximum", "exclusiveMaximum") if name in own), 0)
    if not {"maximum", "exclusiveMaximum"} & own.keys():
        found["maximum"] = max(MAX_NUMBER, *(own[name] for name in ("minimum", "exclusiveMinimum") if name in own), 0)
    return found


def _takes_null(schema: Schema) -> bool:
    return schema.get("type") == "null" or None in schema.get("enum", ()) or any(map(_takes_null, schema.get("anyOf", ())))


def in_words(schema: Schema) -> str:
    """A bounded schema in a line that a model may have seen alike: {"total": number or null, "items": [{"name": string}]}."""
    if "enum" in schema:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(in_words, schema["anyOf"])))
    if schema["type"] == "object":
        return "{" + ", ".join(f'"{name}": {in_words(inner)}' for name, inner in schema["properties"].items()) + "}"
    if schema["type"] == "array":
        items = [*schema.get("prefixItems", []), *([schema["items"]] if "items" in schema else [])]
        return f"[{', '.join(map(in_words, items))}]"
    by_pattern = {f"^{pattern}$": f"{name} as YYYY-MM-DD" if name == "date" else name for name, pattern in PATTERNS.items()}
    return by_pattern.get(schema.get("pattern", "")) or schema.get("format") or schema["type"]
