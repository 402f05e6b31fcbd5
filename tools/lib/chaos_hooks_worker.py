"""Has a probe told of the effects of a worker; see chaos_hooks.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any

from chaos_hooks import ID, Labels, Phases, after, hook_endpoint, hook_storage
from chaos_probe import Probe

from cml_nova.compute import rest
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.remote import Machine
from cml_nova.worker.manager import WorkerManager

#: methods of the endpoint that the other side asks for
_METHODS = ("run", "nudge", "inventory", "reap")


def hook(probe: Probe) -> None:
    """Tell the probe of all that a worker does to the cloud, its nodes, the storage and the bus."""
    labels = Labels()
    hook_storage(probe)
    _hook_cloud(probe)
    _hook_machines(probe)
    hook_endpoint(WorkerManager, _METHODS, lambda name, **_: name, labels, probe)
    phases = Phases()

    def report(answer: Any, client: Any, context: Any, job_id: str, generation: int, report: dict[str, Any]) -> str:
        name = phases.name(job_id, report)
        if "phase" in report:
            phases.seen(job_id, report["phase"])
        return f"rpc called {name}"

    after(ConductorClient, "job_report", report, probe)
    # A read; it tells only which phase the job is in.
    after(ConductorClient, "job_get", lambda job, client, context, job_id, generation: phases.seen(job_id, job["phase"]), probe)

    def beaten(*_: Any, **__: Any) -> str:
        probe.up()
        return "rpc called worker_heartbeat"

    after(ConductorClient, "worker_heartbeat", beaten, probe)


def _hook_cloud(probe: Probe) -> None:
    once = rest._once

    @wraps(once)
    def wrapped(connection: Any, of_service: str, method: str, path: str, what: str, **kwargs: Any) -> Any:
        try:
            return once(connection, of_service, method, path, what, **kwargs)
        finally:
            if method != "GET":
                probe.hit(f"cloud {method} {ID.sub('{id}', path)}")

    rest._once = wrapped  # type: ignore[assignment]


def _hook_machines(probe: Probe) -> None:
    connect, fetch, pick = Machine.connect, Machine.fetch, Machine.pick

    @wraps(connect)
    def connecting(machine: Machine, timeout: float) -> Any:
        known = machine.connected
        hello = connect(machine, timeout)
        if not known:
            probe.hit("ssh connect")
        return hello

    @wraps(fetch)
    def fetching(machine: Machine, name: str) -> Iterator[bytes]:
        yield from fetch(machine, name)
        probe.hit(f"ssh fetched {name}")

    @wraps(pick)
    def picking(machine: Machine, *args: Any) -> Iterator[Any]:
        yield from pick(machine, *args)
        probe.hit("ssh picked")

    Machine.connect, Machine.fetch, Machine.pick = connecting, fetching, picking  # type: ignore[method-assign,assignment]
    after(Machine, "snapshot", lambda _, machine, name, *args, hold=True: f"ssh snapshot {name}" if hold else None, probe)
    after(Machine, "release", lambda *_: "ssh release", probe)
    after(Machine, "restore", lambda _, machine, name, *args: f"ssh restore {name}", probe)
    after(Machine, "upload", lambda _, machine, name, *args: f"ssh upload {name}", probe)
    after(Machine, "write", lambda _, machine, name, *args: f"ssh write {name}", probe)
    after(Machine, "free_ports", lambda *_: "ssh free_ports", probe)
    after(Machine, "start", lambda _, machine, spec: f"ssh start {spec.attempt} {spec.task}", probe)
    after(Machine, "follow", lambda _, machine, offsets, **__: f"ssh followed {' '.join(f'{a} {t}' for a, t in offsets)}", probe)
    after(Machine, "stop", lambda _, machine, attempt, *args, **kwargs: f"ssh stop {attempt}", probe)
