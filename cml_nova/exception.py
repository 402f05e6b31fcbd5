"""Every error of the service. An error that can reach a user owns its HTTP code and says cause and way out."""

from __future__ import annotations

from typing import Any


class CMLError(Exception):
    """Base class.

    ``message`` is for the user: what was wrong (field, value, limit) and what to do.
    ``code`` is the HTTP status, ``title`` its short name, ``slug`` a stable machine-readable word.
    """

    code = 500
    title = "Internal Server Error"
    slug = "internal_error"

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class BadRequest(CMLError):
    code, title, slug = 400, "Bad Request", "bad_request"


class Unauthorized(CMLError):
    code, title, slug = 401, "Unauthorized", "unauthorized"


class Forbidden(CMLError):
    code, title, slug = 403, "Forbidden", "forbidden"


class NotFound(CMLError):
    code, title, slug = 404, "Not Found", "not_found"


class NotAcceptable(CMLError):
    code, title, slug = 406, "Not Acceptable", "not_acceptable"


class Conflict(CMLError):
    code, title, slug = 409, "Conflict", "conflict"


class TooLarge(CMLError):
    code, title, slug = 413, "Request Entity Too Large", "too_large"


class QuotaExceeded(CMLError):
    code, title, slug = 403, "Forbidden", "quota_exceeded"


class ConfigurationError(CMLError):
    """What is configured does not let a program start; says which option it is, what is wrong, and the way out."""


class NotConfigured(CMLError):
    """This deployment does without something that the service could do."""

    code, title, slug = 501, "Not Implemented", "not_configured"


class ServiceUnavailable(CMLError):
    code, title, slug = 503, "Service Unavailable", "service_unavailable"


class DatabaseUnavailable(ServiceUnavailable):
    """The database can't be used at this time. A transaction that was on its way may or may not have been committed."""

    slug = "database_unavailable"


class DatabaseBusy(DatabaseUnavailable):
    """The database gave a transaction up for the sake of others (a deadlock); nothing of it was written."""


class LeaseLost(CMLError):
    """The job belongs to another generation now: drop it and touch nothing."""

    code, title, slug = 409, "Conflict", "lease_lost"


class InvalidTransition(CMLError):
    """A phase change that the state table does not have; always a bug."""


class CloudError(CMLError):
    """A call to the cloud failed in a way that may pass; it may or may not have taken effect."""

    code, title, slug = 503, "Service Unavailable", "cloud_error"


class CloudRefused(CloudError):
    """The cloud refused for good: asking again the same way gives the same answer (bad image, flavor, policy)."""


class NoCapacity(CloudError):
    """The cloud has no room for the servers at this time."""


class CloudQuota(CloudError):
    """The project that owns the servers has used up its quota at this time."""


class RemoteError(CMLError):
    """Talking to a node failed in a way that may pass."""


class HostKeyRefused(RemoteError):
    """A machine answered under a node's address with another SSH host key than the one put into the node."""


class NodeUnfit(RemoteError):
    """A node lets us in, but is not what it has to be: the runner does not come up on it, or it lacks GPUs."""


class NodeCommandFailed(RemoteError):
    """The runner on a node refused or failed a request; the message says which and why."""
