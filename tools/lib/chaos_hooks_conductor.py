"""Has a probe told of the effects of a conductor; see chaos_hooks.py."""

from __future__ import annotations

import re
from functools import wraps
from typing import Any

from chaos_hooks import Labels, Phases, after, hook_endpoint, hook_storage
from chaos_probe import Probe
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.conductor.service import ConductorService
from cml_nova.worker.rpcapi import WorkerClient

_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
#: methods of the endpoint that the other side asks for
_METHODS = ("job_wake", "job_get", "job_report", "worker_heartbeat", "worker_goodbye")


def hook(probe: Probe) -> None:
    """Tell the probe of every commit of a conductor that changed something, and of what it does on the bus."""
    labels = Labels()
    phases = Phases()
    hook_storage(probe)
    _hook_commits(labels, probe)

    def label(name: str, **arguments: Any) -> str:
        return phases.name(arguments["job_id"], arguments["report"]) if name == "job_report" else name

    for owner, name in ((Dispatcher, "assign"), (Dispatcher, "room_came_free"), (Periodics, "sweep"), (Periodics, "find_orphans")):
        _label(owner, name, labels)
    hook_endpoint(ConductorManager, _METHODS, label, labels, probe)

    def seen(result: Any, manager: Any, context: Any, job_id: str, generation: int, report: dict[str, Any] | None = None) -> None:
        phase = result["phase"] if report is None else report.get("phase")
        if phase:
            phases.seen(job_id, phase)

    after(ConductorManager, "job_get", seen, probe)
    after(ConductorManager, "job_report", seen, probe)
    for name in ("run", "nudge", "reap"):
        after(WorkerClient, name, lambda *_, name=name, **__: f"rpc cast {name}", probe)
    after(ConductorService, "start", lambda *_: probe.up(), probe)


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
