"""Typed fields of a JSON object: each surface states a table, and this parses by it.

In: a decoded object, a table of fields. Out: values that can be trusted, defaults filled in. This module must never ignore a field
it does not know, and never show a text in an error: it may be a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from control_plane.errors import BadInput

INT64 = 2**63
DID_PATTERN = "^did:op:[0-9a-f]{64}$"


@dataclass(frozen=True)
class Field:
    """expected: in words, for errors. schema: the same as JSON Schema, for /openapi.json."""

    expected: str
    is_right: Callable[[Any], bool]
    schema: Mapping[str, Any] = field(default_factory=dict)
    default: Any = None
    is_required: bool = False


Table = Mapping[str, Field]


def parse_fields(record: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Every field of the table, with its default where it is absent or null. Raises BadInput naming the field."""
    values: dict[str, Any] = {}
    for name, value in record.items():
        known = table.get(name)
        if known is None:
            raise BadInput(
                safe_name(name), f"no such parameter; known are {', '.join(table)}", kind_of(value), code="unknown_parameter"
            )
        if value is None and not known.is_required:
            continue
        if not known.is_right(value):
            raise BadInput(name, known.expected, kind_of(value))
        values[name] = value
    for name, known in table.items():
        if name not in values:
            if known.is_required:
                raise BadInput(name, known.expected, Kind("nothing"), code="missing_parameter")
            values[name] = known.default
    return values


class Kind(str):
    """A description; shows without quotes, as it is not the value itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def kind_of(value: object) -> Kind:
    """What a value is, without saying it, unless it is a number."""
    if value is None or isinstance(value, bool):
        return Kind({None: "null", True: "true", False: "false"}[value])
    if isinstance(value, int | float):
        return Kind(value if abs(value) < 10**30 else "a number far too large")
    if isinstance(value, str):
        return Kind(f"a text of {len(value)} characters" if value else "an empty text")
    if isinstance(value, bytes):
        return Kind(f"{len(value)} bytes")
    return Kind(f"a list of {len(value)}" if isinstance(value, list) else "an object")


def schema_of(table: Table) -> dict[str, Any]:
    """The table as JSON Schema. A whole number is one written without a point, which JSON Schema cannot say."""
    required = [name for name, known in table.items() if known.is_required]
    record: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(known) for name, known in table.items()},
    }
    return record | ({"required": required} if required else {})


def _property(known: Field) -> dict[str, Any]:
    """Null is the same as nothing, where nothing may be said."""
    schema = dict(known.schema) if known.is_required else _or_null(known.schema)
    return {**schema, "description": known.expected, **({} if known.default is None else {"default": known.default})}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {**schema, "enum": [None, *(value for value in schema["enum"] if value is not None)]}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*kinds, "null"]}
    return {"oneOf": [*schema["oneOf"], {"type": "null"}]} if "oneOf" in schema else dict(schema)


def text(expected: str, most: int = 1 << 22, is_required: bool = False) -> Field:
    """A text that is not empty and that UTF-8 can hold."""
    return Field(expected, lambda value: is_text(value, most), {"type": "string", "minLength": 1}, is_required=is_required)


def patterned(expected: str, pattern: str, is_required: bool = False) -> Field:
    """A text of that form; whoever reads it checks the form, and says what it found."""
    return Field(expected, is_text, {"type": "string", "pattern": pattern}, is_required=is_required)


def is_text(value: object, most: int = 1 << 22) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can write one (`"\\ud800"`), UTF-8 cannot
        return False
    return True


def whole(expected: str, low: int, high: int, default: int | None = None) -> Field:
    """A whole number from `low` to `high`; true and 1.0 are not."""
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Field(expected, lambda value: type(value) is int and low <= value <= high, schema, default)


def number(expected: str, low: float, high: float, default: float, is_low_excluded: bool = False) -> Field:
    def is_right(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            return False
        return low <= value <= high and not (is_low_excluded and value == low)

    return Field(
        expected, is_right, {"type": "number", "exclusiveMinimum" if is_low_excluded else "minimum": low, "maximum": high}, default
    )


def flag(expected: str, default: bool = False) -> Field:
    return Field(expected, lambda value: isinstance(value, bool), {"type": "boolean"}, default)


def only(allowed: tuple[Any, ...], what: str) -> Field:
    """A parameter that we do not support: refused by name, unless it asks for what happens anyway."""
    shown = " or ".join(["nothing", *(repr(value).lower() for value in allowed)])

    def is_right(value: object) -> bool:
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)

    return Field(f"{shown}: {what} is not supported", is_right, {"enum": [None, *allowed]})


def texts(expected: str, most: int, is_required: bool = False) -> Field:
    """One text, or a list of 1 to `most`."""

    def is_right(value: object) -> bool:
        return is_text(value) or (isinstance(value, list) and 0 < len(value) <= most and all(is_text(each) for each in value))

    one = {"type": "string", "minLength": 1}
    schema = {"oneOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": most}]}
    return Field(expected, is_right, schema, is_required=is_required)


def listed(value: str | list[str] | None) -> list[str]:
    """What `texts` accepted, always as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def safe_name(name: str, otherwise: str = "a parameter") -> str:
    """A name as an error may show it; a stranger chose it."""
    return name if name.isidentifier() and len(name) <= 40 else otherwise
