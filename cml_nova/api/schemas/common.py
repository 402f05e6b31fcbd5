"""Pieces that schemas of requests and responses are made of. A schema with a title becomes a component of the OpenAPI document."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

NO_CONTROL = {"type": "string", "pattern": r"[\x00-\x1f\x7f]", "description": "It has control characters."}
NO_CONTROL_BUT_LINES = {"type": "string", "pattern": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
                        "description": "It has control characters other than tabs and line ends."}
NO_NUL = {"type": "string", "pattern": r"\x00", "description": "It has NUL characters."}

UUID: Schema = {"type": "string", "minLength": 1, "maxLength": 36}
TIME: Schema = {"type": "string", "format": "date-time", "description": "ISO 8601, UTC."}
BOOLEAN: Schema = {"type": "boolean"}


def record(properties: Schema, *, title: str | None = None, required: tuple[str, ...] | None = None, **more: Any) -> Schema:
    """An object with exactly these keys; all of them required unless told otherwise."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False,
              "required": list(properties if required is None else required), **more}
    return schema if title is None else {"title": title, **schema}


def request(properties: Schema, *, title: str | None = None, required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object of a request: keys are optional unless named."""
    return record(properties, title=title, required=required, **more)


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    if "type" in schema and "enum" not in schema and "title" not in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*kinds, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def text(most: int, *, least: int = 1, **more: Any) -> Schema:
    """A line of text without control characters."""
    return {"type": "string", "minLength": least, "maxLength": most, "not": NO_CONTROL, **more}


def integer(least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, **more}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


LINKS = array(record({"rel": {"type": "string"}, "href": {"type": "string"}}))

METADATA: Schema = {
    "type": "object", "maxProperties": 64,
    "propertyNames": {"pattern": "^[A-Za-z0-9_.:-]{1,255}$",
                      "description": "Keys have 1 to 255 letters, digits, '_', '.', ':' or '-'"},
    "additionalProperties": text(255, least=0),
}

PAGING: Schema = {
    "limit": {"type": "integer", "minimum": 1, "description": "Most items in the answer; the service may give fewer."},
    "marker": text(36, description="Id of the last item of the page before."),
}

ERROR = record({
    "error": record({
        "code": {"type": "integer"},
        "title": {"type": "string"},
        "message": {"type": "string", "description": "What was wrong, and what to do."},
        "slug": {"type": "string", "description": "Stable machine-readable word."},
        "field": {"type": "string", "description": "Path of the key that was wrong."},
        "conflicts_with": {"type": "string", "description": "Path of the key that it does not go with."},
        "errors": array(record({"field": {"type": "string"}, "message": {"type": "string"}})),
    }, required=("code", "title", "message", "slug"), additionalProperties=True),
}, title="Error")
