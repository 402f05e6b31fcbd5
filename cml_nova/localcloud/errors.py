"""Errors of the wire APIs; each service renders them in its own form."""

from __future__ import annotations


class ApiError(Exception):
    """An answer other than success.

    :param status: HTTP status.
    :param message: what the user reads, in the wording of the real service where clients look at it.
    :param kind: the name of the error in Neutron's bodies (``SecurityGroupInUse``).
    """

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind


def bad_request(message: str, kind: str = "BadRequest") -> ApiError:
    """400: the request is wrong."""
    return ApiError(400, message, kind)


def forbidden(message: str, kind: str = "PolicyNotAuthorized") -> ApiError:
    """403: the caller may not."""
    return ApiError(403, message, kind)


def not_found(message: str, kind: str = "NotFound") -> ApiError:
    """404: there is no such thing that the caller can see."""
    return ApiError(404, message, kind)


def conflict(message: str, kind: str = "Conflict") -> ApiError:
    """409: not in the present state."""
    return ApiError(409, message, kind)


UNAUTHORIZED = "The request you have made requires authentication."


def unauthorized(message: str = UNAUTHORIZED) -> ApiError:
    """401: no valid token, or wrong credentials."""
    return ApiError(401, message, "Unauthorized")
