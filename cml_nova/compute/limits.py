"""Limits of projects as Keystone keeps them for all services: unified limits."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from cml_nova import exception

#: what the service's resources are called in Keystone, among those of all services
PREFIX = "ml_"


def make_enforcer() -> Any:
    """Make oslo.limit's client, by the group [oslo_limit]."""
    # Imported when it is wanted: on import it reads the global configuration, which must have been loaded by then.
    from oslo_limit import limit

    # What is in use is counted, and compared with the limits, in the transaction that adds to it: no request may keep that waiting.
    return limit.Enforcer(lambda project_id, names: {}, cache=False)


class UnifiedLimits:
    """Reads limits of projects. Nothing is asked before first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._enforcer: Any = None

    def of(self, project_id: str, resources: Iterable[str]) -> dict[str, int]:
        """Give a project's limits, or the registered ones where it has none; 0 where none is registered, -1 for no limit.

        :raises ServiceUnavailable: Keystone can't be asked, or is not set up for it.
        """
        names = {f"{PREFIX}{resource}": resource for resource in resources}
        try:
            with self._lock:
                self._enforcer = self._enforcer or make_enforcer()
            found = self._enforcer.get_project_limits(project_id, list(names))
        # oslo.limit says in many ways, ValueError among them, that it has no account, no endpoint, or a model that it does not know.
        except Exception as error:
            raise exception.ServiceUnavailable(
                "The limits of projects can't be read from Keystone at this time; try again later.") from error
        return {names[name]: limit for name, limit in found}
