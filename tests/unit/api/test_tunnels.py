"""Asking for a way to a node."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from cml_nova.db.models import Job, Node
from cml_nova.remote.keys import generate_keypair
from cml_nova.tickets import Ticket
from tests.unit.api.conftest import Api


@pytest.fixture
def running(api: Api) -> str:
    job_id: str = api.create(roles={"chief": {"count": 1}, "worker": {"count": 2}}, workers=None)["id"]
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(phase="RUNNING"))
        session.execute(update(Node).where(Node.job_id == job_id).values(status="ACTIVE", server_id="s", address="10.0.0.1"))
    return job_id


def ask(api: Api, job_id: str, **wanted: Any) -> Any:
    answer = api.post(f"/v1/jobs/{job_id}/tunnels", json={"tunnel": wanted})
    assert answer.status_code == 201, answer.text
    return answer.json["tunnel"]  # type: ignore[index]


def refused(api: Api, job_id: str, **wanted: Any) -> tuple[int, str]:
    answer = api.post(f"/v1/jobs/{job_id}/tunnels", json={"tunnel": wanted})
    return answer.status_code, answer.json["error"]["message"]  # type: ignore[index]


def test_a_port_of_a_task(api: Api, running: str) -> None:
    tunnel = ask(api, running, task="worker:1", port=6006)
    assert (tunnel["url"], tunnel["task"], tunnel["port"], tunnel["user"]) == ("wss://cloud.test/tunnel", "worker:1", 6006, "cml")
    assert tunnel["host_key"].startswith("ssh-ed25519 ")
    ticket = Ticket.open(api.vault, tunnel["token"])
    assert (ticket.job_id, ticket.rank, ticket.port, ticket.public_key, ticket.user_id) == (running, tunnel["node"], 6006, None, "ann")
    assert str(ticket.request_id).startswith("req-")
    assert api.get(f"/v1/jobs/{running}/events").text.count("access") == 0, "nothing has been opened yet"


def test_without_a_task_the_first_is_meant(api: Api, running: str) -> None:
    tunnel = ask(api, running, port=1)
    assert (tunnel["task"], tunnel["node"]) == ("worker:0", ask(api, running, task="worker:0", port=1)["node"])
    assert ask(api, running, node=2, port=1)["task"] is None


def test_a_key_is_taken_without_what_else_is_in_its_line(api: Api, running: str) -> None:
    key = generate_keypair()[1]
    tunnel = ask(api, running, public_key=f'{key} ann@home command="rm -rf /"')
    assert Ticket.open(api.vault, tunnel["token"]).public_key == key


@pytest.mark.parametrize(("wanted", "code", "words"), [
    ({}, 400, "port: give either that, or public_key"),
    ({"port": 1, "public_key": generate_keypair()[1]}, 400, "tunnel.port: give either that"),
    ({"port": 1, "node": 0, "task": "worker:0"}, 400, "tunnel.node: it is in place of task"),
    ({"port": 0}, 400, "tunnel.port must be at least 1"),
    ({"port": 65536}, 400, "65535"),
    ({"prot": 1}, 400, "did you mean 'port'?"),
    ({"task": "worker", "port": 1}, 400, "tunnel.task"),
    ({"public_key": "ssh-ed25519 AAAA"}, 400, "tunnel.public_key: it is not a valid SSH public key"),
    ({"public_key": 'command="x" ' + generate_keypair()[1]}, 400, "tunnel.public_key"),
    ({"public_key": generate_keypair()[1] + "\nssh-rsa x"}, 400, "tunnel.public_key"),
    ({"task": "worker:2", "port": 1}, 404, "tunnel.task: the job has no task 'worker:2'; its tasks are"),
    ({"node": 3, "port": 1}, 404, "tunnel.node: the job has no node 3; its nodes are 0 to 2"),
])
def test_what_is_wrong_is_said(api: Api, running: str, wanted: dict[str, Any], code: int, words: str) -> None:
    status, message = refused(api, running, **wanted)
    assert (status, words in message) == (code, True), message


def test_a_job_that_has_no_nodes(api: Api, running: str) -> None:
    assert "waits in the queue" in refused(api, api.create()["id"], port=1)[1]
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == running).values(phase="DONE", outcome="SUCCEEDED"))
    assert refused(api, running, port=1) == (409, f"The job {running} has ended (SUCCEEDED), and its machines go with it; its log, "
                                                  "metrics and artifacts stay.")


def test_a_deployment_without_tunnels(api: Api, running: str) -> None:
    api.conf.set_override("public_url", None, "tunnel")
    assert refused(api, running, port=1) == (
        501, "This deployment has no tunnels to nodes; an operator sets [tunnel] public_url and port for that.")
