"""Checks documents against JSON schemas, and words what is wrong so that the sender can mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from jsonschema import validators

from cml_nova import exception
from cml_nova.hints import likely, nearest

_SHOWN = 80
_SECRET_FIELDS = ("secrets",)
_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a number",
               type(None): "null"}
_SCHEMA_NAMES = {"object": "an object", "array": "a list", "string": "a string", "boolean": "a boolean", "integer": "an integer",
                 "number": "a number", "null": "null"}


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Match as ECMA-262 does, which JSON schema prescribes: there, unlike in Python, "$" is not before a last line feed."""
    if validator.is_type(instance, "string"):
        exact = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
        if not re.search(exact, instance):
            yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _required(validator: Any, required: list[str], instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Find each missing key, but for those that are only misspelt: that fault is told already."""
    if validator.is_type(instance, "object"):
        unknown = _unknown(instance, schema) if schema.get("additionalProperties") is False else []
        misspelt = [likely(key, schema["properties"]) for key in unknown]
        for key in required:
            if key not in instance and key not in misspelt:
                yield jsonschema.ValidationError(key)


# 2.0 is an integer to JSON schema, but not to what uses it.
_types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool))
_Validator = validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern, "required": _required}, type_checker=_types)


class Schema:
    """A JSON schema of ours: a test has seen that it is a valid one, which takes too long for every start."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _Validator(schema)

    def check(self, document: Any) -> None:
        """Accept a document that fits.

        :raises BadRequest: names field, value and limit of what is wrong first; ``detail["errors"]`` lists up to 20 faults.
        """
        errors = sorted(self._validator.iter_errors(document), key=_importance)
        if errors:
            faults = [{"field": _field(error), "message": _message(error)} for error in errors[:20]]
            raise exception.BadRequest(faults[0]["message"], field=faults[0]["field"], errors=faults)


def parse_json(body: bytes) -> Any:
    """Read a JSON body.

    :raises BadRequest: it is not JSON, or holds what no database keeps and no process takes: text that is not Unicode, NaN,
        keys given twice.
    """
    try:
        document = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
        # Half a surrogate pair ("\\ud800") passes as JSON but has no UTF-8.
        if rb"\u" in body:
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise exception.BadRequest("The body is not JSON: its text is not valid UTF-8.") from None
    except json.JSONDecodeError as error:
        raise exception.BadRequest(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise exception.BadRequest(f"The body is not JSON that this service accepts: {reason}.") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_show(twice)} is given twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _importance(error: Any) -> tuple[int, list[str]]:
    """A misspelt key explains a missing one, so it comes first."""
    return (0 if error.validator in ("additionalProperties", "propertyNames") else 1, [str(part) for part in error.absolute_path])


def _field(error: Any) -> str:
    path = list(error.absolute_path)
    if error.validator == "additionalProperties":
        path.append(_unknown(error.instance, error.schema)[0])
    elif error.validator == "required":
        path.append(error.message)
    return ".".join(str(part) for part in path)


def _unknown(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    return [key for key in instance if key not in schema.get("properties", {})]


def _message(error: Any) -> str:
    field = _field(error)
    where = field or "The body"
    secret = any(part in _SECRET_FIELDS for part in error.absolute_path)
    value = "the value" if secret else _show(error.instance)
    limit = error.validator_value
    match error.validator:
        case "additionalProperties":
            return f"{where}: unknown key; {_hint(_unknown(error.instance, error.schema)[0], error.schema)}."
        case "required":
            return f"{where} is required{_purpose(error.schema.get('properties', {}).get(error.message, {}))}."
        case "type":
            wanted = " or ".join(_SCHEMA_NAMES[name] for name in ([limit] if isinstance(limit, str) else limit))
            got = _JSON_NAMES[type(error.instance)]
            return f"{where} must be {wanted}, not {got}{'' if secret else f' ({value})'}."
        case "minimum" | "maximum":
            return f"{where} must be at {'least' if error.validator == 'minimum' else 'most'} {limit}, not {value}."
        case "not":
            return f"{where}: {value} is not allowed{_purpose(limit)}."
        case "enum" | "const":
            allowed = [str(item) for item in (limit if error.validator == "enum" else [limit])]
            return f"{where}: {value} is not one of {', '.join(allowed)}."
        case _:
            return f"{where}: {_limit(error, value)}."


def _limit(error: Any, value: str) -> str:
    limit = error.validator_value
    size = len(error.instance) if hasattr(error.instance, "__len__") else 0
    words = {
        "minLength": "it must not be empty" if limit == 1 else f"{value} is shorter than {limit} characters",
        "maxLength": f"it has {size} characters, at most {limit} are allowed",
        "minItems": "it must not be empty" if limit == 1 else f"it has {size} items, at least {limit} are needed",
        "maxItems": f"it has {size} items, at most {limit} are allowed",
        "minProperties": "it must not be empty",
        "maxProperties": f"it has {size} keys, at most {limit} are allowed",
        "uniqueItems": "an item is given twice",
        "pattern": f"{value} is not valid{_purpose(error.schema)}",
    }
    return words.get(str(error.validator), error.message)


def _hint(key: str, schema: Mapping[str, Any]) -> str:
    """Say what to do in place of an unknown key: as the schema has it, else by the names of the known ones."""
    return schema.get("x-hints", {}).get(key) or nearest(key, "keys", schema.get("properties", {}))


def _purpose(schema: Mapping[str, Any]) -> str:
    text = str(schema.get("description", "")).rstrip(".")
    return f": {text[0].lower()}{text[1:]}" if text else ""


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
