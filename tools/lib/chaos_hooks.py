"""Wraps the places where a daemon has an effect outside of itself, so that a probe is told just after each. Runs inside of daemons.

The product knows nothing of this: its functions are replaced from outside, before its daemon starts. Reads are passed over; a
process that dies after a read leaves the world as one that died before it. Here is what both daemons have; chaos_hooks_worker.py and
chaos_hooks_conductor.py have the rest, so that each loads only what it needs.
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

from cml_nova.storage.file import FileStorage

#: an id within a path
ID = re.compile(r"(?<=/)([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(?=/|$)")


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


def hook_storage(probe: Probe) -> None:
    """Tell the probe of all that is stored."""
    def place(key: str) -> str:
        return ID.sub("{id}", f"/{key}").removeprefix("/jobs/{id}/").lstrip("/")

    after(FileStorage, "put", lambda _, storage, key, pieces: f"storage put {place(key)}", probe)
    after(FileStorage, "write_at", lambda _, storage, key, offset, data: f"storage write_at {place(key)}", probe)
    after(FileStorage, "delete", lambda _, storage, prefix: f"storage delete {place(prefix)}", probe)


def hook_endpoint(manager: Any, methods: tuple[str, ...], label: Callable[..., str], labels: Labels, probe: Probe) -> None:
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
