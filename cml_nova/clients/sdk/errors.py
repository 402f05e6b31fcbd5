"""Errors as users want to read them."""

from __future__ import annotations

from typing import Any

from openstack import exceptions


class ServiceNotFound(exceptions.SDKException):
    """The cloud has no such service."""

    def __init__(self, service_type: str, config: Any) -> None:
        interface, region = config.get_interface(service_type), config.get_region_name(service_type)
        super().__init__(
            f"This cloud's catalog has no {interface or 'public'} endpoint of a service of the type {service_type!r}"
            f"{f' in the region {region}' if region else ''}. `openstack catalog list` shows what it has; where the service is there "
            f"under another type or only by its URL, say so in clouds.yaml: {service_type.replace('-', '_')}_service_type or "
            f"{service_type.replace('-', '_')}_endpoint_override.")


def answer(error: Any) -> dict[str, Any]:
    """Give what the service has said of an error: code, title, message, errors; empty if it was not the service that answered.

    :param error: an HttpException of openstacksdk.
    """
    try:
        document = error.response.json()["error"]
        return document if isinstance(document, dict) else {}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def explain(error: Exception) -> str:
    """Say what went wrong in the service's own words; for its own faults (5xx) with the id under which its log has the request.

    openstacksdk's own text has a class's name and the URL before these words, and leaves the id out.
    """
    words = str(answer(error).get("message") or getattr(error, "details", None) or error)
    request_id = getattr(error, "request_id", None)
    return f"{words} (request {request_id})" if request_id and (getattr(error, "status_code", None) or 0) >= 500 else words
