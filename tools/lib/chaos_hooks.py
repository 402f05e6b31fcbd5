"""Wraps the places where a daemon has an effect outside of itself, so that a probe is told just after each. Runs inside of daemons.

The product knows nothing of this: its functions are replaced from outside, before its daemon starts. Reads are passed over; a
process that dies after a read leaves the world as one that died before it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from chaos_probe import Probe
from oslo_messaging._drivers.amqpdriver import AMQPIncomingMessage
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from cml_nova import service
from cml_nova.compute import rest
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.remote import Machine
from cml_nova.storage.file import FileStorage
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.rpcapi import WorkerClient

_ID = re.compile(r"(?<=/)([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(?=/|$)")
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)

#: methods of the endpoints that the other side asks for
_CONDUCTOR_METHODS = ("job_wake", "job_get", "job_report", "worker_heartbeat", "worker_goodbye")
_WORKER_METHODS = ("run", "nudge", "inventory", "reap")


class Phases:
    """The phases of jobs as reports go by, to name a report by the change that it makes."""

    def __init__(self) -> None:
        self._phases: dict[str, str] = {}

    def seen(self, job_id: str, phase: str) -> None:
        """Note the phase of a job."""
        self._phases[job_id] = str(phase)

    def name(self, job_id: str, report: dict[str, Any]) -> str:
        """Name a report by what it changes."""
        if "phase" in report:
            return f"job_report {self._phases.get(job_id, '?')}->{report['phase']!s}"
        part = next((part for part in ("outcome", "runtime", "nodes") if part in report), "progress")
        return f"job_report ({part})"


class Labels(threading.local):
    """What the current thread is at: the innermost label names its commits."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.wrote = False
        self.answering = ""

    @contextmanager
    def on(self, label: str) -> Iterator[None]:
        self.stack.append(label)
        try:
            yield
        finally:
            self.stack.pop()


def after(owner: Any, name: str, tell: Callable[..., str | None], probe: Probe) -> None:
    """Have the probe told after each call that returned.

    :param tell: gives the effect's name from the result and the arguments; None for a call that had no effect.
    """
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        effect = tell(result, *args, **kwargs)
        if effect:
            probe.hit(effect)
        return result

    setattr(owner, name, wrapped)


# what both have


def _hook_storage(probe: Probe) -> None:
    def place(key: str) -> str:
        return _ID.sub("{id}", f"/{key}").removeprefix("/jobs/{id}/").lstrip("/")

    after(FileStorage, "put", lambda _, storage, key, pieces: f"storage put {place(key)}", probe)
    after(FileStorage, "write_at", lambda _, storage, key, offset, data: f"storage write_at {place(key)}", probe)
    after(FileStorage, "delete", lambda _, storage, prefix: f"storage delete {place(prefix)}", probe)


def _hook_endpoint(manager: Any, methods: tuple[str, ...], label: Callable[..., str], labels: Labels, probe: Probe) -> None:
    """A message that is taken is gone from the bus, whatever becomes of it; and its answer is an effect as well."""

    def hook(name: str) -> None:
        original = getattr(manager, name)

        @wraps(original)
        def wrapped(self: Any, context: Any, *own: Any, **arguments: Any) -> Any:
            if own:  # arguments without names: the daemon itself calls, no message came
                return original(self, context, *own, **arguments)
            what = labels.answering = label(name, **arguments)
            probe.hit(f"rpc took {what}")
            with labels.on(what):
                return original(self, context, **arguments)

        setattr(manager, name, wrapped)

    for name in methods:
        hook(name)

    def answered(_: Any, message: Any, *args: Any, **kwargs: Any) -> str | None:
        # Each message has a reply, in its thread; that of a method which is not hooked must not bear the name of the one before.
        what, labels.answering = labels.answering, ""
        return f"rpc answered {what}" if what and message.orig_msg_id else None

    after(AMQPIncomingMessage, "reply", answered, probe)


# the worker


def hook_worker(probe: Probe) -> None:
    """Tell the probe of all that a worker does to the cloud, its nodes, the storage and the bus."""
    labels = Labels()
    _hook_storage(probe)
    _hook_cloud(probe)
    _hook_machines(probe)
    _hook_endpoint(WorkerManager, _WORKER_METHODS, lambda name, **_: name, labels, probe)
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
                probe.hit(f"cloud {method} {_ID.sub('{id}', path)}")

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


# the conductor


def hook_conductor(probe: Probe) -> None:
    """Tell the probe of every commit of a conductor that changed something, and of what it does on the bus."""
    labels = Labels()
    phases = Phases()
    _hook_storage(probe)
    _hook_commits(labels, probe)

    def label(name: str, **arguments: Any) -> str:
        return phases.name(arguments["job_id"], arguments["report"]) if name == "job_report" else name

    for owner, name in ((Dispatcher, "assign"), (Dispatcher, "room_came_free"), (Periodics, "sweep"), (Periodics, "find_orphans")):
        _label(owner, name, labels)
    _hook_endpoint(ConductorManager, _CONDUCTOR_METHODS, label, labels, probe)

    def seen(result: Any, manager: Any, context: Any, job_id: str, generation: int, report: dict[str, Any] | None = None) -> None:
        phase = result["phase"] if report is None else report.get("phase")
        if phase:
            phases.seen(job_id, phase)

    after(ConductorManager, "job_get", seen, probe)
    after(ConductorManager, "job_report", seen, probe)
    for name in ("run", "nudge", "reap"):
        after(WorkerClient, name, lambda *_, name=name, **__: f"rpc cast {name}", probe)
    after(service.ConductorService, "start", lambda *_: probe.up(), probe)


def _label(owner: Any, name: str, labels: Labels) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with labels.on(name):
            return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _hook_commits(labels: Labels, probe: Probe) -> None:
    def executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        # an UPDATE that meets no row changes nothing
        if _WRITES.match(statement) and cursor.rowcount != 0:
            labels.wrote = True

    def committed(session: Session) -> None:
        wrote, labels.wrote = labels.wrote, False
        if wrote:
            probe.hit(f"db {labels.stack[-1] if labels.stack else 'unnamed'}")

    def rolled_back(session: Session) -> None:
        labels.wrote = False

    event.listen(Engine, "after_cursor_execute", executed)
    event.listen(Session, "after_commit", committed)  # comes when the server has committed
    event.listen(Session, "after_rollback", rolled_back)
