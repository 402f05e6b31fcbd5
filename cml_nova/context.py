"""Who asks, for what project, under which request id: carried through HTTP, the bus and the log."""

from __future__ import annotations

from oslo_context import context as oslo_context


class RequestContext(oslo_context.RequestContext):
    """A request's context; nothing is added to oslo.context's own."""


def service_context() -> RequestContext:
    """Context of work that a daemon does on its own account."""
    return RequestContext(is_admin=True, overwrite=False)
