"""The runner's processes on a node are killed: what talks to the worker, and what watches over a training, or over its setup."""

from __future__ import annotations

import os
import signal

import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import TICK, WAIT, Gate, document, ticked
from tests.harness.waiting import until


@pytest.mark.fault("runner-killed")
def test_a_training_does_not_notice_that_nobody_talks_to_the_worker(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, workers=1), gate.files(TICK))
    gate.expect(1)
    [node] = client.nodes(job_id)
    home = str(cloud.home(node["server_id"]))
    for _ in range(2):
        until(lambda: guests.sessions(home), 20, "a session of the runner")
        for pid in guests.sessions(home):
            os.kill(pid, signal.SIGKILL)
    size = client.log_size(job_id)
    until(lambda: client.log_size(job_id) > size, 30, "more of the log")
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 0)
    lines = client.log(job_id).splitlines()
    assert lines == ticked(len(lines))


@pytest.mark.fault("runner-killed")
def test_a_training_that_nobody_watches_over_any_more_starts_anew_on_its_nodes(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    visitors = gate.expect(2)
    before = [node["server_id"] for node in client.nodes(job_id)]
    os.kill(guests.supervisor(visitors[0].pid), signal.SIGKILL)
    gate.expect(4)
    assert not any(guests.alive(visitor.pid) for visitor in visitors)
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"], job["error_restarts"]) == (2, 1, 0), client.story(job_id)
    assert [node["server_id"] for node in client.nodes(job_id)] == before


@pytest.mark.fault("runner-killed")
def test_a_setup_that_nobody_watches_over_any_more_begins_anew_on_another_machine(client: Client, gate: Gate) -> None:
    """How far it came is not known. What it was to set up may be half done."""
    job_id = client.submit(document(env=gate.env, setup="python3 train.py"), gate.files(WAIT))
    visitors = gate.expect(2)
    before = {node["server_id"] for node in client.nodes(job_id)}
    os.kill(guests.supervisor(visitors[0].pid), signal.SIGKILL)
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"], job["error_restarts"]) == (1, 1, 0), client.story(job_id)
    assert sorted(visitor.attempt for visitor in gate.visitors) == [0, 0, 0, 1, 1], "setups: one of the node that was kept"
    assert len(before & {node["server_id"] for node in client.nodes(job_id)}) == 1
    assert any("its setup was cut off" in event["message"] for event in client.events(job_id)), client.story(job_id)
