"""What would become of a job if it were created now, and which other flavors would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cml_nova.api import auth, cost, jobspec, quota
from cml_nova.api.services import services
from cml_nova.compute.catalog import Flavor
from cml_nova.db import demand, quotas
from cml_nova.db.demand import Demand

#: most other flavors that are offered
_OFFERS = 10
_HOUR = 3600


@dataclass(frozen=True)
class _Situation:
    """What a new job of the project would meet."""

    limits: Mapping[str, int]
    in_use: Mapping[str, int]
    demand: Mapping[str, Demand]
    queued_before: int

    def shortages(self, flavors: Sequence[Mapping[str, Any]]) -> list[quota.Shortage]:
        return quota.shortages(quota.needs(flavors), self.in_use, self.limits)

    def why_busy(self, flavor: Mapping[str, Any]) -> str | None:
        """Say why there would be no room for a flavor, as far as the jobs that there are tell."""
        found = self.demand.get(flavor["id"], Demand())
        if not found.waiting:
            return None
        if not found.held:
            return f"no host: the cloud had no room for the jobs that wait for {flavor['name']} ({found.waiting}), and no node has it"
        return f"busy: jobs wait for {flavor['name']} ({found.waiting}), which nodes have ({found.held})"


def forecast(draft: jobspec.Draft, priority: int, known: Sequence[Flavor]) -> dict[str, Any]:
    """Represent what would become of a job.

    :param known: all flavors that there are.
    """
    flavors = draft.flavors
    now = _look(priority)
    short = now.shortages(flavors)
    reasons = [shortage.message for shortage in short]
    waits = [why for why in map(now.why_busy, {flavor["id"]: flavor for flavor in flavors}.values()) if why]
    if now.queued_before:
        waits.append(f"queue: jobs that come before it: {now.queued_before}")
    hourly = cost.per_hour(flavors)
    return {
        "feasible": not short, "reasons": reasons + waits, "starts": None if short else "queued" if waits else "now",
        "queue_position": now.queued_before + 1, "accelerators": quota.needs(flavors)["accelerators"],
        "cost_per_hour": hourly, "max_cost": None if hourly is None else cost.rounded(hourly * draft.spec["max_run_time"] / _HOUR),
        "currency": None if hourly is None else services().conf.cost.currency,
        "offers": _offers(draft, flavors, known, now),
    }


def _look(priority: int) -> _Situation:
    project_id = str(auth.current().project_id)
    limits = quota.limits(project_id)
    with services().db.read() as session:
        return _Situation(limits, quotas.in_use(session, project_id), demand.by_flavor(session), demand.queued_before(session, priority))


def _offers(draft: jobspec.Draft, flavors: Sequence[Mapping[str, Any]], known: Sequence[Flavor], now: _Situation) -> list[dict[str, Any]]:
    """Represent the flavors that would do in place of the one with the most accelerators, the available and cheap ones first."""
    replaced = max(flavors, key=jobspec.accelerators_of)
    offers = []
    for other in known:
        if other.id == replaced["id"] or not _would_do(other, replaced, draft):
            continue
        flavor = jobspec.flavor_view(other)
        instead = [flavor if given["id"] == replaced["id"] else given for given in flavors]
        reason = next((f"no quota: {s.resource} needed {s.needed}, free {s.free} of {s.limit}" for s in now.shortages(instead)), None)
        reason = reason or now.why_busy(flavor)
        offers.append((flavor, {"flavor": other.name, "available": reason is None, "reason": reason,
                                "cost_per_hour": cost.per_hour(instead)}))

    def rank(offer: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[Any, ...]:
        flavor, shown = offer
        price, accelerators = shown["cost_per_hour"], jobspec.accelerators_of(flavor)
        return not shown["available"], price is None, price or 0, accelerators, flavor["vcpus"], flavor["ram"], flavor["name"]

    return [shown for _, shown in sorted(offers, key=rank)[:_OFFERS]]


def _would_do(other: Flavor, replaced: Mapping[str, Any], draft: jobspec.Draft) -> bool:
    """Tell whether a flavor has enough: accelerators, or, where none are wanted, what else there is."""
    if not draft.image.fits(other):
        return False
    if replaced["accelerators"]:
        return other.accelerator_count >= jobspec.accelerators_of(replaced)
    return other.vcpus >= replaced["vcpus"] and other.ram >= replaced["ram"]
