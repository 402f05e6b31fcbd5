"""What daemons of different releases may say to each other over the bus."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import oslo_messaging as messaging
import pytest

from cml_nova import context as cml_context
from cml_nova import rpc
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.rpcapi import WorkerClient
from cml_nova.worker.work import Job

#: what each version has added: method -> its arguments. What stands here is what releases that are out there send, and stays as it is.
HISTORY: dict[type[Any], dict[str, dict[str, str]]] = {
    ConductorManager: {
        "1.0": {
            "ping": "",
            "job_wake": "job_id",
            "job_get": "job_id generation",
            "job_report": "job_id generation report",
            "worker_heartbeat": "worker held",
            "worker_goodbye": "worker_id",
            "tunnel_opens": "ticket",
            "tunnels_over": "nodes",
        },
    },
    WorkerManager: {
        "1.0": {"run": "job_id generation", "nudge": "job_id", "inventory": "", "reap": "job_id"},
    },
}
#: public methods of the managers that are not called over the bus
LOCAL = {WorkerManager: {"announce", "heartbeat", "drain"}}
TOPICS = {ConductorManager: rpc.CONDUCTOR_TOPIC, WorkerManager: rpc.WORKER_TOPIC}


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def understood(manager: type[Any]) -> dict[str, str]:
    """Give the methods that the bus may call, and their arguments."""
    found = {}
    for name, method in inspect.getmembers(manager, inspect.isfunction):
        if not name.startswith("_") and name not in LOCAL.get(manager, ()):
            parameters = list(inspect.signature(method).parameters)
            assert parameters[:2] == ["self", "context"], name
            found[name] = " ".join(parameters[2:])
    return found


@pytest.mark.parametrize("manager", HISTORY)
def test_a_version_is_what_it_consists_of(manager: type[Any]) -> None:
    versions = HISTORY[manager]
    assert list(versions)[-1] == rpc.VERSIONS[TOPICS[manager]] == manager.target.version, "what changes has a version of its own"
    assert understood(manager) == {name: arguments for added in versions.values() for name, arguments in added.items()}


@pytest.mark.parametrize("manager", HISTORY)
def test_what_older_releases_send_is_enough(manager: type[Any]) -> None:
    for added in HISTORY[manager].values():
        for name, arguments in added.items():
            inspect.signature(getattr(manager, name)).bind(None, None, **dict.fromkeys(arguments.split()))


class Bus:
    """In the place of a client: notes what is sent, and the version that it asks for."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self._version = ""

    def client(self, transport: Any, target: messaging.Target, **options: Any) -> Bus:
        self._version = target.version
        return self

    def prepare(self, *, version: str | None = None, **options: Any) -> Bus:
        made = Bus()
        made.sent, made._version = self.sent, version or self._version
        return made

    def call(self, context: Any, method: str, **arguments: Any) -> list[Any]:
        self.sent.append((method, self._version, arguments))
        return []

    cast = call


CALLS: dict[type[Any], dict[str, Callable[[Any], Any]]] = {
    ConductorManager: {
        "ping": lambda client: client.ping(1),
        "job_wake": lambda client: client.job_wake(None, "j"),
        "job_get": lambda client: client.job_get(None, "j", 1),
        "job_report": lambda client: client.job_report(None, "j", 1, {}),
        "worker_heartbeat": lambda client: client.worker_heartbeat(None, {}, {}, 1),
        "worker_goodbye": lambda client: client.worker_goodbye(None, "w"),
        "tunnel_opens": lambda client: client.tunnel_opens(None, {}),
        "tunnels_over": lambda client: client.tunnels_over(None, []),
    },
    WorkerManager: {
        "run": lambda client: client.run(None, "w", "j", 1),
        "nudge": lambda client: client.nudge(None, "w", "j"),
        "inventory": lambda client: client.inventory(None, "w"),
        "reap": lambda client: client.reap(None, "w", "j"),
    },
}
CLIENTS: dict[type[Any], Callable[[Any], Any]] = {ConductorManager: ConductorClient, WorkerManager: WorkerClient}


class Transport:
    conf = None


@pytest.mark.parametrize(("manager", "method"), [(manager, method) for manager, methods in CALLS.items() for method in methods])
def test_what_is_sent_is_in_the_version_that_it_asks_for(monkeypatch: pytest.MonkeyPatch, manager: type[Any], method: str) -> None:
    bus = Bus()
    monkeypatch.setattr(messaging, "get_rpc_client", bus.client)
    CALLS[manager][method](CLIENTS[manager](Transport()))
    [(sent, version, arguments)] = bus.sent
    assert sent == method
    known = [added[method] for since, added in HISTORY[manager].items() if method in added and number(since) <= number(version)]
    assert known and " ".join(arguments) == known[-1], "older servers would refuse it"


@pytest.mark.parametrize("manager", HISTORY)
def test_all_that_is_understood_is_sent_by_somebody(manager: type[Any]) -> None:
    assert set(CALLS[manager]) == set(understood(manager))


def test_a_refusal_for_its_age_is_told_from_other_errors() -> None:
    assert rpc.is_refusal(messaging.RemoteError("UnsupportedVersion", "Endpoint does not support RPC version 1.7"))
    assert not rpc.is_refusal(messaging.RemoteError("ValueError", "x"))
    assert not rpc.is_refusal(messaging.MessagingTimeout())


def test_what_a_later_conductor_says_more_of_a_job_is_left_out() -> None:
    document: dict[str, Any] = {
        "id": "j", "name": "n", "project_id": "p", "request_id": None, "spec": {}, "keys": {}, "sealed": "", "phase": "RUNNING",
        "outcome": None, "target": "RUN", "cause": None, "status_reason": None, "attempt": 1, "error_restarts": 0, "infra_restarts": 0,
        "runtime": {}, "generation": 3, "age": 5.0, "phase_age": 1.0, "nodes": [], "tasks": []}
    job = Job.read({**document, "seen_at": -1.0, "colour": "blue"})
    assert (job.id, job.generation) == ("j", 3)
    assert job.seen_at > 0


def test_the_context_of_a_later_release_is_read() -> None:
    sent = {**cml_context.service_context().to_dict(), "mood": "good"}
    assert rpc.ContextSerializer().deserialize_context(sent).is_admin
