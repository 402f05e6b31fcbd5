"""What has to hold when a job is over, asked of everybody but the daemons under test."""

from __future__ import annotations

import re
from typing import Any

import amqp
import sqlalchemy as sa
from chaos_jobs import METRIC_EVERY, SETUP_LOG, TASKS, Scenario, artifacts, log_until, whole_log
from chaos_ledger import Entry, Ledger
from chaos_stack import ChaosStack

from tests.harness.waiting import until

#: queues that any conductor or worker takes from
_SHARED_QUEUES = ("cml-conductor", "cml-worker")


class Oracle:
    """Compares what is left of a job with what should be.

    :param database_url: of the service's database, into which it looks with SQL of its own.
    """

    def __init__(self, stack: ChaosStack, ledger: Ledger, rabbit_url: str) -> None:
        self._stack = stack
        self._ledger = ledger
        self._rabbit = sa.make_url(rabbit_url)
        self._engine = sa.create_engine(stack.service.database.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        self._baseline = self._stack.cloud.inventory()

    def judge(self, scenario: Scenario, run: str, job_id: str) -> list[str]:
        """List what is wrong about a job that is over; nothing, if the promises were kept."""
        found = self._in_the_cloud() + self._in_the_database(scenario, job_id)
        found += self._processes(scenario, self._ledger.entries(run)) + self._logs(scenario, job_id)
        if scenario.status == "SUCCEEDED":
            found += self._outputs(job_id) + self._metrics(scenario, job_id)
        return found

    def _in_the_cloud(self) -> list[str]:
        """A job that is done owns nothing: so there is nothing to wait for."""
        items = [item for item in self._stack.cloud.inventory().beyond(self._baseline) if not item.startswith("groups default ")]
        return [f"left in the cloud: {item}" for item in items]

    def _in_the_database(self, scenario: Scenario, job_id: str) -> list[str]:
        with self._engine.connect() as connection:
            def rows(query: str) -> list[dict[str, Any]]:
                return [dict(row) for row in connection.execute(sa.text(query), {"id": job_id}).mappings()]

            [job] = rows("SELECT phase, outcome, worker_id, lease_expires_at, attempt, infra_restarts, error_restarts FROM jobs "
                         "WHERE id = :id")
            nodes = rows("SELECT `rank`, status FROM nodes WHERE job_id = :id")
        wanted = {"phase": "DONE", "outcome": scenario.status, "worker_id": None, "lease_expires_at": None, "attempt": scenario.attempts,
                  "infra_restarts": 0, "error_restarts": 0, **scenario.columns}
        found = [f"the job's row has {name} = {job[name]!r} instead of {value!r}" for name, value in wanted.items() if job[name] != value]
        return found + [f"the row of node {node['rank']} says {node['status']}" for node in nodes if node["status"] != "DELETED"]

    def bus(self) -> list[str]:
        """List what stays on the bus although both daemons are at work. Heartbeats come and go."""
        try:
            until(lambda: not any(self._depths().values()), 5, "empty queues")
        except AssertionError:
            return [f"{depth} messages are left in the queue {name}" for name, depth in self._depths().items() if depth]
        return []

    def queues_of_the_dead(self) -> list[str]:
        """List the queues of workers that are dead and should be forgotten by now, or soon."""
        ids = re.findall(r"INFO cml_nova.worker.service .*Worker (\S+) is up", self._stack.service.phoenixes["worker"].log_path.read_text())
        queues = [f"cml-worker.{worker_id}" for worker_id in ids[:-1]]  # the last one lives
        left: list[str] = []

        def gone() -> bool:
            left[:] = [queue for queue in queues if self._depth(queue) is not None]
            return not left

        try:
            until(gone, 15 * self._stack.lease_time, "the end of the queues of dead workers", 0.5)
        except AssertionError:
            return [f"the queue {queue} of a dead worker is left" for queue in left]
        return []

    def _depths(self) -> dict[str, int | None]:
        return {name: self._depth(name) for name in _SHARED_QUEUES}

    def _depth(self, queue: str) -> int | None:
        """Count the messages in a queue; None if there is no such queue."""
        url = self._rabbit
        with amqp.Connection(f"{url.host}:{url.port}", url.username, url.password, virtual_host=url.database or "/") as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except amqp.NotFound:
                return None

    def _processes(self, scenario: Scenario, entries: list[Entry]) -> list[str]:
        """Each process was started once, no attempt before the end of the one before it, and none is alive."""
        started = sorted((entry.attempt, entry.task) for entry in entries)
        found = [] if started == scenario.processes else [f"processes that were started: {started} instead of {scenario.processes}"]
        found += [f"{entry.task} of attempt {entry.attempt} is alive" for entry in entries if entry.ended is None]
        return found + [f"{entry.task} of attempt {entry.attempt} ran beside {other.task} of attempt {other.attempt}"
                        for entry in entries for other in entries
                        if 0 < entry.attempt < other.attempt and (entry.ended is None or entry.ended > other.began)]

    def _logs(self, scenario: Scenario, job_id: str) -> list[str]:
        found = []
        for task in TASKS:
            logs = {0: self._stack.client.log(job_id, task, attempt=0)}
            wanted = {0: SETUP_LOG}
            for attempt in range(1, scenario.attempts + 1):
                logs[attempt] = self._stack.client.log(job_id, task, attempt=attempt)
                whole = attempt == scenario.attempts and scenario.status == "SUCCEEDED"
                wanted[attempt] = whole_log(attempt, task) if whole else log_until(attempt, task, logs[attempt],
                                                                                   scenario.last_words.get(task, ""))
            found += [f"log of {task} in attempt {attempt}: {_difference(logs[attempt], wanted[attempt])}"
                      for attempt in logs if logs[attempt] != wanted[attempt]]
        return found

    def _outputs(self, job_id: str) -> list[str]:
        client, wanted = self._stack.client, artifacts()
        listed = client.artifacts(job_id)
        found = [] if set(listed) == set(wanted) else [f"artifacts: {sorted(listed)} instead of {sorted(wanted)}"]
        return found + [f"artifact {path} has another content" for path, content in wanted.items()
                        if path in listed and client.artifact(job_id, path) != content]

    def _metrics(self, scenario: Scenario, job_id: str) -> list[str]:
        """Each line of the logs that has a metric in it is a point of the series, once."""
        client, found = self._stack.client, []
        series = {one["task"]: [point["step"] for point in one["data"]] for one in client.metrics(job_id, name="loss")}
        for task in TASKS:
            counts = [client.log(job_id, task, attempt=attempt).count("CML_METRIC") for attempt in range(1, scenario.attempts + 1)]
            wanted = [number * METRIC_EVERY for count in counts for number in range(count)]
            if series.get(task) != wanted:
                found.append(f"metrics of {task} are at steps {series.get(task)} instead of {wanted}")
        return found


def _difference(text: str, wanted: str) -> str:
    have, want = text.splitlines(), wanted.splitlines()
    place = next((i for i, (one, other) in enumerate(zip(have, want, strict=False)) if one != other), min(len(have), len(want)))
    return f"{len(have)} lines instead of {len(want)}; from line {place}: {have[place:place + 3]} instead of {want[place:place + 3]}"
