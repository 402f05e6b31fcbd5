"""Times as the APIs write and read them."""

from __future__ import annotations

import datetime

from cml_nova.localcloud import errors


def iso(seconds: float) -> str:
    """Give seconds since 1970 as ``2026-11-01T12:00:00Z``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_fraction(seconds: float | None, zone: str = "") -> str | None:
    """Give seconds since 1970 as ``2026-11-01T12:00:00.000000`` with ``zone`` after it; None stays None."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + zone


def parse(name: str, text: str) -> float:
    """Give the seconds since 1970 of an ISO 8601 time; one without a zone is UTC.

    :raises ApiError: 400 naming the parameter.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.bad_request(f"Invalid input for query parameters {name}. Value: {text}. '{text}' is not a 'date-time'") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
