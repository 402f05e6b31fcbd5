"""Going on when the service, or the way to it, is away for a while: for what lasts longer than one request."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import requests
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions

from cml_nova.clients.sdk.errors import explain

T = TypeVar("T")

#: answers that another request may not get
_PASSING = (429, 502, 503, 504)
#: no answer, or one that broke off; keystoneauth has words of its own for them only while it reads the answer itself
_AWAY = (ks_exceptions.RetriableConnectionFailure, ks_exceptions.DiscoveryFailure)
_BROKEN = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
#: seconds between tries, at first and at most
_PAUSE, _LONGEST = 0.25, 2.0


class Patience:
    """Repeats requests that only read, as long as what fails may pass.

    :param seconds: without an answer, after which the error is raised.
    :param notify: called with a sentence when trouble begins and when it is over.
    """

    def __init__(self, seconds: float = 600, notify: Callable[[str], None] | None = None) -> None:
        self._seconds = seconds
        self._notify = notify or (lambda text: None)

    def call(self, request: Callable[[], T]) -> T:
        """Give what the request gives.

        :raises Exception: its error, where that is not of those that pass, or has lasted too long.
        """
        began, pause = time.monotonic(), _PAUSE
        while True:
            try:
                answer = request()
            except Exception as error:
                if not passing(error) or time.monotonic() - began > self._seconds:
                    raise
                if pause == _PAUSE:
                    self._notify(f"The service does not answer, trying again: {explain(error)}")
                # Not all at the same time, when the service is back and many were waiting for it.
                time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 -- no secret
                pause = min(2 * pause, _LONGEST)
            else:
                if pause > _PAUSE:
                    self._notify("The service answers again.")
                return answer


def passing(error: Exception) -> bool:
    """Tell whether an error may be gone with the next try: no connection, or an answer from what stands before a service that is away."""
    if isinstance(error, exceptions.HttpException):
        return error.status_code in _PASSING
    if isinstance(error, ks_exceptions.HttpError):  # Keystone's, for a new token
        return error.http_status in _PASSING
    if isinstance(error, requests.exceptions.SSLError):
        return False
    return isinstance(error, _AWAY) or isinstance(getattr(error, "original", error), _BROKEN)
