"""Routes that say what they take, what they give and what policy guards them; the OpenAPI document is made from the same words."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flask

from cml_nova import exception
from cml_nova.api import auth
from cml_nova.api.services import services
from cml_nova.api.validation import Schema, parse_json
from cml_nova.db.engine import retried

_PIECE = 1 << 20
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class Operation:
    """An operation as the OpenAPI document tells it."""

    method: str
    path: str
    policy: str
    summary: str
    status: int
    query: Mapping[str, Any] | None
    body: Mapping[str, Any] | None
    response: Mapping[str, Any] | None
    #: media type of a request or response that is not JSON
    takes: str | None
    gives: str | None

    @property
    def full_path(self) -> str:
        """The path in OpenAPI's form."""
        return "/v1" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.path)


class Resource(flask.Blueprint):
    """A blueprint below /v1 that keeps a list of its operations."""

    def __init__(self, name: str, import_name: str) -> None:
        super().__init__(name, import_name, url_prefix="/v1")
        self.operations: list[Operation] = []

    def operation(
        self, method: str, path: str, *, policy: str, status: int = 200, query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None, response: Mapping[str, Any] | None = None,
        takes: str | None = None, gives: str | None = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a view. It is called after the policy was asked and query and body were checked against their schemas.

        :param policy: rule without the prefix "cml:", or ``auth.OPEN``.
        :param status: of the usual answer, for the document.
        :param query: schema of an object; its properties reach the view as keyword arguments, None where absent.
        :param body: schema of the JSON body, which reaches the view as ``body``.
        :param response: schema of the JSON answer.
        """
        query_schema = Schema(query) if query else None
        body_schema = Schema(body) if body else None
        response_schema = Schema(response) if response else None

        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            # What came as a stream is used up; everything else may be done once more.
            run = view if takes else retried(view)
            summary = (view.__doc__ or "").strip().partition("\n")[0]
            self.operations.append(Operation(method, path, policy, summary, status, query, body, response, takes, gives))

            @functools.wraps(view)
            def handle(**arguments: Any) -> Any:
                auth.authorize(policy)
                if query is not None and query_schema is not None:
                    arguments |= _query(query, query_schema)
                elif flask.request.args:
                    raise exception.BadRequest(f"{next(iter(flask.request.args))}: {method} {path} takes no query.")
                if body_schema is not None:
                    arguments["body"] = _body(body_schema)
                answer = run(**arguments)
                if response_schema is not None and services().validate_responses:
                    _check_answer(answer, response_schema)
                return answer

            self.add_url_rule(path, f"{method} {path}".replace(".", "_"), handle, methods=[method])
            return view

        return decorate


def _query(schema: Mapping[str, Any], compiled: Schema) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, values in flask.request.args.lists():
        kind = schema["properties"].get(name, {}).get("type")
        if kind == "array":
            given[name] = values
        elif len(values) > 1:
            raise exception.BadRequest(f"{name} is given {len(values)} times; give it once.", field=name)
        else:
            given[name] = _parse(name, kind, values[0])
    compiled.check(given)
    return {**dict.fromkeys(schema["properties"]), **given}


def _parse(name: str, kind: str | None, text: str) -> Any:
    if kind == "integer":
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise exception.BadRequest(f"{name}: {text[:80]!r} is not an integer.", field=name)
        return int(text)
    if kind == "boolean":
        if text.lower() not in _TRUE + _FALSE:
            raise exception.BadRequest(f"{name}: {text[:80]!r} is neither true nor false.", field=name)
        return text.lower() in _TRUE
    return text


def _body(schema: Schema) -> Any:
    data = b"".join(body_pieces(services().conf.api.max_body_bytes, "max_body_bytes"))
    if not data:
        raise exception.BadRequest("The body is empty; this request needs a JSON object.")
    document = parse_json(data)
    schema.check(document)
    return document


def body_pieces(limit: int, option: str) -> Iterator[bytes]:
    """Give the request's body piece by piece.

    :param limit: most bytes that are read, which the option ``option`` of [api] sets.
    :raises TooLarge: there are more.
    """
    total = flask.request.content_length or 0
    if total <= limit:
        total = 0
        # One byte more than allowed tells a body that is too large and did not say so from one that just fits.
        while piece := flask.request.stream.read(min(_PIECE, limit + 1 - total)):
            total += len(piece)
            if total > limit:
                break
            yield piece
    if total > limit:
        raise exception.TooLarge(f"The body is larger than {limit} bytes ([api] {option}); keep data apart from what describes it.")


def _check_answer(answer: Any, schema: Schema) -> None:
    document = answer[0] if isinstance(answer, tuple) else answer
    try:
        schema.check(document)
    except exception.BadRequest as error:
        raise AssertionError(f"{flask.request.endpoint} answers other than its schema says: {error.message}") from None
