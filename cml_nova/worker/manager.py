"""RPC endpoint of a worker: takes jobs, keeps their leases, and drops what it has lost."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import oslo_messaging as messaging
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import exception, rpc
from cml_nova.backoff import growing_pause
from cml_nova.worker import orphans, runner
from cml_nova.worker.work import Lease, Tools

LOG = logging.getLogger(__name__)

#: seconds that the first word to the conductors waits for an answer
_FIRST_PATIENCE = 1.0
#: seconds before the next one, at first, where one that has no database or is of an older release has refused it at once
_PAUSE = 0.2


class WorkerManager:
    """Runs the jobs that conductors give to this worker, each in a thread of its own.

    :param worker_id: host and a uuid of this start.
    """

    target = messaging.Target(version=rpc.VERSIONS[rpc.WORKER_TOPIC])

    def __init__(self, worker_id: str, host: str, tools: Tools) -> None:
        self.worker_id = worker_id
        self._host = host
        self._tools = tools
        self._capacity: int = tools.conf.worker.max_jobs
        self._pool = ThreadPoolExecutor(self._capacity, thread_name_prefix="job")
        self._leases: dict[str, Lease] = {}
        self._running: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._draining = threading.Event()

    def run(self, context: cml_context.RequestContext, job_id: str, generation: int) -> None:
        """Take a job on. One too many, or one taken already, is left alone: the lease of the first runs out."""
        with self._lock:
            known = self._leases.get(job_id)
            if known is not None and known.generation >= generation:
                return
            if self._draining.is_set() or len(self._leases) >= self._capacity:
                LOG.warning("No place for job %s", job_id)
                return
            if known is not None:
                # Given to us anew while we still held on to an older lease: take it once that one has let go.
                known.lose()
                return
            # How long the message was under way is unknown; a heartbeat renews the lease long before half of its time.
            lease = self._leases[job_id] = Lease(job_id, generation, self._tools.conf.conductor.lease_time / 2)
            self._running[job_id] = self._pool.submit(self._carry, lease)

    def nudge(self, context: cml_context.RequestContext, job_id: str) -> None:
        """Look at a job's row again: something about it has changed."""
        with self._lock:
            lease = self._leases.get(job_id)
        if lease is not None:
            lease.nudge()

    def inventory(self, context: cml_context.RequestContext) -> list[dict[str, Any]]:
        """List what carries this deployment's tag in the cloud: kind, id, job_id, age (seconds, by this host's clock)."""
        return orphans.inventory(self._tools.fleet)

    def reap(self, context: cml_context.RequestContext, job_id: str) -> None:
        """Delete what is left of a job that is gone or done."""
        self._pool.submit(orphans.reap, self._tools.fleet, job_id)

    def announce(self) -> None:
        """Say that we are about to listen, and take no jobs yet, until a conductor has heard it.

        Who knows of us removes our queue if we die. A conductor that comes up after us never sees what was said before, so it is said
        again, with more patience each time. Not at an even pace: the broker gives out calls to conductors in turn, and beside others' calls
        at the same pace ours could always come to the one that refuses them.
        """
        patience, most = _FIRST_PATIENCE, self._tools.conf.worker.heartbeat_interval
        for tries in itertools.count():
            if self._beat(patience, draining=True) or self._draining.wait(growing_pause(tries, _PAUSE, most)):
                return
            patience = min(2 * patience, self._tools.conf.worker.rpc_timeout)

    def heartbeat(self) -> None:
        """Say that we live, renew the leases, and act on what the conductor says is ours."""
        self._beat(None, self._draining.is_set())

    def _beat(self, timeout: float | None, draining: bool) -> bool:
        """Do so once; tell whether a conductor answered."""
        asked_at = time.monotonic()
        with self._lock:
            held = {job_id: lease.generation for job_id, lease in self._leases.items()}
        worker = {"id": self.worker_id, "host": self._host, "capacity": self._capacity, "draining": draining}
        try:
            mine = self._call(worker, held, timeout)
        except (*rpc.BUS_ERRORS, exception.CMLError) as error:
            hint = " It is of an older release: the conductors are upgraded before the workers." if rpc.is_refusal(error) else ""
            LOG.warning("No conductor took our heartbeat: %s%s", error, hint)
            return False
        found = {h["job_id"]: h for h in mine}
        for job_id, generation in held.items():
            if job_id not in found or found[job_id]["generation"] != generation:
                self._lose(job_id, generation)
            else:
                self._renew(job_id, asked_at + self._tools.conf.conductor.lease_time)
        for job_id, holding in found.items():
            if job_id not in held:
                self.run(cml_context.service_context(), job_id, holding["generation"])
            elif holding["changed"]:
                self.nudge(cml_context.service_context(), job_id)
        return True

    def _call(self, worker: dict[str, Any], held: dict[str, int], timeout: float | None) -> list[dict[str, Any]]:
        """Send a heartbeat. Where an older release refuses it, the next call is another conductor's, who may be of this one."""
        heartbeat = partial(self._tools.conductor.worker_heartbeat, cml_context.service_context(), worker, held, timeout)
        try:
            return heartbeat()
        except rpc.BUS_ERRORS as error:
            if not rpc.is_refusal(error):
                raise
        return heartbeat()

    def drain(self, timeout: float) -> None:
        """Take no new jobs, let the steps come to a safe point, and hand all leases back. Trainings go on meanwhile.

        :param timeout: seconds to wait for the steps; what has not ended by then loses its lease.
        """
        self._draining.set()
        with self._lock:
            leases, running = list(self._leases.values()), list(self._running.values())
        for lease in leases:
            lease.wake.set()
        deadline = time.monotonic() + timeout
        for future in running:
            try:
                future.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
        for lease in leases:
            lease.lose()
        # A bus that is away must not keep us: in a thread, because the driver may wait for it for ever.
        goodbye = threading.Thread(target=self._say_goodbye, name="goodbye", daemon=True)
        goodbye.start()
        goodbye.join(self._tools.conf.worker.rpc_timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _carry(self, lease: Lease) -> None:
        try:
            runner.run(self._tools, lease, self._draining.is_set)
        except Exception:
            LOG.exception("Job %s: unexpected error; the next heartbeat takes it on again", lease.job_id)
        finally:
            with self._lock:
                self._leases.pop(lease.job_id, None)
                self._running.pop(lease.job_id, None)

    def _say_goodbye(self) -> None:
        try:
            self._tools.conductor.worker_goodbye(cml_context.service_context(), self.worker_id)
        except (*rpc.BUS_ERRORS, exception.DatabaseUnavailable) as error:
            LOG.warning("No conductor took our goodbye; our leases will expire: %s", error)

    def _renew(self, job_id: str, valid_until: float) -> None:
        with self._lock:
            lease = self._leases.get(job_id)
        if lease is not None:
            lease.renew(valid_until)

    def _lose(self, job_id: str, generation: int) -> None:
        with self._lock:
            lease = self._leases.get(job_id)
        if lease is not None and lease.generation == generation:
            LOG.warning("Job %s is another's now", job_id)
            lease.lose()
