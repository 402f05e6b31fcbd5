"""PROVISIONING: see that the job's servers exist and are active, all of them or none.

Nodes of one flavor form a pool; a pool is one ``POST /servers``, which Nova places as a whole. What exists is found by its tag,
whoever created it and whatever became of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute import errors
from cml_nova.compute.fleet import Server
from cml_nova.remote.userdata import cloud_config
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.worker.crew import Crew
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: what Nova calls servers that are, or may yet become, good
COMING = ("BUILD", "ACTIVE", "UNKNOWN")
#: seconds between looks when nothing wakes us, and while something is amiss
_TICK, _CLOSE_TICK = 5.0, 1.0
#: how often servers are asked for in one go at this phase, while some come up and others don't
_BUILDS = 4
#: Nova shows that a server is in ERROR a moment before it shows why; after so many looks we don't wait for the reason any longer
_LOOKS_FOR_REASON = 4


class _Shortfall(Exception):
    """The servers can't be had now."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason


def run(work: Work, crew: Crew) -> None:
    """Bring the job to BOOTSTRAPPING, back to QUEUED where there is no room for it, or to TEARDOWN where it can't be built."""
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    try:
        with work.tools.watch.watch(work.job.id):
            _build_all(work, crew)
    except _Shortfall as shortfall:
        _queue_again(work, shortfall)
    except exception.CloudRefused as error:
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.CONFIG, status_reason=f"The cloud refused: {error.message}",
                    events=[("cloud", error.message, {})])


def _build_all(work: Work, crew: Crew) -> None:
    """Build until all servers are good; those that fail on their host, for no lack of room, are replaced alone."""
    broken: dict[str, Server] = {}
    for _ in range(_BUILDS):
        new = _build(work, crew, set(broken))
        if not new:
            return
        broken.update((server.id, server) for server in new)
        work.report(events=[("node", f"{_how_broken(server)} It is replaced.", {}) for server in new])
    raise _Shortfall(Cause.NO_CAPACITY, f"{len(broken)} servers failed to boot, one after the other; the last: {_how_broken(new[-1])}")


def _build(work: Work, crew: Crew, given_up: set[str]) -> list[Server]:
    """See to it that all servers are there and wait until they are active; give those that broke, none when the phase is over.

    :param given_up: ids of servers that broke before; the cloud may still show them.
    """
    pools = _pools(work)
    with ThreadPoolExecutor(1, f"group-{work.job.id[:8]}") as pool:
        group = pool.submit(work.tools.fleet.ensure_group, work.job.id, ssh_port=_ssh_port(work))  # needs no look
        servers = _look(work)
    group_id = group.result()
    if len([s for s in servers if _counts(s)]) < len(work.job.nodes):
        _check_for_hidden(work)
    for number, (flavor_id, ranks) in enumerate(pools):
        mine = [s for s in servers if s.pool == number]
        _remove(work, [s for s in mine if s.status not in COMING])
        missing = len(ranks) - len([s for s in mine if _counts(s)])
        if missing > 0:
            _create(work, number, flavor_id, missing, group_id)
    with work.tools.watch.watch(work.job.id, expect_change=True):
        return _wait_until_active(work, crew, pools, group_id, given_up)


def _counts(server: Server) -> bool:
    """Tell whether a server is, or may yet become, good. One that is being deleted may be called ACTIVE to its end."""
    return server.status in COMING and not server.deleting


def _pools(work: Work) -> list[tuple[str, list[int]]]:
    """Group the ranks of the job's nodes by flavor, in order of appearance: the place in the list is the pool's number."""
    pools: dict[str, list[int]] = {}
    for node in work.job.nodes:
        pools.setdefault(node["flavor_id"], []).append(node["rank"])
    return list(pools.items())


def _look(work: Work) -> list[Server]:
    """See what the job has now, and wait for what an unanswered create may still bring."""
    while True:
        servers = work.tools.watch.snapshot(work.job.id, newer_than=time.monotonic())
        unsettled = work.job.unsettled
        if unsettled <= 0 or len([s for s in servers if _counts(s)]) >= len(work.job.nodes) or work.ended_early():
            return servers
        work.lease.wake.wait(min(unsettled, _CLOSE_TICK))


def _check_for_hidden(work: Work) -> None:
    """Make sure that servers which the job has asked for before are not only hidden: lists by tag lack those of a silent part of the cloud.

    :raises CloudError: a part of the cloud does not answer. Nothing may be built in the place of what may be there.
    """
    if work.job.asked_for_servers and work.tools.fleet.census().hidden:
        raise exception.CloudError("A part of the cloud does not answer, and servers of the job may be there.")


