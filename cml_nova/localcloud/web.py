"""What the handlers of all services share: the cloud, the caller's token, bodies, paging."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from flask import current_app, g, request
from werkzeug.exceptions import BadRequest

from cml_nova.localcloud import errors
from cml_nova.localcloud.accounts import Token
from cml_nova.localcloud.store import Document

if TYPE_CHECKING:
    from cml_nova.localcloud.cloud import Cloud

WRITERS = {"admin", "manager", "member"}


def cloud() -> Cloud:
    """Give the cloud that answers this request."""
    return cast("Cloud", current_app.extensions["cloud"])


def authenticate() -> Token:
    """Give the caller's token, and keep it for ``caller``.

    :raises ApiError: 401.
    """
    token = cloud().accounts.validate(request.headers.get("X-Auth-Token"))
    if token is None:
        raise errors.unauthorized()
    g.token = token
    return token


def caller() -> Token:
    """Give the token that ``authenticate`` found."""
    return cast("Token", g.token)


def may_write() -> bool:
    """Whether the caller's roles let it change things in its project."""
    return bool(WRITERS & set(caller().roles))


def may_read() -> bool:
    """Whether the caller's roles let it see things in its project."""
    return "reader" in caller().roles or caller().is_admin


def body_object(*path: str) -> Document:
    """Give the object at ``path`` in the request's JSON body.

    :raises ApiError: 400.
    """
    try:
        value: Any = request.get_json(force=True)
    except BadRequest:
        raise errors.bad_request("Malformed request body") from None
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise missing_key(name)
        value = value[name]
    if not isinstance(value, dict):
        raise errors.bad_request(f"Invalid input for field/attribute {path[-1] if path else 'body'}: {value} is not of type 'object'")
    return value


def missing_key(name: str, where: str = "request body") -> errors.ApiError:
    """Make the error that the service which was asked raises for a body without a key."""
    match request.path.split("/")[1]:
        case "network":
            text = "Resource body required"
        case "identity":
            text = (f"Expecting to find {name} in {where}. The server could not comply with the request since it is either malformed or "
                    "otherwise incorrect. The client is assumed to be in error.")
        case _:
            text = f"'{name}' is a required property"
    return errors.bad_request(text, "HTTPBadRequest")


def page(items: list[Document], maximum: int = 1000) -> tuple[list[Document], str | None]:
    """Cut one page out by the request's ``limit`` and ``marker``.

    :returns: the page, and the query string of the next one if there is one.
    :raises ApiError: 400, the limit is no number or the marker is not among the items.
    """
    text = request.args.get("limit", str(maximum))
    if not text.isdecimal():
        raise errors.bad_request(f"Invalid input for query parameters limit. Value: {text}. '{text}' does not match '^[0-9]*$'")
    limit = min(int(text), maximum) or maximum
    marker = request.args.get("marker")
    start = 0
    if marker:
        places = [place for place, item in enumerate(items) if item["id"] == marker]
        if not places:
            raise errors.bad_request(f"marker [{marker}] not found")
        start = places[0] + 1
    chosen = items[start:start + limit]
    if start + limit >= len(items):
        return chosen, None
    rest = [(key, value) for key, value in request.args.items(multi=True) if key not in ("marker", "limit")]
    return chosen, urlencode([*rest, ("limit", limit), ("marker", chosen[-1]["id"])])


def by_tags(items: Iterable[Document]) -> list[Document]:
    """Keep the items that the request's ``tags``, ``tags-any``, ``not-tags`` and ``not-tags-any`` let through."""
    def wanted(name: str) -> set[str]:
        return {tag for text in request.args.getlist(name) for tag in text.split(",") if tag}

    every, some, not_every, not_some = (wanted(name) for name in ("tags", "tags-any", "not-tags", "not-tags-any"))
    return [item for item in items if every <= set(item["tags"]) and (not some or some & set(item["tags"]))
            and not (not_every and not_every <= set(item["tags"])) and not not_some & set(item["tags"])]
