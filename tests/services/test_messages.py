"""Messages between the daemons are lost, get no answer, or come twice, also late: every job comes to its own end, once."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))

import chaos_bus
import servers
from chaos_world import CampaignService

from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.stack import Stack
from tests.harness.training import TICK, WAIT, Gate, document, ticked
from tests.services.conftest import url

pytestmark = pytest.mark.timeout(600)

#: fails at the first attempt; tells a metric at each
RETRIED = '''
import json, os, sys
attempt = int(os.environ["CML_ATTEMPT"])
print("CML_METRIC", json.dumps({"name": "loss", "value": 1.0, "step": attempt}), flush=True)
sys.exit(3 if attempt == 1 else 0)
'''
MODEL = "import os; open(os.path.join(os.environ['CML_OUTPUT_DIR'], 'model'), 'w').write('trained')"

#: what only carries a hint: all of it may be lost
HINTS = ["run", "nudge", "job_wake"]
REPORTS = ["job_report", "job_get", "worker_heartbeat"]


@pytest.fixture(scope="module")
def module_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("messages")
    with ExitStack() as cleanup:
        servers.install(["CML_TEST_RABBIT_URL"], directory)
        port = free_port()
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}")
        cleanup.callback(cloud.stop)
        cloud.start()
        broker = servers.start_rabbitmq(directory)  # stacks that share one take each other's messages
        cleanup.callback(broker.stop)
        service = CampaignService(directory / "service", cloud, port, broker.url, url("CML_TEST_MYSQL_URL"))
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        yield Stack.of(cloud, service)


@pytest.fixture
def stack(module_stack: Stack) -> Iterator[Stack]:
    with module_stack.guarded():
        yield module_stack


@pytest.fixture
def service(stack: Stack) -> Iterator[CampaignService]:
    assert isinstance(stack.service, CampaignService)
    yield stack.service
    stack.service.calm_bus()


@pytest.fixture
def second_gate(stack: Stack) -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def struck(service: CampaignService) -> Counter[tuple[str, str]]:
    """Count what has happened to messages: what, and to those of which method."""
    return Counter(found for daemon in service.daemons
                   for found in re.findall(r"^chaos_bus: (\w+) (\w+)$", daemon.log_path.read_text(), re.MULTILINE))


@pytest.mark.fault("messages-lost-or-doubled")
@pytest.mark.parametrize(("fate", "chance", "methods"), [
    ("lost", 1.0, HINTS), ("lost", 0.25, REPORTS), ("unanswered", 0.25, REPORTS), ("doubled", 1.0, [*HINTS, *REPORTS]),
], ids=["every-hint-lost", "calls-lost", "answers-lost", "all-doubled"])
def test_every_job_comes_to_its_own_end_once(stack: Stack, service: CampaignService, gate: Gate, second_gate: Gate, fate: str,
                                             chance: float, methods: list[str]) -> None:
    client, before = stack.demo, struck(service)
    service.trouble_bus(methods=methods, **{fate: chance})
    training = client.submit(document(name="training", env=gate.env), gate.files(TICK))
    cancelled = client.submit(document(name="cancelled", workers=1, env=second_gate.env), second_gate.files(WAIT))
    retried = client.submit(document(name="retried", workers=1, max_restarts=1), {"train.py": RETRIED})
    brief = client.submit(document(name="brief"), {"train.py": MODEL})
    processes = gate.expect(2, timeout=120)
    second_gate.expect(1, timeout=120)
    client.cancel(cancelled)
    assert client.finish(cancelled, timeout=180)["status"] == "CANCELLED"
    assert client.succeed(brief, timeout=180)["attempt"] == 1
    assert client.artifact(brief, "output/worker-0/model") == client.artifact(brief, "output/worker-1/model") == b"trained"
    job = client.succeed(retried, timeout=180)
    assert (job["attempt"], job["error_restarts"], job["infra_restarts"]) == (2, 1, 0)
    [series] = client.metrics(retried, name="loss")
    assert [point["step"] for point in series["data"]] == [1, 2]
    assert len([event for event in client.events(retried) if event["message"].startswith("Attempt 2 begins")]) == 1
    gate.open()
    job = client.succeed(training, timeout=180)
    assert (job["attempt"], job["error_restarts"], job["infra_restarts"]) == (1, 0, 0)
    if fate == "doubled":
        time.sleep(chaos_bus.LATEST + 1)  # until the last copy has come: what it asks for is long over
    for task in ("worker:0", "worker:1"):
        lines = client.log(training, task).splitlines()
        assert lines == ticked(len(lines)), task
    assert gate.visitors == processes
    assert len(second_gate.visitors) == 1
    suffered = struck(service) - before
    assert {method for _, method in suffered} >= set(methods) & {"run", "nudge", "job_report", "worker_heartbeat"}, suffered