def _create(work: Work, pool: int, flavor_id: str, count: int, group_id: str) -> None:
    """Ask for the servers of a pool. An unclear answer is noted and gets the job looked at again."""
    job, fleet = work.job, work.tools.fleet
    secrets = work.secrets()
    image = job.spec["image"]
    if work.ended_early():
        return
    work.lease.check()
    # Noted before the effect: a worker that dies in the request can't tell any more that servers may yet appear.
    _note_unsettled(work, work.conf.cloud.request_timeout + work.conf.cloud.settle_time)
    LOG.debug("Job %s asks for %d servers of pool %d", job.id, count, pool)
    try:
        fleet.create(
            job_id=job.id, generation=job.generation, pool=pool, name=_server_name(job.name, job.id, pool), count=count,
            flavor_id=flavor_id, image_id=image["id"], network_id=fleet.network_id(job.spec.get("network")), group_id=group_id,
            user_data=cloud_config(
                secrets["host"], job.keys["host"], [job.keys["ssh"], *job.spec.get("ssh_authorized_keys", [])],
                image.get("ssh_user") or work.conf.remote.user,
            ),
            availability_zone=job.spec.get("availability_zone"),
        )
    except exception.NoCapacity as error:
        _note_unsettled(work, 0)
        raise _Shortfall(Cause.NO_CAPACITY, error.message) from error
    except exception.CloudQuota as error:
        _note_unsettled(work, 0)
        raise _Shortfall(Cause.QUOTA, error.message) from error
    except exception.CloudRefused:
        _note_unsettled(work, 0)
        raise
    except exception.CloudError:
        _note_unsettled(work, work.conf.cloud.settle_time)
        raise
    LOG.debug("Job %s has asked for %d servers of pool %d", job.id, count, pool)
    _note_unsettled(work, 0)


def _note_unsettled(work: Work, seconds: float) -> None:
    """Write down for how long servers may still appear that no list shows yet; 0 when the cloud has given a clear answer."""
    work.report(runtime={**work.job.runtime, "settled_at": work.job.seconds + seconds if seconds else 0})


def _server_name(name: str, job_id: str, pool: int) -> str:
    """A name that is a host name too: Nova makes one of it."""
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")[:24]
    return f"cml-{letters or 'job'}-{job_id[:8]}-{pool}"


def _wait_until_active(work: Work, crew: Crew, pools: list[tuple[str, list[int]]], group_id: str, given_up: set[str]) -> list[Server]:
    deadline = work.conf.conductor.provisioning_timeout
    servers: Sequence[Server] = []
    looks_without_reason = 0
    while True:
        if work.ended_early():
            work.report(phase=Phase.TEARDOWN)
            return []
        changes = _assign(work, pools, servers)
        if changes:
            work.report(nodes=changes)
        reachable = _all_there(work, servers) and _get_floating(work, group_id)
        if reachable:
            _expect(work, crew, servers)
        if reachable and all(node["status"] == "ACTIVE" and node["address"] for node in work.job.nodes):
            work.report(phase=Phase.BOOTSTRAPPING, cause=None, status_reason=None,
                        events=[("phase", "All servers are active.", {"phase": str(Phase.BOOTSTRAPPING)})])
            return []
        fresh = _explained(work, [s for s in servers if s.id not in given_up])
        looks_without_reason = looks_without_reason + 1 if any(s.status not in COMING and not s.fault for s in fresh) else 0
        if not 0 < looks_without_reason < _LOOKS_FOR_REASON:
            broken = _broken(fresh)
            if broken:
                return broken
        if work.job.phase_seconds > deadline:
            raise _Shortfall(Cause.NO_CAPACITY, f"The servers were not active after {deadline} s.")
        before, servers = servers, _next_change(work, servers, _CLOSE_TICK if looks_without_reason else _TICK)
        gone = _gone(work, before, servers)
        if gone:
            return gone


def _all_there(work: Work, servers: Sequence[Server]) -> bool:
    """Tell whether each node has a server that is shown: what its row says of one that is gone counts for nothing."""
    return {node["server_id"] for node in work.job.nodes} <= {server.id for server in servers}


def _gone(work: Work, before: Sequence[Server], now: Sequence[Server]) -> list[Server]:
    """Give the good servers that were shown and are not there any more: somebody else has deleted them."""
    shown = {server.id for server in now}
    missing = {server.id: server for server in before if _counts(server) and server.id not in shown}
    hidden = work.tools.fleet.remaining(missing)
    return [replace(server, status="DELETED") for id_, server in missing.items() if id_ not in hidden]


def _next_change(work: Work, servers: Sequence[Server], timeout: float) -> Sequence[Server]:
    def states(now: Sequence[Server]) -> dict[str, tuple[str, str | None, str | None]]:
        return {s.id: (s.status, s.address, s.fault) for s in now}

    return work.tools.watch.wait(work.job.id, lambda now: states(now) != states(servers), timeout=timeout, wake=work.lease.wake)


