"""Which answer of the cloud is which error of ours."""

from __future__ import annotations

import requests
from openstack import exceptions as sdk

from cml_nova import exception

# Nova's scheduler (NoValidHost), its "max attempts" after failed builds, and a claim that the host could not keep.
_NO_CAPACITY = ("no valid host", "not enough hosts available", "exceeded max scheduling attempts", "exceeded maximum number of retries",
                "insufficient compute resources",
                # Neutron's pools: IpAddressGenerationFailure, ExternalIpAddressExhausted; Nova's word for the former
                "no more ip addresses available", "unable to find any ip address on external network", "no fixed ip addresses available")
# Nova (OverQuota, PortLimitExceeded, and its words for a project that is over its quota of ports already), Neutron (OverQuota),
# oslo.limit (ProjectOverLimit).
_QUOTA = ("quota exceeded", "maximum number of ports exceeded", "is over the limit", "over their limit",
          "maximum number of fixed ips exceeded")


def _says(text: str, phrases: tuple[str, ...]) -> bool:
    lowered = text.lower()
    return any(phrase in lowered for phrase in phrases)


def of_fault(fault: str | None) -> exception.CloudError:
    """Classify the fault of a server in ERROR.

    :param fault: ``fault.message`` of the server; None when Nova gives none.
    :returns: NoCapacity, CloudQuota, or CloudError for anything else, which another try on another host may cure.
    """
    text = fault or "the cloud gives no reason"
    if _says(text, _NO_CAPACITY):
        return exception.NoCapacity(text)
    if _says(text, _QUOTA):
        return exception.CloudQuota(text)
    return exception.CloudError(text)


def again(error: exception.CMLError) -> exception.CMLError:
    """Copy an error that several threads are to raise: each raises its own."""
    copy = type(error)(error.message, **error.detail)
    copy.__cause__ = error
    return copy


def raise_for(response: requests.Response, what: str) -> None:
    """Raise the error that an answer means; return on success.

    :param what: what was asked, for the message ("create 4 servers").
    :raises CloudQuota: 403 and 413 of Nova, 409 of Neutron, that speak of a quota.
    :raises NoCapacity: the refusal speaks of missing hosts.
    :raises Unauthorized: 401, after the session has tried a fresh token where it can get one.
    :raises NotFound: 404.
    :raises CloudRefused: 400, other 403, and the rest of 4xx.
    :raises CloudError: 5xx, 408, 409, 429.
    """
    status = response.status_code
    if status < 400:
        return
    said = _message(response)
    message = f"Could not {what}: the cloud answered {status}: {said}"
    if status in (403, 409, 413) and _says(said, _QUOTA):
        raise exception.CloudQuota(message, status=status)
    if status < 500 and _says(said, _NO_CAPACITY):
        raise exception.NoCapacity(message, status=status)
    if status == 401:
        raise exception.Unauthorized(message)
    if status == 404:
        raise exception.NotFound(message)
    if status in (408, 409, 429) or status >= 500:
        retry_after = response.headers.get("Retry-After", "")
        raise exception.CloudError(message, status=status, retry_after=float(retry_after) if retry_after.isdigit() else 0.0)
    raise exception.CloudRefused(message, status=status)


def _message(response: requests.Response) -> str:
    """Give the cloud's own words, taken from whichever of the error bodies the service sends."""
    try:
        sdk.raise_from_response(response)
    except sdk.HttpException as error:
        return str(error.details or error.message or response.reason)
    return str(response.reason)
