"""Daemons die, hang and leave while a job runs: the training goes on untouched, and every line of its log is there once."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import amqp
import pytest
import sqlalchemy as sa

from tests.harness import guests
from tests.harness.cloud import QUICK
from tests.harness.process import Daemon
from tests.harness.service import Daemons
from tests.harness.stack import Stack
from tests.harness.training import TICK, Gate, Visitor, document, ticked
from tests.harness.waiting import until

#: what a worker says of itself when it has started
UP = re.compile(r"Worker (\S+) is up")


class Training:
    """A job that prints numbered lines on two machines until the gate opens."""

    def __init__(self, stack: Stack, daemons: Daemons, gate: Gate) -> None:
        self._client = stack.demo
        self._daemons = daemons
        self._gate = gate
        self.id = self._client.submit(document(env=gate.env), gate.files(TICK))
        self.processes: list[Visitor] = gate.expect(2)
        self._client.wait_status(self.id, "RUNNING")
        self.await_more_log()

    @property
    def worker(self) -> Daemon:
        """The worker daemon that carries the job: the one that wrote of it last."""
        mark = f"Job {self.id} goes from".encode()
        carriers = [worker for worker in self._daemons.workers if mark in worker.log_path.read_bytes()]
        assert len(carriers) == 1, "one worker carries a job"
        return carriers[0]

    def size(self) -> int:
        return self._client.log_size(self.id)

    def await_more_log(self, timeout: float = 30) -> None:
        before = self.size()
        until(lambda: self.size() > before + 300, timeout, "more of the training's log")

    def assert_untouched(self) -> None:
        assert self._gate.visitors == self.processes, "processes were started again"
        assert all(guests.alive(process.pid) for process in self.processes)
        assert self._client.job(self.id)["status"] == "RUNNING"

    def finish(self) -> None:
        self.assert_untouched()
        self._gate.open()
        assert self._client.succeed(self.id)["attempt"] == 1
        assert self._gate.visitors == self.processes
        for task in ("worker:0", "worker:1"):
            lines = self._client.log(self.id, task).splitlines()
            assert lines == ticked(len(lines)), task


@pytest.fixture
def training(stack: Stack, daemons: Daemons, gate: Gate) -> Iterator[Training]:
    yield Training(stack, daemons, gate)


@pytest.mark.fault("worker-killed")
def test_worker_killed_another_takes_over(stack: Stack, training: Training) -> None:
    training.worker.kill()
    began = time.monotonic()
    until(lambda: any(event["kind"] == "lease" for event in stack.demo.events(training.id)), 30, "another worker takes the job over")
    limit = QUICK["conductor"]["lease_time"] + QUICK["worker"]["heartbeat_interval"] + 10 * QUICK["conductor"]["sweep_interval"]
    assert time.monotonic() - began < limit
    training.await_more_log()
    training.finish()


@pytest.mark.fault("cancel-taken-over")
def test_cancel_right_after_another_worker_has_taken_over(stack: Stack, training: Training) -> None:
    """Before it knows its nodes: it has to find and stop what the dead one has started."""
    training.worker.kill()
    until(lambda: any(event["kind"] == "lease" for event in stack.demo.events(training.id)), 30, "another worker takes the job over")
    stack.demo.cancel(training.id)
    assert stack.demo.finish(training.id)["status"] == "CANCELLED"
    assert stack.cloud.leftovers() == []
    assert not any(guests.alive(process.pid) for process in training.processes)
    lines = stack.demo.log(training.id).splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))], "what it had printed is not all there"


@pytest.mark.fault("worker-killed")
def test_all_workers_killed_and_started_again(daemons: Daemons, training: Training) -> None:
    for worker in daemons.workers:
        worker.kill()
    training.assert_untouched()
    for worker in daemons.workers:
        worker.start()
    training.await_more_log(60)
    training.finish()


@pytest.mark.fault("conductor-killed")
def test_one_conductor_killed_the_other_is_enough(stack: Stack, daemons: Daemons, training: Training) -> None:
    daemons.conductors[0].kill()
    training.await_more_log()
    stack.demo.succeed(stack.demo.submit(document(name="meanwhile"), {"train.py": ""}))
    training.finish()


@pytest.mark.fault("conductor-killed")
def test_all_conductors_killed_and_started_again(daemons: Daemons, training: Training) -> None:
    for conductor in daemons.conductors:
        conductor.kill()
    training.await_more_log()
    for conductor in daemons.conductors:
        conductor.start()
    training.finish()


@pytest.mark.fault("conductor-killed")
def test_training_that_ends_while_no_conductor_lives(stack: Stack, daemons: Daemons, gate: Gate, training: Training) -> None:
    for conductor in daemons.conductors:
        conductor.kill()
    gate.open()
    until(lambda: not any(guests.alive(process.pid) for process in training.processes), 20, "the end of the training")
    for conductor in daemons.conductors:
        conductor.start()
    assert stack.demo.succeed(training.id)["attempt"] == 1


@pytest.mark.fault("api-killed")
def test_api_killed_and_started_again(daemons: Daemons, training: Training) -> None:
    daemons.api.kill()
    daemons.start()
    training.finish()


@pytest.mark.fault("worker-hangs")
def test_worker_that_hangs_longer_than_its_lease_is_fenced(stack: Stack, training: Training) -> None:
    """It wakes up believing that it holds the job; what it does must change nothing."""
    worker = training.worker
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        until(lambda: any(event["kind"] == "lease" for event in stack.demo.events(training.id)), 30, "another worker takes the job over")
        training.await_more_log()
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    training.await_more_log()
    training.finish()


@pytest.mark.fault("worker-stopped")
def test_worker_that_is_stopped_hands_its_jobs_over_at_once(stack: Stack, training: Training) -> None:
    worker = training.worker
    began = time.monotonic()
    assert worker.stop() == 0
    until(lambda: any(event["kind"] == "lease" for event in stack.demo.events(training.id)), 30, "another worker takes the job over")
    assert time.monotonic() - began < QUICK["conductor"]["lease_time"], "it was waited for the end of the lease"
    training.await_more_log()
    training.finish()


def test_worker_that_is_stopped_leaves_no_queue_on_the_bus(daemons: Daemons) -> None:
    """Each start of a worker has a queue of its own, which the broker would keep for ever."""
    worker = daemons.workers[0]

    def queue() -> str:
        return f"cml-worker.{UP.findall(worker.log_path.read_text())[-1]}"

    until(lambda: queue_exists(queue()), 30, "the queue of a worker that may have been started just now")
    worker.stop()
    assert not queue_exists(queue())


def queue_exists(name: str) -> bool:
    url = sa.make_url(os.environ["CML_TEST_RABBIT_URL"])
    with amqp.Connection(f"{url.host}:{url.port}", url.username, url.password, virtual_host=url.database or "/") as connection:
        try:
            connection.channel().queue_declare(name, passive=True)
        except amqp.NotFound:
            return False
        return True


@pytest.mark.fault("cancel-service-dead")
def test_cancel_while_no_worker_lives_is_done_when_one_does(stack: Stack, daemons: Daemons, training: Training) -> None:
    for worker in daemons.workers:
        worker.kill()
    stack.demo.cancel(training.id)
    training.assert_untouched()
    daemons.start()
    assert stack.demo.finish(training.id)["status"] == "CANCELLED"
    assert stack.cloud.servers(training.id) == []
