"""What has to hold in a campaign, asked of everybody but the daemons: the cloud, the database, the broker, the ledger."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import amqp
import sqlalchemy as sa
from chaos_ledger import Entry
from chaos_load import FAILS, MODEL, MODEL_LINES, SETUP_LOG, Job, printed, read_log, steps
from chaos_world import World, patiently

from tests.harness import guests
from tests.harness.client import TERMINAL
from tests.harness.waiting import until

#: seconds in which the ledger has to have heard of the end of processes whose servers are gone
_HEARD_WITHIN = 5.0
#: seconds in which the log of a job that is over has to come to its end: longer than the longest fault
_READ_WITHIN = 300.0
#: seconds after the last job in which the daemons have to have tidied up after dead ones
_TIDY_WITHIN = 90.0


class Judge:
    """Holds jobs to their right ends."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._baseline = self._resources()

    # each job, when it is over

    def job(self, job: Job, seen: dict[str, Any]) -> list[str]:
        """List what is wrong with a job that is over."""
        entries = self._world.ledger.entries(job.run)
        logs = {(attempt, task): self._world.client.log(job.id, task, attempt=attempt, timeout=_READ_WITHIN)
                for attempt in range(0, seen["attempt"] + 1) for task in job.tasks}
        return [*self._outcome(job, seen), *self._processes(job, entries), *self._logs(job, seen, entries, logs),
                *self._metrics(job, seen, logs), *self._row(job), *self._outputs(job, seen)]

    def _outcome(self, job: Job, seen: dict[str, Any]) -> list[str]:
        if seen["status"] not in job.right:
            right = " or ".join(sorted(job.right))
            with_cause = f"{seen['status']} {seen['cause']}" in job.right
            return [] if with_cause else [f"wrong outcome: {seen['status']} ({seen['cause']}: {seen['status_reason']}) instead of {right}"]
        if seen["cause"] == "CONFIG" and "FAILED CONFIG" in job.right:
            return []
        if job.kind.name != "fails" or job.hurt:
            return []
        wanted = {"cause": "USER_ERROR", "exit_code": FAILS, "failed_task": "worker:0", "error_restarts": job.document["max_restarts"]}
        return [f"wrong outcome: {name} is {seen[name]!r} instead of {value!r}" for name, value in wanted.items() if seen[name] != value]

    def _processes(self, job: Job, entries: list[Entry]) -> list[str]:
        """Each process was started once (a setup once a node), no attempt before the end of the one before, and none is alive."""
        deadline = time.monotonic() + _HEARD_WITHIN
        while any(entry.ended is None for entry in entries) and time.monotonic() < deadline:
            time.sleep(0.1)
        counts = Counter((entry.attempt, entry.task, entry.place if entry.attempt == 0 else "") for entry in entries)
        found = [f"run twice: {task} of attempt {attempt}" for (attempt, task, _), count in counts.items() if count > 1]
        found += [f"alive: {entry.task} of attempt {entry.attempt} in {entry.place}" for entry in entries if entry.ended is None]
        return found + [f"run at once: {entry.task} of attempt {entry.attempt} beside {other.task} of attempt {other.attempt}, "
                        f"for {(entry.ended or time.monotonic()) - other.began:.1f} s"
                        for entry in entries for other in entries
                        if 0 < entry.attempt < other.attempt and (entry.ended is None or entry.ended > other.began)]

    def _logs(self, job: Job, seen: dict[str, Any], entries: list[Entry], logs: dict[tuple[int, str], str]) -> list[str]:
        found = []
        #: attempts of which a log tells how they have ended
        ended = {seen["attempt"]}
        for (attempt, task), log in logs.items():
            if attempt == 0:
                trained = any(entry.attempt for entry in entries) and job.document.get("setup")
                if (log != SETUP_LOG) if trained and not job.hurt else not SETUP_LOG.startswith(log):
                    found.append(f"wrong log: setup of {task}: {log[-200:]!r}")
                continue
            wrong, last = read_log(attempt, task, printed(log) if attempt in job.hung else log)
            ended |= {attempt} if last in ("fail", "pause") else set()
            if wrong:
                found.append(f"wrong log: {task} in attempt {attempt} {wrong}")
            elif attempt == seen["attempt"] and seen["status"] == "SUCCEEDED" and last != "end":
                found.append(f"wrong log: {task} in attempt {attempt}, which succeeded, ends with {log[-60:]!r}")
            elif attempt == seen["attempt"] and seen["exit_code"] == FAILS and task == "worker:0" and last != "fail" and not job.hurt:
                found.append(f"wrong log: {task} in attempt {attempt}, which failed, ends with {log[-60:]!r}")
        if not job.hurt:  # then nothing but an error of its own ends an attempt that is not the last
            found += [f"wrong log: none of attempt {attempt} has its end" for attempt in range(1, seen["attempt"]) if attempt not in ended]
        return found

    def _metrics(self, job: Job, seen: dict[str, Any], logs: dict[tuple[int, str], str]) -> list[str]:
        """Each line of the logs that has a metric in it is a point of the series, once; the last may be missing of a cancelled job."""
        series = {one["task"]: [point["step"] for point in one["data"]] for one in self._world.client.metrics(job.id, name="loss")}
        found = []
        for task in job.tasks:
            wanted = [step for (attempt, of), log in sorted(logs.items()) if of == task and attempt for step in steps(log)]
            have = series.get(task, [])
            if have != (wanted[:len(have)] if seen["status"] == "CANCELLED" else wanted):
                found.append(f"wrong metrics: {task} has steps {series.get(task)} instead of {wanted}")
        return found

    def _row(self, job: Job) -> list[str]:
        def rows(query: str) -> list[dict[str, Any]]:
            with self._world.engine.connect() as connection:
                return [dict(row) for row in connection.execute(sa.text(query), {"id": job.id}).mappings()]

        wanted = {"phase": "DONE", "worker_id": None, "lease_expires_at": None}
        found = patiently(lambda: rows("SELECT phase, worker_id, lease_expires_at FROM jobs WHERE id = :id"))
        wrong = [f"stuck row: {name} is {row[name]!r}" for row in found for name, value in wanted.items() if row[name] != value]
        wrong += [] if len(found) == 1 else ["lost: it has no row"]
        nodes = patiently(lambda: rows("SELECT `rank`, status FROM nodes WHERE job_id = :id"))
        return wrong + [f"stuck row: node {node['rank']} is {node['status']}" for node in nodes if node["status"] != "DELETED"]

    def _outputs(self, job: Job, seen: dict[str, Any]) -> list[str]:
        if seen["status"] != "SUCCEEDED":
            return []
        client, found = self._world.client, []
        listed = client.artifacts(job.id)
        for task in job.tasks:
            path = f"output/{task.replace(':', '-')}/model.txt"
            if path not in listed:
                found.append(f"lost output: {path}")
            elif client.artifact(job.id, path).decode() != MODEL.format(task=task) * MODEL_LINES:
                found.append(f"wrong output: {path}")
        return found

    # all the time, and at the end

    def leaked(self, over: set[str]) -> dict[str, str]:
        """Look what jobs that were over before this was called own in the cloud: id of a job -> what it owns."""
        found = {}
        for server in patiently(self._world.cloud.servers):
            for job_id in over:
                if f"cml:job:{job_id}" in server["tags"]:
                    found[job_id] = f"leaked: it was over, and its server {server['id']} was {server['status']}"
        return found

    def end(self) -> list[str]:
        """List what is wrong when all jobs are over and all daemons are well: nothing but daemons may be left of anything."""
        found = [f"leaked: {text}" for kind, text in self._resources().items() if kind not in self._baseline]
        found += [f"leaked: process {process}" for process in guests.processes(self._world.cloud.directory)]
        with self._world.engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT id, phase, worker_id FROM jobs WHERE phase <> 'DONE' OR worker_id IS NOT NULL")).all()
        found += [f"stuck row: {row}" for row in rows]
        return found + self._tidy(self._workers, "a dead worker's row is left") + self._tidy(self._queues, "on the bus")

    def _tidy(self, left: Callable[[], list[str]], what: str) -> list[str]:
        try:
            until(lambda: not left(), _TIDY_WITHIN, what, 1)
        except AssertionError:
            return [f"left over: {what}: {text}" for text in left()]
        return []

    def _resources(self) -> dict[str, str]:
        def look() -> dict[str, str]:
            inventory = self._world.cloud.inventory()
            return {ident: f"{kind} {name} ({ident})" for kind in ("servers", "ports", "groups", "floating")
                    for ident, name in getattr(inventory, kind).items() if (kind, name) != ("groups", "default")}

        return patiently(look)

    def _living_workers(self) -> list[str]:
        """Give the ids of the workers that live now: each says its own when it starts."""
        logs = [daemon.log_path.read_text(errors="replace") for daemon in self._world.service.workers]
        return [re.findall(r"INFO cml_nova.worker.service .*Worker (\S+) is up", log)[-1] for log in logs]

    def _workers(self) -> list[str]:
        with self._world.engine.connect() as connection:
            ids = connection.execute(sa.text("SELECT id FROM workers")).scalars().all()
        return sorted(set(ids) - set(self._living_workers()))

    def _queues(self) -> list[str]:
        """List queues of dead workers, and queues in which messages stay."""
        log = "".join(daemon.log_path.read_text(errors="replace") for daemon in self._world.service.workers)
        ids = set(re.findall(r"INFO cml_nova.worker.service .*Worker (\S+) is up", log))
        living = set(self._living_workers())
        found = [f"the queue of dead worker {one}" for one in sorted(ids - living) if self._depth(f"cml-worker.{one}") is not None]
        for name in ("cml-conductor", *(f"cml-worker.{one}" for one in living)):
            if depth := self._depth(name):
                found.append(f"{depth} messages in {name}")
        return found

    def _depth(self, queue: str) -> int | None:
        """Count the messages in a queue; None if there is no such queue."""
        url = sa.make_url(self._world.broker.url)
        with amqp.Connection(f"{url.host}:{url.port}", url.username, url.password, virtual_host=url.database or "/") as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except amqp.NotFound:
                return None


def over(seen: dict[str, Any]) -> bool:
    """Tell whether a job is over."""
    return seen["status"] in TERMINAL
