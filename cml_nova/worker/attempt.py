"""One attempt of a job as seen from its worker: a follower thread a node, and what they have gathered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.frameworks import TaskState
from cml_nova.remote import Idle, Leave, Machine, ProcessState
from cml_nova.worker.crew import Crew
from cml_nova.worker.hang import Hang, find_hang, interval
from cml_nova.worker.logs import LogSaver
from cml_nova.worker.processes import process_specs
from cml_nova.worker.saving import PART, Saver
from cml_nova.worker.silence import Silence
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: seconds after a stop in which the rest of the logs must have come
_LOG_GRACE = 10.0
_PAUSE_MIN, _PAUSE_MAX = 0.2, 5.0
#: seconds for which a node may refuse to start a process until it is taken at its word
_REFUSAL_GRACE = 5.0
#: seconds in which nodes must do what is not waited for longer: say whether a cancelled job has checkpoints, end what runs on a lost one.
#: A guest that computes with all it has needs some of them to answer, and what it does not tell of in time is not saved.
_ANSWER = 2.0
#: seconds for which metrics are gathered after others have been reported, at least and at most
_GATHERING = 0.5


class _Over(Exception):
    """Nothing more is saved of a node's logs."""


class Attempt:
    """Starts the attempt's processes (once, whoever asks how often) and follows them on every node."""

    def __init__(self, work: Work, crew: Crew) -> None:
        self.saver = LogSaver(work.tools.storage, work.job.id)
        self._work = work
        self._crew = crew
        self._specs = process_specs(work)
        self._tasks = work.job.layout.tasks
        self._lock = threading.Lock()
        self._states = {row["name"]: TaskState(row["state"], row["exit_code"], row["signal"]) for row in work.job.tasks}
        #: those that failed, in the order in which it became known
        self._failed = [name for name, state in self._states.items() if state.failed]
        self._changed_tasks: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[str, str, dict[str, Any]]] = []
        self._refused: dict[int, str] = {}
        self._silence = Silence(work, "its processes go on")
        self._gathers_until = 0.0
        self._hang_timeout: float = work.job.spec.get("hang_timeout") or 0
        #: what each node last said of the silence of its processes, and when by the monotonic clock
        self._idle: dict[int, tuple[float, list[Idle]]] = {}
        #: nodes that refuse to start their processes: since when by the monotonic clock, and why
        self._refusals: dict[int, tuple[float, str]] = {}
        self._leaving = Leave()
        #: what is saved of a node's logs is saved under its lock; nothing is any more of those that are over
        self._saving = {node["rank"]: threading.Lock() for node in work.job.nodes}
        self._over: set[int] = set()
        self._checkpoints = Saver(work, crew, self.report)
        for task in self._tasks:
            # What a worker before us saved, but did not report, is to be found even if the node is lost.
            self.saver.resume(work.job.attempt, task.name)
        self._followers = {
            node["rank"]: threading.Thread(target=self._follow, args=(node["rank"], work.access(node)), daemon=True,
                                           name=f"follow-{work.job.id[:8]}-{node['rank']}")
            for node in work.job.nodes
        }
        for thread in self._followers.values():
            thread.start()

    def states(self) -> dict[str, TaskState]:
        """How each task stands, as far as it is known here."""
        with self._lock:
            return dict(self._states)

    def started(self) -> bool:
        """Tell whether every process was started."""
        states = self.states()
        return all(states.get(task.name, TaskState()).state != "PENDING" for task in self._tasks)

    def failed(self) -> list[str]:
        """Name the tasks that failed, in the order in which it became known."""
        with self._lock:
            return list(self._failed)

    def refused(self) -> dict[int, str]:
        """Nodes in whose place something with another host key has been answering for too long, and its word."""
        with self._lock:
            return dict(self._refused)

    def unstartable(self) -> dict[int, str]:
        """Nodes that have been refusing for some time to start their processes, and why."""
        with self._lock:
            return {rank: why for rank, (since, why) in self._refusals.items() if time.monotonic() - since > _REFUSAL_GRACE}

    def silent(self) -> dict[int, float]:
        """Nodes that do not answer, and for how many seconds as far as this worker knows."""
        return self._silence.seconds()

    def hang(self) -> Hang | None:
        """Tell whether the attempt hangs, by what nodes that answer have said just now; None where the job wants no such thing."""
        if not self._hang_timeout or not self.started():
            return None
        since, silent = time.monotonic() - 3 * interval(self._hang_timeout) - 1, self.silent()
        with self._lock:
            running = [name for name, state in self._states.items() if state.state == "RUNNING"]
            known = {idle.task: idle for rank, (at, found) in self._idle.items() if at > since and rank not in silent
                     for idle in found if idle.attempt == self._work.job.attempt}
        return find_hang(running, known, self._hang_timeout)

    def stop(self, grace: float, *, dump: bool = False) -> None:
        """End the processes that still run on nodes that answer, and wait for the rest of all logs.

        Where all have ended by themselves, the runner has seen to what they left behind.

        :param dump: they hang: their logs get what can be found out of where they are.
        """
        silent = self.silent()
        ranks = [rank for rank in self._followers if rank not in silent]
        busy = [rank for rank in ranks if not self._all_ended(rank)]

        def end(rank: int, machine: Machine) -> None:
            # A worker that has just taken over may know of the end before its followers are connected.
            machine.connect(self._work.conf.remote.connect_timeout)
            machine.stop(self._work.job.attempt, grace, dump=dump)

        results = self._crew.each(end, busy)
        for rank, result in results.items():
            if isinstance(result, exception.RemoteError):
                LOG.warning("Job %s: node %d could not be told to stop: %s", self._work.job.id, rank, result.message)
        deadline = time.monotonic() + _LOG_GRACE
        for rank in ranks:
            self._followers[rank].join(max(0.0, deadline - time.monotonic()))

    def look(self) -> None:
        """Report what has been gathered, and save checkpoints where it is time."""
        self.report()
        self._checkpoints.look()

    def has_checkpoints(self) -> bool:
        """Tell whether the attempt has saved any, or has files in the checkpoint directory of a node that answers at once."""
        if self._checkpoints.has_saved():
            return True
        found, enough = [], threading.Event()

        def ask(rank: int, machine: Machine) -> None:
            if machine.connected and machine.snapshot(PART, 1, hold=False).files:
                found.append(rank)
                enough.set()

        self._at_once(ask, set(self._followers) - set(self.silent()), enough)
        return bool(found)

    def _at_once(self, action: Callable[[int, Machine], None], ranks: Iterable[int], enough: threading.Event) -> None:
        """Do something on nodes, and wait for those that answer at once, or until it is enough."""
        def do() -> None:
            self._crew.each(action, ranks)
            enough.set()

        threading.Thread(target=do, name=f"once-{self._work.job.id[:8]}", daemon=True).start()
        enough.wait(_ANSWER)

    def save_last(self) -> None:
        """Save the checkpoints that the stopped processes have left on nodes that answer."""
        self._checkpoints.save_last(self.silent())

    def forget(self, ranks: Collection[int]) -> None:
        """Have no more to do with nodes that are lost. What still runs on them, as may be in ERROR, must not do so beside the next attempt.
        """
        def kill(rank: int, machine: Machine) -> None:
            # A worker that has just taken over may learn of the loss before it is connected.
            machine.connect(_ANSWER)
            machine.stop(self._work.job.attempt, 0)

        self._end_saving(ranks)
        self._at_once(kill, set(ranks) - set(self.silent()), threading.Event())
        self._silence.forget(ranks)
        for rank in ranks:
            self._crew.drop(rank)

    def _end_saving(self, ranks: Iterable[int]) -> None:
        """See to it that nothing more is saved of nodes' logs, for the metrics in it would never be reported."""
        for rank in ranks:
            with self._saving[rank]:
                self._over.add(rank)

    def leave(self) -> None:
        """Stop following and saving; the processes go on."""
        self._leaving.set()
        self._checkpoints.close()

    def pause(self, longest: float) -> float:
        """Give the seconds after which there may be something to report, where nothing wakes the job before."""
        return min(_GATHERING if self._gathers() else longest, self._checkpoints.due_in())

    def _gathers(self) -> bool:
        """Tell whether metrics that come now may wait a moment for others."""
        return time.monotonic() < self._gathers_until

    def report(self, **report: Any) -> None:
        """Report what has been gathered since the last time, along with what the caller has to say.

        With a report of a phase the attempt is over.
        """
        if "phase" in report:
            self._end_saving(self._followers)
        self._silence.miss_absent()
        news = self._silence.news()
        with self._lock:
            tasks, self._changed_tasks = self._changed_tasks, {}
            events, self._events = self._events, []
        if news:
            report.setdefault("status_reason", news["status_reason"])
        metrics = self.saver.take_metrics()
        progress = [m["value"] for m in metrics if m["name"] == "progress"]
        if metrics:
            self._gathers_until = time.monotonic() + _GATHERING
        if progress:
            report["progress"] = int(min(100, max(0, progress[-1])))
        report["events"] = [*events, *news.get("events", ()), *report.get("events", ())]
        nodes = [*news.get("nodes", ()), *report.pop("nodes", ())]
        for name, values in (("tasks", list(tasks.values())), ("nodes", nodes), ("metrics", metrics)):
            if values:
                report[name] = values
        if any(report.values()):
            self._work.report(**report)

    def _follow(self, rank: int, address: str) -> None:
        """Stay with one node until its processes have ended and their logs are here."""
        pause = _PAUSE_MIN
        while not self._leaving.is_set() and rank not in self._over:
            try:
                machine = self._crew.connect(rank, address)
                if self._leaving.is_set() or rank in self._over:
                    return
                self._silence.reached(rank)
                self._start(rank, machine)
                pause = _PAUSE_MIN
                if self._watch(rank, machine):
                    return
            except (exception.LeaseLost, _Over):
                return
            except exception.HostKeyRefused as error:
                self._note_refusal(rank, error.message)
                return
            except exception.NodeCommandFailed as error:
                LOG.warning("Job %s: node %d refuses: %s", self._work.job.id, rank, error.message)
            except exception.RemoteError as error:
                self._missed(rank, error.message)
            except Exception:
                LOG.exception("Job %s: following node %d failed", self._work.job.id, rank)
                self._missed(rank, "internal error in the worker; see its log")
            self._leaving.wait(pause)
            pause = min(_PAUSE_MAX, pause * 2)

    def _names(self, rank: int) -> list[str]:
        return [task.name for task in self._tasks if task.node == rank]

    def _all_ended(self, rank: int) -> bool:
        states = self.states()
        return all(states.get(name, TaskState()).ended for name in self._names(rank))

    def _start(self, rank: int, machine: Machine) -> None:
        """Start what has not been started on a node; the runner there makes the same start twice one."""
        self._work.lease.check()
        for name in self._names(rank):
            if self.states().get(name, TaskState()).state == "PENDING":
                try:
                    machine.start(self._specs[name])
                except exception.NodeCommandFailed as error:
                    with self._lock:
                        since, _ = self._refusals.get(rank, (time.monotonic(), ""))
                        self._refusals[rank] = (since, error.message)
                    raise
                LOG.debug("Job %s: %s is started", self._work.job.id, name)
        with self._lock:
            self._refusals.pop(rank, None)

    def _watch(self, rank: int, machine: Machine) -> bool:
        """Take logs and states from a node as they come; True when there is no more to come."""
        attempt = self._work.job.attempt
        names = self._names(rank)
        machine.follow({(attempt, name): self.saver.resume(attempt, name) for name in names},
                       on_log=partial(self._take_log, rank), on_state=self._take_state, stop=self._leaving,
                       on_idle=partial(self._take_idle, rank) if self._hang_timeout else None,
                       idle_interval=interval(self._hang_timeout))
        if not self._all_ended(rank):
            return self._leaving.is_set()
        with self._may_save(rank):
            for name in names:
                self.saver.finish(attempt, name)
        return True

    @contextmanager
    def _may_save(self, rank: int) -> Iterator[None]:
        """Save something of a node's logs, unless it is too late for that.

        A worker held up for longer than its lease would save lines whose metrics nobody reports: the next one has read what there was.
        """
        with self._saving[rank]:
            self._work.lease.check()
            if rank in self._over:
                raise _Over
            yield

    def _take_log(self, rank: int, attempt: int, task: str, offset: int, data: bytes, times: list[tuple[int, float]]) -> None:
        with self._may_save(rank):
            self.saver.add(attempt, task, offset, data, times)
        if self.saver.has_metrics() and not self._gathers():
            self._work.lease.wake.set()

    def _take_idle(self, rank: int, idle: list[Idle]) -> None:
        with self._lock:
            self._idle[rank] = (time.monotonic(), idle)
        if self.hang():
            self._work.lease.wake.set()

    def _take_state(self, state: ProcessState) -> None:
        if state.attempt != self._work.job.attempt or state.task not in self._specs:
            return
        with self._lock:
            self._states[state.task] = now = TaskState(state.state, state.exit_code, state.signal, state.oom, state.log_error)
            if now.failed and state.task not in self._failed:
                self._failed.append(state.task)
            self._changed_tasks[state.task] = {
                "attempt": state.attempt, "name": state.task, "state": state.state, "exit_code": state.exit_code,
                "signal": state.signal, "started_at": state.started_at, "ended_at": state.ended_at,
            }
        self._work.lease.wake.set()

    def _note_refusal(self, rank: int, message: str) -> None:
        with self._lock:
            self._refused[rank] = message
            self._events.append(("host-key", f"Node {rank}: {message}", {"rank": rank}))
        self._work.lease.wake.set()

    def _missed(self, rank: int, why: str) -> None:
        """A node does not answer; its processes are taken to go on."""
        if not self._leaving.is_set():
            self._silence.missed(rank, why)
