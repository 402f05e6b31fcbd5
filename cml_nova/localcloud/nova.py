"""What the parts of the compute API share: errors, microversions, policy."""

from __future__ import annotations

import re

from flask import Response, g, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.web import authenticate, caller, cloud, may_read, may_write

MIN_VERSION, MAX_VERSION = "2.1", "2.96"
_KINDS = {400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod", 409: "conflictingRequest",
          413: "overLimit", 415: "badMediaType", 429: "overLimit", 501: "notImplemented", 503: "serviceUnavailable"}
_VERSION_HEADER = re.compile(r"(?:^|,)\s*compute\s+(\S+?)\s*(?:,|$)")


def render(error: errors.ApiError) -> Response:
    """Give Nova's form of an error."""
    if error.status == 401:  # answered by the middleware in front of Nova
        response = jsonify({"error": {"code": 401, "title": "Unauthorized", "message": error.message}})
        response.headers["WWW-Authenticate"] = f'Keystone uri="{cloud().options.url}/identity"'
    else:
        response = jsonify({_KINDS.get(error.status, "computeFault"): {"code": error.status, "message": error.message}})
    response.status_code = error.status
    return response


def check_request() -> None:
    """Refuse a request with a bad microversion or token.

    :raises ApiError: 400 or 406 for the version, 401 for the token.
    """
    found = _VERSION_HEADER.search(request.headers.get("OpenStack-API-Version", ""))
    wanted = found[1] if found else request.headers.get("X-OpenStack-Nova-API-Version", MIN_VERSION)
    if wanted == "latest":
        wanted = MAX_VERSION
    if not re.fullmatch(r"[1-9]\d*\.(0|[1-9]\d*)", wanted):
        raise errors.bad_request(f"API Version String {wanted} is of invalid format. Must be of format MajorNum.MinorNum.")
    if not _number(MIN_VERSION) <= _number(wanted) <= _number(MAX_VERSION):
        raise errors.ApiError(406, f"Version {wanted} is not supported by the API. Minimum is {MIN_VERSION} "
                                   f"and maximum is {MAX_VERSION}.")
    g.microversion = wanted
    authenticate()
    caller().project_id  # noqa: B018 -- a token without a project is refused


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def microversion_headers() -> dict[str, str]:
    """Give the headers that name the version of the answer."""
    version = g.get("microversion", MIN_VERSION)
    return {"OpenStack-API-Version": f"compute {version}", "X-OpenStack-Nova-API-Version": version,
            "Vary": "OpenStack-API-Version, X-OpenStack-Nova-API-Version"}


def policy(rule: str, *, write: bool = False, admin: bool = False) -> None:
    """Refuse what the caller's roles do not allow.

    :raises ApiError: 403 in Nova's wording.
    """
    allowed = caller().is_admin if admin else may_write() if write else may_read()
    if not allowed:
        raise errors.forbidden(f"Policy doesn't allow os_compute_api:{rule} to be performed.")


def links(path: str) -> list[dict[str, str]]:
    """Give the two links of a resource."""
    url = cloud().options.url
    return [{"rel": "self", "href": f"{url}/compute/v2.1/{path}"}, {"rel": "bookmark", "href": f"{url}/compute/{path}"}]
