"""The OpenAPI 3.1 document, made from the routes and the schemas that requests and answers are checked against."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from cml_nova.api import microversion
from cml_nova.api.routing import Operation, Resource
from cml_nova.api.schemas.common import ERROR

_ERRORS = {"400": "The request is wrong; the message says what.", "401": "No valid token.", "403": "The policy does not allow it.",
           "404": "There is no such thing in this project.", "409": "The state of the resource does not allow it.",
           "413": "The body is too large.", "501": "This deployment does without it."}
_STATUS = {200: "Done.", 201: "Created.", 202: "Accepted.", 204: "Gone."}


def document(resources: Iterable[Resource]) -> dict[str, Any]:
    """Make the document."""
    components: dict[str, Any] = {}
    _hoist(ERROR, components)
    paths: dict[str, dict[str, Any]] = {}
    for resource in resources:
        for operation in resource.operations:
            path = paths.setdefault(operation.full_path, {})
            path[operation.method.lower()] = _operation(operation, resource.name, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Machine Learning Service", "version": microversion.maximum(),
                 "description": f"cml_nova {metadata.version('cml_nova')}: distributed deep-learning training as an OpenStack service."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "A Keystone token."}},
        },
        "security": [{"token": []}],
    }


def _operation(operation: Operation, tag: str, components: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.full_path}").strip("_"),
        "summary": operation.summary,
        "tags": [tag],
        "x-policy": f"cml:{operation.policy}",
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": _responses(operation, components),
    }
    if operation.body is not None:
        result["requestBody"] = {"required": True, "content": {"application/json": {"schema": _hoist(operation.body, components)}}}
    elif operation.takes is not None:
        result["requestBody"] = {"required": True, "content": {operation.takes: {"schema": {"type": "string", "format": "binary"}}}}
    return result


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", operation.full_path)]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    properties = operation.query["properties"] if operation.query else {}
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _responses(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, Any] = {"description": _STATUS[operation.status]}
    if operation.response is not None:
        usual["content"] = {"application/json": {"schema": _hoist(operation.response, components)}}
    elif operation.gives is not None:
        usual["content"] = {operation.gives: {"schema": {"type": "string"}}}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {str(operation.status): usual} | {code: {"description": text, **error} for code, text in _ERRORS.items()}


def _hoist(schema: Any, components: dict[str, Any]) -> Any:
    """Replace each schema that has a title by a reference to a component of that name."""
    if isinstance(schema, list):
        return [_hoist(item, components) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {key: _hoist(value, components) for key, value in schema.items()}
    title = schema.get("title")
    if not isinstance(title, str):
        return inner
    components[title] = inner
    return {"$ref": f"#/components/schemas/{title}"}
