"""What a project may have, what it has, and whether more would be too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from cml_nova import exception
from cml_nova.api.jobspec import accelerators_of
from cml_nova.api.services import services
from cml_nova.db import quotas
from cml_nova.db.quotas import RESOURCES

#: a limit that is none
UNLIMITED = -1


@dataclass(frozen=True)
class Shortage:
    """A resource of which a project would have too much."""

    resource: str
    needed: int
    in_use: int
    limit: int

    @property
    def free(self) -> int:
        return max(0, self.limit - self.in_use)

    @property
    def message(self) -> str:
        """Say what is wanting, and the way out."""
        ways = [] if self.resource == "jobs" else [f"ask for fewer {self.resource}"]
        if self.needed <= self.limit:
            ways.append("wait until jobs have ended, or cancel some")
        return (f"Quota exceeded for {self.resource}: the job needs {self.needed}, free are {self.free} of {self.limit}. "
                f"Either {', '.join([*ways, 'or have an administrator raise the limit of the project'])}; GET /v1/quota "
                "(openstack ml quota show) tells what is in use.")


def needs(flavors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What a job takes of a project's quota from its creation to its end.

    :param flavors: of its nodes, as its ``spec`` has them.
    """
    return {"jobs": 1, "nodes": len(flavors), "accelerators": sum(map(accelerators_of, flavors))}


def limits(project_id: str) -> dict[str, int]:
    """What a project may have at a time; ``UNLIMITED`` for no limit.

    Those of Keystone are remembered for as long as names are: each would cost a request or two for each job.
    """
    if services().conf.quota.driver == "unified":
        key = ("limits", project_id)
        known: dict[str, int] | None = services().lookups.get(key)
        if known is None:
            known = services().unified_limits.of(project_id, RESOURCES)
            services().lookups.set(key, known, services().conf.api.lookup_cache_time)
        return known
    with services().db.read() as session:
        own = quotas.limits(session, project_id)
    configured = services().conf.quota
    return {name: configured[name] if own[name] is None else own[name] for name in RESOURCES}  # type: ignore[misc]


def set_limits(project_id: str, values: Mapping[str, int | None]) -> None:
    """Set limits of a project; None for the configured one again.

    :raises Conflict: they are not kept here.
    """
    if services().conf.quota.driver == "unified":
        raise exception.Conflict("Limits of projects are kept in Keystone here; set them there (openstack limit create, limit set).")
    with services().db.write() as session:
        quotas.set_limits(session, project_id, values)


def shortages(needed: Mapping[str, int], in_use: Mapping[str, int], limits: Mapping[str, int]) -> list[Shortage]:
    """Tell of what a project would have too much."""
    found = [Shortage(name, needed[name], in_use[name], limits[name]) for name in RESOURCES]
    return [s for s in found if s.limit != UNLIMITED and s.needed > s.free and s.needed > 0]


def nodes_left(flavor: Mapping[str, Any], in_use: Mapping[str, int], limits: Mapping[str, int]) -> int | None:
    """Tell how many nodes with a flavor one more job of a project may have; None where nothing limits that.

    :param flavor: as a job's ``spec`` has it.
    """
    if limits["jobs"] != UNLIMITED and in_use["jobs"] >= limits["jobs"]:
        return 0
    each = {"nodes": 1, "accelerators": accelerators_of(flavor)}
    left = [max(0, limits[name] - in_use[name]) // amount for name, amount in each.items() if amount and limits[name] != UNLIMITED]
    return min(left, default=None)


def check(session: Session, project_id: str, needed: Mapping[str, int], limits: Mapping[str, int]) -> None:
    """Assert that a project may have this much more, in the transaction that adds it; nothing may have been read in it before.

    :raises QuotaExceeded: names the resource, what is needed and free, and the limit.
    """
    if all(limits[name] == UNLIMITED for name in RESOURCES):
        return
    quotas.lock(session, project_id)
    found = shortages(needed, quotas.in_use(session, project_id), limits)
    if found:
        first = found[0]
        raise exception.QuotaExceeded(first.message, resource=first.resource, needed=first.needed, free=first.free, limit=first.limit)
