"""The version of the API that a request speaks: ``OpenStack-API-Version: machine-learning 1.1``."""

from __future__ import annotations

import flask
import microversion_parse
from microversion_parse import Version

from cml_nova import exception

SERVICE_TYPE = "machine-learning"
HEADER = "OpenStack-API-Version"
#: what clients may call the service in the header, besides its type
ALIASES = (SERVICE_TYPE, "machine_learning", "cml", "cml-nova", "cml_nova")

#: every version with what it brought; the newest one last
VERSIONS = (
    "1.1",  # jobs, packages, frameworks, flavors, workers
)


def minimum() -> str:
    return VERSIONS[0]


def maximum() -> str:
    return VERSIONS[-1]


def read() -> None:
    """Note in ``flask.g.version`` which version the request asks for; the oldest one if it asks for none.

    :raises BadRequest: the header is malformed.
    :raises NotAcceptable: the service does not speak this version.
    """
    flask.g.version = Version(*map(int, minimum().split(".")))
    wanted = None
    for alias in ALIASES:
        wanted = wanted or microversion_parse.get_version(flask.request.headers, service_type=alias)
    if wanted is None:
        return
    if wanted == "latest":
        wanted = maximum()
    try:
        version = microversion_parse.parse_version_string(wanted)
    except TypeError:
        raise exception.BadRequest(f"{HEADER}: {wanted!r} is not a version like {maximum()} or latest.") from None
    if not version.matches(*(microversion_parse.parse_version_string(v) for v in (minimum(), maximum()))):
        raise exception.NotAcceptable(
            f"{HEADER}: version {wanted} is not supported; the versions are {minimum()} to {maximum()}.",
            min_version=minimum(), max_version=maximum())
    flask.g.version = version


def write(response: flask.Response) -> flask.Response:
    """Say which version the response speaks."""
    version = flask.g.get("version") or minimum()
    response.headers[HEADER] = f"{SERVICE_TYPE} {version}"
    response.vary.add(HEADER)
    return response
