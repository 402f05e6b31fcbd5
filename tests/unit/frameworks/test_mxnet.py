"""DMLC_* variables, implied helpers, and the end of an MXNet job."""

from __future__ import annotations

import pytest

from cml_nova import exception
from cml_nova.frameworks.base import Layout, Place, TaskState, get_framework
from cml_nova.states import Outcome

MXNET = get_framework("mxnet")
DONE = TaskState("EXITED", 0)
RUNNING = TaskState("RUNNING")


def places(layout: Layout) -> list[Place]:
    return [Place(task, f"10.0.0.{task.node + 1}", tuple(11000 + 10 * i + k for k in range(task.ports)))
            for i, task in enumerate(layout.tasks)]


def environments(counts: dict[str, int]) -> dict[str, dict[str, str]]:
    layout = MXNET.layout(counts)
    return {task.name: MXNET.environment(task, places(layout)) for task in layout.tasks}


def test_helpers_are_implied_beside_the_workers() -> None:
    layout = MXNET.layout({"worker": 3})
    assert [(slot.role, slot.index) for slot in layout.nodes] == [("worker", 0), ("worker", 1), ("worker", 2)]
    assert {task.name: task.node for task in layout.tasks} == {
        "worker:0": 0, "worker:1": 1, "worker:2": 2, "server:0": 0, "server:1": 1, "server:2": 2, "scheduler:0": 0}


def test_counted_servers_have_nodes_of_their_own_and_the_scheduler_stays_implied() -> None:
    layout = MXNET.layout({"worker": 2, "server": 1})
    assert {task.name: task.node for task in layout.tasks} == {"worker:0": 0, "worker:1": 1, "server:0": 2, "scheduler:0": 0}
    assert len(layout.nodes) == 3


def test_counted_scheduler_has_a_node_of_its_own() -> None:
    layout = MXNET.layout({"worker": 1, "server": 1, "scheduler": 1})
    assert {task.name: task.node for task in layout.tasks} == {"worker:0": 0, "server:0": 1, "scheduler:0": 2}


def test_variables_of_every_task() -> None:
    every = environments({"worker": 2})
    common = {"DMLC_PS_ROOT_URI": "10.0.0.1", "DMLC_PS_ROOT_PORT": "11040", "DMLC_NUM_SERVER": "2", "DMLC_NUM_WORKER": "2"}
    assert every == {
        "worker:0": common | {"DMLC_ROLE": "worker", "DMLC_NODE_HOST": "10.0.0.1"},
        "worker:1": common | {"DMLC_ROLE": "worker", "DMLC_NODE_HOST": "10.0.0.2"},
        "server:0": common | {"DMLC_ROLE": "server", "DMLC_NODE_HOST": "10.0.0.1"},
        "server:1": common | {"DMLC_ROLE": "server", "DMLC_NODE_HOST": "10.0.0.2"},
        "scheduler:0": common | {"DMLC_ROLE": "scheduler", "DMLC_NODE_HOST": "10.0.0.1"},
    }


def test_scheduler_on_its_own_node_is_the_root() -> None:
    for variables in environments({"worker": 2, "server": 3, "scheduler": 1}).values():
        assert (variables["DMLC_PS_ROOT_URI"], variables["DMLC_NUM_SERVER"]) == ("10.0.0.6", "3")


def test_helpers_serve_inside_the_import() -> None:
    for counts in ({"worker": 1}, {"worker": 1, "server": 1, "scheduler": 1}):
        for task in MXNET.layout(counts).tasks:
            expected = None if task.role == "worker" else ["python3", "-c", "import mxnet"]
            assert MXNET.helper_command(task) == expected


@pytest.mark.parametrize(("counts", "words"), [
    ({"server": 1}, ("roles.worker.count", "at least 1", "not 0")),
    ({"worker": 1, "scheduler": 2}, ("roles.scheduler.count", "0 to 1", "not 2")),
    ({"worker": 1, "ps": 1}, ("'ps'", "worker, server, scheduler")),
])
def test_refused_roles(counts: dict[str, int], words: tuple[str, ...]) -> None:
    with pytest.raises(exception.BadRequest) as refused:
        MXNET.check(counts)
    for word in words:
        assert word in refused.value.message


def test_workers_end_the_job() -> None:
    layout = MXNET.layout({"worker": 2})
    helpers = {"server:0": RUNNING, "server:1": RUNNING, "scheduler:0": RUNNING}
    assert MXNET.verdict(layout, helpers | {"worker:0": DONE, "worker:1": RUNNING}).outcome is None
    assert MXNET.verdict(layout, helpers | {"worker:0": DONE, "worker:1": DONE}).outcome == Outcome.SUCCEEDED


def test_a_dead_helper_fails_the_attempt() -> None:
    layout = MXNET.layout({"worker": 1})
    verdict = MXNET.verdict(layout, {"worker:0": RUNNING, "server:0": TaskState("EXITED", None, 9), "scheduler:0": RUNNING})
    assert (verdict.outcome, verdict.culprit) == (Outcome.FAILED, "server:0")
