"""One request to the cloud: reads and deletions are repeated when they fail in passing, creations never are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import requests
import tenacity
from keystoneauth1 import exceptions as ksa
from openstack import exceptions as sdk

from cml_nova import exception
from cml_nova.compute import errors

#: Nova's microversion: tags at creation (2.52), extra specs in the flavor list (2.61), host names (2.90). Never "latest".
MICROVERSION = "2.90"
ATTEMPTS = 4
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 3.0
LONGEST_RETRY_AFTER = 10.0
#: requests of a process in flight: a burst of jobs is no reason to flood the cloud, nor to have hundreds of threads work at a time.
#: What all wait for, and deletions, of which few are in flight anyway, do not queue up with the others
_turns = threading.BoundedSemaphore(16)

Params = dict[str, Any]


class Connection(Protocol):
    """What requests go through: an openstacksdk ``Connection``, or ``session.UserConnection``. Each service is a keystoneauth adapter."""

    session: Any

    @property
    def compute(self) -> Any: ...

    @property
    def image(self) -> Any: ...

    @property
    def network(self) -> Any: ...

    @property
    def identity(self) -> Any: ...


def _may_pass(error: BaseException) -> bool:
    """Tell whether asking again soon is of use: a conflict stays one, and a timeout has already taken its time."""
    return type(error) is exception.CloudError and error.detail.get("status") != 409 and not error.detail.get("timeout")


_jitter = tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)


def _pause(state: tenacity.RetryCallState) -> float:
    """Give the seconds until the next try: jittered, and not less than the cloud asks for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.detail.get("retry_after", 0.0) if isinstance(error, exception.CloudError) else 0.0
    return max(_jitter(state), min(asked, LONGEST_RETRY_AFTER))


@tenacity.retry(
    retry=tenacity.retry_if_exception(_may_pass),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    wait=_pause,
    reraise=True,
)
def _repeatedly(connection: Connection, service: str, method: str, path: str, what: str, **kwargs: Any) -> requests.Response:
    return _once(connection, service, method, path, what, **kwargs)


def _once(connection: Connection, service: str, method: str, path: str, what: str, *, first: bool = False,
          **kwargs: Any) -> requests.Response:
    """Send one request; keystoneauth itself only renews a refused token, which is safe for every method.

    :raises CMLError: see ``errors.raise_for``.
    :raises CloudError: there was no answer; the request may or may not have taken effect.
    """
    if service == "compute":
        kwargs["microversion"] = MICROVERSION
    try:
        # Getting the proxy may ask for a token and what versions there are; the connection keeps both.
        with nullcontext() if first or method == "DELETE" else _turns:
            response = getattr(connection, service).request(path, method, raise_exc=False, connect_retries=0, status_code_retries=0,
                                                            **kwargs)
    except ksa.Unauthorized as error:
        raise exception.Unauthorized(f"Could not {what}: the cloud refused the credentials: {error}") from error
    except ksa.ConnectTimeout as error:
        raise exception.CloudError(f"Could not {what}: {error}", timeout=True) from error
    except (ksa.ConnectionError, ksa.DiscoveryFailure, ksa.HttpError, sdk.SDKException) as error:
        raise exception.CloudError(f"Could not {what}: {error}") from error
    except ksa.ClientException as error:
        raise exception.CloudRefused(f"Could not {what}: {error}") from error
    errors.raise_for(response, what)
    return response


def _body(response: requests.Response, what: str) -> dict[str, Any]:
    try:
        body = response.json()
    except requests.JSONDecodeError as error:
        raise exception.CloudError(f"Could not {what}: the cloud's answer is not JSON.") from error
    if not isinstance(body, dict):
        raise exception.CloudError(f"Could not {what}: the cloud's answer is not a JSON object.")
    return body


def get(connection: Connection, service: str, path: str, what: str, params: Params | None = None, *, first: bool = False) -> dict[str, Any]:
    """Read one document.

    :param service: "compute", "image", "network" or "identity".
    :param path: below the service's endpoint.
    :param what: what it is for, as "list the servers of job 4711"; it ends up in error messages.
    :param first: it goes before the requests that take turns.
    """
    return _body(_repeatedly(connection, service, "GET", path, what, first=first, params=params or {}), what)


def pages(connection: Connection, service: str, path: str, key: str, what: str,
          params: Params | None = None, *, first: bool = False) -> Iterator[dict[str, Any]]:
    """Read a list, page by page, with no request after the last page; see ``each_page``."""
    for page in each_page(connection, service, path, key, what, params, first=first):
        yield from page


def each_page(connection: Connection, service: str, path: str, key: str, what: str,
              params: Params | None = None, *, first: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Read a list and give each page of it, with no request after the last one.

    :param key: the list's name in the document; also of its links (``<key>_links``), Glance has ``next``.
    :raises CloudError: a page is not what it should be. Never gives a part of a list as if it were the whole.
    """
    query = dict(params or {})
    while True:
        body = get(connection, service, path, what, query, first=first)
        page = body.get(key)
        if not isinstance(page, list):
            raise exception.CloudError(f"Could not {what}: the cloud's answer has no list of {key}.")
        yield page
        links = body.get(f"{key}_links") or []
        more = "next" in body or any(link.get("rel") == "next" for link in links)
        if not more or not page:
            return
        query["marker"] = page[-1]["id"]


def post(connection: Connection, service: str, path: str, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Create something. Never repeated: an answer that got lost may hide a creation that worked."""
    return _body(_once(connection, service, "POST", path, what, json=body), what)


def delete(connection: Connection, service: str, path: str, what: str) -> None:
    """Delete something; that it is gone already is fine."""
    try:
        _repeatedly(connection, service, "DELETE", path, what)
    except exception.NotFound:
        return


def project_id(connection: Connection, what: str) -> str:
    """Give the project that the connection acts in, from its token.

    :raises CloudError: no token could be got, or it is not for a project.
    """
    try:
        found = connection.session.get_project_id()
    except ksa.ClientException as error:
        raise exception.CloudError(f"Could not {what}: {error}") from error
    if not found:
        raise exception.CloudRefused(f"Could not {what}: the credentials are not for a project.")
    return str(found)
