"""Parts of the cloud and of the service die while a job is on its way; what runs goes on, what is lost is replaced, nothing is left."""

from __future__ import annotations

import pytest
import servers

from tests.harness.client import Client
from tests.harness.nodes import WAIT, Nodes
from tests.harness.realcloud import RealCloud
from tests.harness.stack import Stack
from tests.harness.training import ticked
from tests.harness.waiting import until
from tests.realcloud.conftest import document

pytestmark = pytest.mark.usefixtures("inject")


class Training:
    """A job of one node that waits at the door."""

    def __init__(self, client: Client, cloud: RealCloud, nodes: Nodes) -> None:
        self._client = client
        self._nodes = nodes
        self.id = client.submit(document(cloud.settings, workers=1, command=WAIT, **nodes.keys))
        nodes.await_all(self.id)

    def finish(self) -> None:
        """Open the door. :raises AssertionError: the process was not left alone."""
        assert self._client.job(self.id)["status"] == "RUNNING"
        self._nodes.open(self.id)
        assert self._client.succeed(self.id)["attempt"] == 1
        assert self._client.log(self.id) == "waiting 1\ngone on\n"


@pytest.fixture
def training(client: Client, cloud: RealCloud, nodes: Nodes) -> Training:
    return Training(client, cloud, nodes)


@pytest.mark.fault("token-expired")
def test_all_tokens_expire_in_mid_job(cloud: RealCloud, training: Training) -> None:
    cloud.inject("expire-tokens")
    cloud.await_health()
    training.finish()


@pytest.mark.fault("bus-restart")
def test_rabbitmq_of_the_service_restarts_in_mid_job(broker: servers.Private, training: Training) -> None:
    broker.restart(pause=5)
    training.finish()


@pytest.mark.fault("cloud-rabbitmq-restart")
def test_rabbitmq_of_the_cloud_restarts_in_mid_job(cloud: RealCloud, training: Training) -> None:
    with cloud.without("rabbitmq", agents=True):
        pass
    training.finish()


@pytest.mark.fault("nova-compute-down")
def test_nova_compute_is_away_for_a_minute(client: Client, cloud: RealCloud, training: Training) -> None:
    """The job that runs does not notice. Nova takes the request of one that is to be built, and its servers stay in BUILD, or find no
    host; that job runs in the end, too."""
    with cloud.without("nova-compute"):
        other = client.submit(document(cloud.settings, workers=1, command="echo after all"))
        until(cloud.compute_is_down, 180, "word of Nova that nova-compute is down", 1)
        assert client.job(training.id)["status"] == "RUNNING"
        assert client.job(other)["outcome"] is None
    training.finish()
    client.succeed(other, timeout=150)
    assert client.log(other) == "after all\n"


@pytest.mark.fault("nova-down-in-teardown")
def test_nova_api_is_down_while_servers_are_to_be_deleted(stack: Stack[RealCloud], training: Training, nodes: Nodes) -> None:
    mark = f"Job {training.id}: clean-up goes on after".encode()
    with stack.cloud.without("nova-api"):
        nodes.open(training.id)
        stack.demo.wait_status(training.id, "CLEANING")
        until(lambda: any(mark in daemon.log_path.read_bytes() for daemon in stack.service.daemons), 120, "a try to delete that failed")
        assert stack.demo.job(training.id)["status"] == "CLEANING"
    assert stack.demo.succeed(training.id)["attempt"] == 1


@pytest.mark.fault("vm-crashed")
def test_guest_destroyed_behind_novas_back_is_replaced(client: Client, cloud: RealCloud, nodes: Nodes) -> None:
    job_id = client.submit(document(cloud.settings, command=WAIT, **nodes.keys))
    nodes.await_all(job_id)
    kept, lost = client.nodes(job_id)
    cloud.inject("guest-kill", lost["server_id"])
    nodes.await_all(job_id, attempt=2)
    now = client.nodes(job_id)
    assert now[0]["server_id"] == kept["server_id"], "a node that was fine was replaced"
    assert now[1]["server_id"] != lost["server_id"]
    assert any("SHUTOFF" in event["message"] or "gone" in event["message"] for event in client.events(job_id) if event["kind"] == "node")
    nodes.open(job_id)
    assert client.succeed(job_id)["attempt"] == 2


#: prints numbered lines until the door is opened, then how many there were
_TICK = "i=0; until [ -e ~/open ]; do echo line $i; i=$((i+1)); sleep 0.5; done; echo lines $i"


@pytest.mark.fault("ssh-cut", "node-frozen")
@pytest.mark.parametrize(("strike", "mend"), [("guest-netdown", "guest-netup"), ("guest-freeze", "guest-thaw")])
def test_node_that_does_not_answer_for_a_while_is_kept_and_loses_no_line(client: Client, cloud: RealCloud, nodes: Nodes, strike: str,
                                                                        mend: str) -> None:
    """Its network is cut, or the whole guest stands still; Nova calls it ACTIVE all the time."""
    job_id = client.submit(document(cloud.settings, command=_TICK, **nodes.keys))
    until(lambda: all(client.log_size(job_id, f"worker:{i}") for i in range(2)), 300, "the first lines of both nodes", 0.5)
    before = client.nodes(job_id)
    cloud.inject(strike, before[1]["server_id"])
    try:
        _await_event(client, job_id, "Node 1 does not answer")
        assert client.job(job_id)["status"] == "RUNNING"
    finally:
        cloud.inject(mend, before[1]["server_id"])
    _await_event(client, job_id, "Node 1 answers again")
    nodes.open(job_id)
    assert client.succeed(job_id)["attempt"] == 1
    assert [node["server_id"] for node in client.nodes(job_id)] == [node["server_id"] for node in before], "a node was replaced"
    for task in ("worker:0", "worker:1"):
        lines = client.log(job_id, task).splitlines()
        assert lines == ticked(len(lines)), task


def _await_event(client: Client, job_id: str, words: str) -> None:
    until(lambda: any(words in event["message"] for event in client.events(job_id)), 180, f"the event '{words}'", 1)
