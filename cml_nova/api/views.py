"""Parts of answers that several resources share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import flask

from cml_nova import exception
from cml_nova.api.services import services


def iso(at: float) -> str:
    """Give a time (seconds since 1970 UTC) as ISO 8601 with milliseconds.

    It is never later than the time: what has changed since it includes what changed at the time.
    """
    whole = math.floor(at * 1000) / 1000
    return datetime.fromtimestamp(whole, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def maybe_iso(at: float | None) -> str | None:
    return None if at is None else iso(at)


def seconds(field: str, text: str, otherwise: str = "") -> float:
    """Read an ISO 8601 time as seconds since 1970; UTC where it names no zone.

    :param otherwise: what else would do, for the message.
    :raises BadRequest: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        words = f"is not a time like 2026-01-31T12:00:00Z{otherwise and ', '}{otherwise}"
        raise exception.BadRequest(f"{field}: {text[:80]!r} {words}.", field=field) from None


def page_size(limit: int | None) -> int:
    """How many items to give: what is asked for, within what the service gives at most."""
    most: int = services().conf.api.max_limit
    return most if limit is None else min(limit, most)


def url(path: str) -> str:
    """Give the absolute URL of a path of this service as the client reaches it."""
    if "root_url" not in flask.g:
        flask.g.root_url = flask.request.root_url.rstrip("/")
    return f"{flask.g.root_url}{path}"


def links(path: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": url(path)}]


def paged(name: str, items: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
    """Make a list answer; a full page gets a link to the next one."""
    answer: dict[str, Any] = {name: items}
    if items and len(items) == size:
        query = [(key, value) for key, value in flask.request.args.items(multi=True) if key != "marker"]
        query.append(("marker", str(items[-1]["id"])))
        answer[f"{name}_links"] = [{"rel": "next", "href": f"{url(flask.request.path)}?{urlencode(query)}"}]
    return answer
