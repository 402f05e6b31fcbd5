"""Which nodes are lost for good, and what a job that has lost some has to say: they are replaced, the others kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute.fleet import Server
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.worker.crew import Crew
from cml_nova.worker.restarts import next_attempt
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: what Nova calls servers whose processes are gone
_DEAD = ("ERROR", "SHUTOFF", "DELETED", "SOFT_DELETED")
_GONE = "its server is gone from the cloud"


def find(work: Work, servers: Sequence[Server] | None, silent: Mapping[int, float]) -> dict[int, str]:
    """Say which nodes are gone for good, and why, by rank; none if the cloud gave no answer.

    :param silent: seconds for which nodes have not answered, by rank. That alone says little: the path may be cut, and the training go on.
    """
    if servers is None:
        return {}
    known = {s.id: s for s in servers}
    reasons = {node["rank"]: _why_lost(work, known.get(node["server_id"]), silent.get(node["rank"])) for node in work.job.nodes}
    return _confirmed(work, {rank: why for rank, why in reasons.items() if why})


def _confirmed(work: Work, lost: dict[int, str]) -> dict[int, str]:
    """Leave out the nodes whose servers the cloud still knows: lists by tag lack those in a part of it that does not answer."""
    gone = {work.job.nodes[rank]["server_id"]: rank for rank, why in lost.items() if why == _GONE}
    if not gone:
        return lost
    try:
        hidden = {gone[server_id] for server_id in work.tools.fleet.remaining(gone)}
    except exception.CMLError as error:
        LOG.warning("Job %s: whether servers are gone can't be told: %s", work.job.id, error.message)
        hidden = set(gone.values())
    return {rank: why for rank, why in lost.items() if rank not in hidden}


def _why_lost(work: Work, server: Server | None, silent: float | None) -> str | None:
    if server is None:
        return _GONE
    if server.status in _DEAD:
        return f"its server is {server.status}"
    if silent is None:
        return None
    if server.host_down:
        return "it does not answer, and the host of its server is down"
    limit = work.conf.conductor.unreachable_timeout
    return f"it has not answered for {limit} s" if limit and silent > limit else None


def reason(work: Work, lost: Mapping[int, str]) -> str:
    """Say it in words."""
    slots = work.job.layout.nodes
    return f"Lost {'; '.join(f'node {rank} ({slots[rank].role}:{slots[rank].index}): {why}' for rank, why in sorted(lost.items()))}."


def rows(lost: Mapping[int, str]) -> list[dict[str, Any]]:
    """Give what the rows of lost nodes say."""
    empty = {"server_id": None, "server_name": None, "address": None, "status": "LOST", "unreachable_since": None}
    return [{"rank": rank, "fault": why, **empty} for rank, why in lost.items()]


def delete_servers(work: Work, ranks: Iterable[int]) -> None:
    """Delete the servers of lost nodes: one may be alive, only shut off or taken for another, and must not stay beside its replacement."""
    work.tools.fleet.delete([work.job.nodes[rank]["server_id"] for rank in ranks])


def replace(work: Work, crew: Crew, lost: Mapping[int, str], **runtime: Any) -> None:
    """Report, where no attempt is under way, that lost nodes are replaced for the next one, or that there were too many losses.

    :param runtime: what changes in the job's ``runtime``.
    """
    for rank in lost:
        crew.drop(rank)
    why = reason(work, lost)
    again = next_attempt(work, "infra_restarts", Phase.PROVISIONING, why)
    event = ("node", why, {"cause": str(Cause.INFRA_LOST), "attempt": work.job.attempt})
    if again is None:
        return work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.INFRA_LOST, status_reason=why, nodes=rows(lost),
                           events=[event])
    delete_servers(work, lost)
    work.report(**{**again, "events": [event, *again["events"]]}, cause=Cause.INFRA_LOST, nodes=rows(lost),
                runtime={**work.job.runtime, **runtime, "trained": False})
