"""kill -9 of the whole service: the training goes on, and the job ends as if nothing had been."""

from __future__ import annotations

import time

import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack
from tests.harness.training import TICK, WAIT, Gate, document, ticked
from tests.harness.waiting import until


def assert_every_line_once(client: Client, job_id: str, *tasks: str) -> None:
    for task in tasks:
        lines = client.log(job_id, task).splitlines()
        assert lines == ticked(len(lines)), task


@pytest.mark.fault("service-killed")
def test_training_goes_on_untouched_while_the_service_is_dead(stack: Stack, client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    visitors = gate.expect(2)
    client.wait_status(job_id, "RUNNING")
    until(lambda: client.log_size(job_id) > 1000, 20, "a good part of the log")
    stack.service.kill()
    assert all(guests.alive(visitor.pid) for visitor in visitors)
    stack.service.start()
    size = client.log_size(job_id)
    until(lambda: client.log_size(job_id) > size + 500, 30, "the log goes on after the restart")
    assert all(guests.alive(visitor.pid) for visitor in visitors)
    gate.open()
    job = client.succeed(job_id)
    assert job["attempt"] == 1
    assert gate.visitors == visitors, "the processes were started once"
    assert_every_line_once(client, job_id, "worker:0", "worker:1")


@pytest.mark.fault("service-killed")
def test_training_that_ends_while_the_service_is_dead(stack: Stack, client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    visitors = gate.expect(2)
    client.wait_status(job_id, "RUNNING")
    stack.service.kill()
    gate.open()
    until(lambda: not any(guests.alive(visitor.pid) for visitor in visitors), 20, "the end of the training")
    stack.service.start()
    job = client.succeed(job_id)
    assert job["attempt"] == 1
    assert_every_line_once(client, job_id, "worker:0", "worker:1")


@pytest.mark.fault("service-killed")
@pytest.mark.parametrize("status", ["BUILDING", "PREPARING", "CLEANING"])
def test_death_in_other_phases(stack: Stack, client: Client, cloud: LocalCloud, gate: Gate, status: str) -> None:
    changes = {"PREPARING": {"setup": "python3 -c 'import gate; gate.wait()'"}}.get(status, {})
    cloud.fault("settings", **{"BUILDING": {"boot_time": 2}, "CLEANING": {"delete_time": 2}}.get(status, {}))
    job_id = client.submit(document(env=gate.env, **changes), gate.files("print('ran')"))
    if status == "PREPARING":
        gate.expect(2)
    elif status == "BUILDING":
        until(lambda: len(cloud.servers(job_id)) == 2, 20, "two servers")
    client.wait_status(job_id, status)
    stack.service.kill()
    stack.service.start()
    gate.open()
    job = client.succeed(job_id)
    assert job["attempt"] == 1
    assert [client.log(job_id, f"worker:{i}") for i in range(2)] == ["ran\n", "ran\n"]


@pytest.mark.fault("service-killed")
def test_setup_that_ends_while_nobody_watches_keeps_its_log(stack: Stack, client: Client, gate: Gate) -> None:
    setup = "echo begun; python3 -c 'import gate; gate.wait()'; echo set up"
    job_id = client.submit(document(env=gate.env, setup=setup), gate.files("print('ran')"))
    visitors = gate.expect(2)
    stack.service.kill()
    gate.open()
    until(lambda: not any(guests.alive(visitor.pid) for visitor in visitors), 20, "the end of the setup")
    stack.service.start()
    client.succeed(job_id)
    assert [client.log(job_id, f"worker:{i}", attempt=0) for i in range(2)] == ["begun\nset up\n"] * 2
    assert len(gate.visitors) == 2, "the setup ran again"


#: saves its work when it is told to stop
SAVES = """
import os
import signal
import sys
import gate

def save(*_):
    with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "last"), "w") as file:
        file.write("saved")
    sys.exit(1)

signal.signal(signal.SIGTERM, save)
gate.wait()
"""


@pytest.mark.fault("service-killed")
def test_processes_are_stopped_before_outputs_are_collected_by_one_who_just_took_over(stack: Stack, client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, max_run_time=2, command="exec python3 train.py"), gate.files(SAVES))
    gate.expect(2)
    client.wait_status(job_id, "RUNNING")
    stack.service.kill()
    time.sleep(2)  # its time is up while nobody is there
    stack.service.start()
    assert client.finish(job_id)["status"] == "TIMED_OUT"
    assert [client.artifact(job_id, f"output/worker-{i}/last") for i in range(2)] == [b"saved"] * 2


@pytest.mark.fault("cancel-service-dead")
def test_cancel_is_remembered_over_a_death(stack: Stack, client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    cloud.fault("settings", delete_time=3)
    client.cancel(job_id)
    stack.service.kill()
    stack.service.start()
    assert client.finish(job_id)["status"] == "CANCELLED"
    assert cloud.servers(job_id) == []
