"""TF_CONFIG and the end of a TensorFlow job."""

from __future__ import annotations

import json

import pytest

from cml_nova import exception
from cml_nova.frameworks.base import Layout, Place, TaskState, get_framework
from cml_nova.states import Outcome

TENSORFLOW = get_framework("tensorflow")
DONE = TaskState("EXITED", 0)
RUNNING = TaskState("RUNNING")


def places(layout: Layout, first_port: int = 11000) -> list[Place]:
    return [Place(task, f"10.0.0.{task.node + 1}", tuple(range(first_port + i, first_port + i + task.ports)))
            for i, task in enumerate(layout.tasks)]


def tf_config(counts: dict[str, int], name: str) -> dict:
    layout = TENSORFLOW.layout(counts)
    task = next(task for task in layout.tasks if task.name == name)
    return json.loads(TENSORFLOW.environment(task, places(layout))["TF_CONFIG"])


def test_multi_worker() -> None:
    assert tf_config({"worker": 2}, "worker:1") == {
        "cluster": {"worker": ["10.0.0.1:11000", "10.0.0.2:11001"]},
        "task": {"type": "worker", "index": 1},
    }


def test_chief_is_a_role_of_its_own_in_the_cluster() -> None:
    assert tf_config({"worker": 1, "chief": 1}, "chief:0") == {
        "cluster": {"worker": ["10.0.0.1:11000"], "chief": ["10.0.0.2:11001"]},
        "task": {"type": "chief", "index": 0},
    }


def test_parameter_server_cluster_leaves_the_evaluator_out() -> None:
    counts = {"worker": 2, "chief": 1, "ps": 1, "evaluator": 1}
    cluster = {"worker": ["10.0.0.1:11000", "10.0.0.2:11001"], "chief": ["10.0.0.3:11002"], "ps": ["10.0.0.4:11003"]}
    for name in ("worker:0", "chief:0", "ps:0", "evaluator:0"):
        role, _, index = name.partition(":")
        assert tf_config(counts, name) == {"cluster": cluster, "task": {"type": role, "index": int(index)}}


def test_members_are_in_the_order_of_their_index_whatever_the_order_of_the_table() -> None:
    layout = TENSORFLOW.layout({"worker": 11})
    table = sorted(places(layout), key=lambda place: place.task.name)  # "worker:10" sorts before "worker:2"
    config = json.loads(TENSORFLOW.environment(layout.tasks[0], table)["TF_CONFIG"])
    assert config["cluster"]["worker"] == [f"10.0.0.{i + 1}:{11000 + i}" for i in range(11)]


def test_ipv6_addresses_are_in_brackets() -> None:
    layout = TENSORFLOW.layout({"worker": 1})
    config = json.loads(TENSORFLOW.environment(layout.tasks[0], [Place(layout.tasks[0], "fd00::1", (11000,))])["TF_CONFIG"])
    assert config["cluster"]["worker"] == ["[fd00::1]:11000"]


def test_only_parameter_server_jobs_make_grpc_fail_fast() -> None:
    for counts, expected in (({"worker": 2}, None), ({"worker": 1, "chief": 1, "ps": 1}, "use_caller")):
        layout = TENSORFLOW.layout(counts)
        for task in layout.tasks:
            assert TENSORFLOW.environment(task, places(layout)).get("GRPC_FAIL_FAST") == expected


@pytest.mark.parametrize(("counts", "words"), [
    ({"worker": 0}, ("roles.worker.count", "at least 1", "not 0")),
    ({"worker": 1, "chief": 2}, ("roles.chief.count", "0 to 1", "not 2")),
    ({"worker": 2, "ps": 1}, ("roles.chief.count", "exactly 1", "not 0")),
    ({"chief": 1, "ps": 1}, ("roles.worker.count", "at least 1", "not 0")),
    ({"worker": 1, "scheduler": 1}, ("scheduler", "worker, chief, ps, evaluator")),
])
def test_refused_roles(counts: dict[str, int], words: tuple[str, ...]) -> None:
    with pytest.raises(exception.BadRequest) as refused:
        TENSORFLOW.check(counts)
    for word in words:
        assert word in refused.value.message


@pytest.mark.parametrize("counts", [
    {"worker": 1}, {"worker": 2}, {"worker": 3, "chief": 1}, {"worker": 1, "chief": 1, "ps": 1},
    {"worker": 2, "chief": 1, "ps": 2, "evaluator": 1},
])
def test_accepted_roles(counts: dict[str, int]) -> None:
    TENSORFLOW.check(counts)
    assert len(TENSORFLOW.layout(counts).nodes) == len(TENSORFLOW.layout(counts).tasks) == sum(counts.values())


def test_multi_worker_job_is_done_when_all_have_exited() -> None:
    layout = TENSORFLOW.layout({"worker": 1, "chief": 1})
    assert TENSORFLOW.verdict(layout, {"chief:0": DONE, "worker:0": RUNNING}).outcome is None
    assert TENSORFLOW.verdict(layout, {"chief:0": DONE, "worker:0": DONE}).outcome == Outcome.SUCCEEDED


def test_parameter_server_job_is_done_with_its_chief() -> None:
    layout = TENSORFLOW.layout({"worker": 2, "chief": 1, "ps": 1})
    states = {"chief:0": RUNNING, "worker:0": RUNNING, "worker:1": RUNNING, "ps:0": RUNNING}
    assert TENSORFLOW.verdict(layout, states).outcome is None
    assert TENSORFLOW.verdict(layout, states | {"chief:0": DONE}).outcome == Outcome.SUCCEEDED


def test_an_evaluator_holds_no_job_open() -> None:
    layout = TENSORFLOW.layout({"worker": 1, "evaluator": 1})
    assert TENSORFLOW.verdict(layout, {"worker:0": DONE, "evaluator:0": RUNNING}).outcome == Outcome.SUCCEEDED


@pytest.mark.parametrize("failed", [TaskState("EXITED", 3), TaskState("EXITED", None, 9)])
def test_any_failed_task_fails_the_attempt_and_is_named(failed: TaskState) -> None:
    layout = TENSORFLOW.layout({"worker": 2, "chief": 1, "ps": 1})
    verdict = TENSORFLOW.verdict(layout, {"chief:0": DONE, "ps:0": failed})
    assert (verdict.outcome, verdict.culprit) == (Outcome.FAILED, "ps:0")


def test_a_task_that_was_stopped_has_neither_failed_nor_finished() -> None:
    layout = TENSORFLOW.layout({"worker": 1})
    assert TENSORFLOW.verdict(layout, {"worker:0": TaskState("STOPPED", None, 15)}).outcome is None


def test_every_task_runs_the_users_program() -> None:
    layout = TENSORFLOW.layout({"worker": 1, "chief": 1, "ps": 1, "evaluator": 1})
    assert all(TENSORFLOW.helper_command(task) is None for task in layout.tasks)