def _assign(work: Work, pools: list[tuple[str, list[int]]], servers: Sequence[Server]) -> list[dict[str, Any]]:
    """Give each node its server, keeping those that have one; return what changed."""
    changes = []
    for number, (_, ranks) in enumerate(pools):
        found = {s.id: s for s in sorted(servers, key=lambda s: (len(s.name), s.name)) if s.pool == number and _counts(s)}
        if not found:
            continue
        kept = {work.job.nodes[rank]["server_id"] for rank in ranks} & set(found)
        free = iter([s for s in found if s not in kept])
        for rank in ranks:
            node = work.job.nodes[rank]
            server = found.get(node["server_id"]) or found.get(next(free, ""))
            change = {"server_id": server.id, "server_name": server.name, "address": server.address, "status": server.status,
                      "fault": server.fault} if server else {}
            if any(node.get(name) != value for name, value in change.items()):
                changes.append({"rank": rank, **change})
    return changes


def _get_floating(work: Work, group_id: str) -> bool:
    """Get floating addresses where they are wanted, once every server has its fixed one; tell whether workers can connect."""
    floating, nodes, runtime = work.tools.fleet.floating, work.job.nodes, work.job.runtime
    if not floating.wanted:
        return True
    fixed = {node["server_id"]: node["address"] for node in nodes if node["server_id"] and node["address"]}
    if len(fixed) < len(nodes):
        return False
    if {server_id: known["fixed"] for server_id, known in runtime.get("floating", {}).items()} != fixed:
        work.lease.check()
        try:
            found = floating.ensure(work.job.id, group_id, fixed)
        except exception.NoCapacity as error:
            raise _Shortfall(Cause.NO_CAPACITY, error.message) from error
        except exception.CloudQuota as error:
            raise _Shortfall(Cause.QUOTA, error.message) from error
        work.report(runtime={**runtime, "floating": {key: {"fixed": fixed[key], "floating": found[key]} for key in fixed}})
    return True


def _expect(work: Work, crew: Crew, servers: Sequence[Server]) -> None:
    """Connect to each server as soon as it is up, not after the slowest."""
    active = {s.id for s in servers if s.status == "ACTIVE" and s.address}
    for node in work.job.nodes:
        if node["server_id"] in active:
            crew.expect(node["rank"], work.access(node))


def _explained(work: Work, servers: Sequence[Server]) -> list[Server]:
    """Ask why servers broke where no list tells. Where one finds no room that goes for all: then give that one only."""
    explained = list(servers)
    for i, server in enumerate(servers):
        if server.status in COMING:
            continue
        if not server.fault:
            explained[i] = replace(server, fault=work.tools.fleet.fault(server.id))
        if isinstance(errors.of_fault(explained[i].fault), exception.NoCapacity | exception.CloudQuota):
            return [explained[i]]
    return explained


def _broken(servers: Sequence[Server]) -> list[Server]:
    """Pick the servers that will never be active.

    :raises _Shortfall: there is no room for them, or none is any good.
    """
    broken = [server for server in servers if server.status not in COMING]
    for server in broken:
        why = errors.of_fault(server.fault)
        if len(broken) == len(servers) or isinstance(why, exception.NoCapacity | exception.CloudQuota):
            raise _Shortfall(Cause.QUOTA if isinstance(why, exception.CloudQuota) else Cause.NO_CAPACITY, _how_broken(server))
    return broken


def _how_broken(server: Server) -> str:
    return f"Server {server.name} went {server.status}: {(server.fault or 'no reason given').rstrip('.')}."


def _queue_again(work: Work, shortfall: _Shortfall) -> None:
    """Free all there is, so that jobs short of room never hold some of it, and wait in the queue."""
    LOG.info("Job %s finds no room: %s", work.job.id, shortfall.reason)
    # One watch for all rounds: a cloud that takes longer to answer than a round has been seen then, and the wait does not fail.
    with work.tools.watch.watch(work.job.id, expect_change=True):
        while servers := work.tools.watch.snapshot(work.job.id, newer_than=time.monotonic()):
            _remove(work, servers)
            work.tools.watch.wait(work.job.id, lambda now: not now, timeout=_CLOSE_TICK)
            work.lease.check()
    _check_for_hidden(work)
    if work.tools.fleet.floating.wanted:
        work.tools.fleet.floating.delete(work.job.id)
    work.report(
        phase=Phase.QUEUED, pause=None, cause=shortfall.cause, status_reason=f"Waiting for room in the cloud: {shortfall.reason}",
        nodes=[{"rank": n["rank"], "server_id": None, "server_name": None, "address": None, "status": "PLANNED", "fault": None}
               for n in work.job.nodes],
        events=[("capacity", shortfall.reason, {"cause": str(shortfall.cause)})],
    )


def _remove(work: Work, servers: Sequence[Server]) -> None:
    work.tools.fleet.delete([s.id for s in servers if not s.deleting])


def _ssh_port(work: Work) -> int:
    return work.job.spec["image"].get("ssh_port") or work.conf.remote.port
