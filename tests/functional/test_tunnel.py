"""The way of users to the nodes of their jobs."""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websocket

from cml_nova.secrets import Vault
from cml_nova.tickets import Ticket
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack, make_stack
from tests.harness.training import Gate, document
from tests.harness.tunnel import Refused, Tunnel
from tests.harness.waiting import until

PORT = 6006
#: listens on its own machine only; turns each connection's bytes round when all have come, and says whose they were
ECHO = f'''
import os, socket, threading
import gate

address = os.environ["CML_NODE_IPS"].split(",")[int(os.environ["CML_NODE_RANK"])]
listener = socket.create_server((address, {PORT}))

def serve():
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=turn, args=(connection,), daemon=True).start()

def turn(connection):
    with connection:
        pieces = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(os.environ["CML_NODE_RANK"].encode() + b":" + pieces[::-1])

threading.Thread(target=serve, daemon=True).start()
gate.wait()
'''


def ask(client: Client, job_id: str, **wanted: Any) -> Any:
    answer = client.request("POST", f"/v1/jobs/{job_id}/tunnels", json={"tunnel": wanted})
    assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
    return answer.json()["tunnel"]


def echo(tunnel: Tunnel, data: bytes) -> bytes:
    """Send data and its end; give what comes back. It is sent beside that: it may be more than fits into what is between."""
    def send() -> None:
        for start in range(0, len(data), 60_000):
            tunnel.send(data[start:start + 60_000])
        tunnel.end()

    sending = threading.Thread(target=send)
    sending.start()
    try:
        return tunnel.read_all()
    finally:
        sending.join()


@pytest.fixture
def vault(stack: Stack) -> Vault:
    """What the service seals with."""
    return Vault([line for line in (stack.service.directory / "fernet.keys").read_text().splitlines() if line])


def start(client: Client, gate: Gate, workers: int = 1, **more: Any) -> str:
    job_id = client.submit(document(workers=workers, env=gate.env, **more), gate.files(ECHO))
    gate.expect(workers)
    return job_id


def test_bytes_go_both_ways_to_each_node_through_each_worker(stack: Stack, client: Client, gate: Gate) -> None:
    job_id = start(client, gate, workers=2)
    data = bytes(range(256)) * 8192  # 2 MiB
    for wanted, rank in (({"task": "worker:1"}, b"1"), ({"node": 0}, b"0"), ({}, b"0")):
        for url in stack.service.tunnel_urls:
            tunnel = Tunnel(ask(client, job_id, port=PORT, **wanted), url)
            assert echo(tunnel, data) == rank + b":" + data[::-1]
            tunnel.close()
    told = [event for event in client.events(job_id) if event["kind"] == "access"]
    assert sorted(event["detail"]["node"] for event in told) == [0, 1], "one for each node and port, not for each connection"
    with pytest.raises(Refused, match="Nothing listens on port 1 there"):
        Tunnel(ask(client, job_id, port=1))
    held = Tunnel(ask(client, job_id, port=PORT))
    gate.open()
    client.succeed(job_id)  # nothing of this holds it up
    assert held.farewell()[0] in (1000, 1001)  # its process or its node has ended first
    answer = client.request("POST", f"/v1/jobs/{job_id}/tunnels", json={"tunnel": {"port": PORT}})
    assert (answer.status_code, "has ended (SUCCEEDED)" in answer.text) == (409, True)


def test_who_is_not_let_through(stack: Stack, client: Client, gate: Gate, vault: Vault) -> None:
    job_id, ended = start(client, gate), client.submit(document(workers=1, command="true"))
    wanted = {"json": {"tunnel": {"port": PORT}}}
    assert stack.other.request("POST", f"/v1/jobs/{job_id}/tunnels", **wanted).status_code == 404
    assert Client(stack.cloud.session("local-reader")).request("POST", f"/v1/jobs/{job_id}/tunnels", **wanted).status_code == 403
    told = ask(client, job_id, port=PORT)
    ticket = Ticket.open(vault, told["token"])
    for token in ("", "x", told["token"][:-1], vault.seal({"ssh": "", "host": "", "secrets": {}})):
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            Tunnel(told, token=token or " ")
        assert refusal.value.status_code == 401
    with pytest.raises(Refused, match="has expired"):
        Tunnel(told, token=replace(ticket, expires_at=time.time() - 1).seal(vault))
    client.succeed(ended)
    with pytest.raises(Refused, match="has ended"):
        Tunnel(told, token=replace(ticket, job_id=ended).seal(vault))
    assert [event for event in client.events(job_id) if event["kind"] == "access"] == []
    held = Tunnel(told)
    client.cancel(job_id)
    client.finish(job_id)
    held.farewell()
    logs = "".join(daemon.log_path.read_text() for daemon in stack.service.daemons)
    assert f"to node 0 of job {job_id}" in logs
    assert told["token"] not in logs


def test_a_tunnel_ends_with_its_node(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = start(client, gate, workers=2)
    tunnels = [Tunnel(ask(client, job_id, node=rank, port=PORT)) for rank in range(2)]
    cloud.fault("server", server=client.nodes(job_id)[1]["server_id"], fault="vanish")
    assert tunnels[1].farewell() in [(1001, reason) for reason in (
        "The connection to node 1 was lost.", f"Node 1 of the job {job_id} was replaced.")]
    gate.expect(4)
    assert echo(Tunnel(ask(client, job_id, node=1, port=PORT)), b"abc") == b"1:cba"
    tunnels[0].close()
    gate.open()
    client.succeed(job_id)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_callers_who_show_no_token_are_hung_up_on_where_there_are_too_many(tmp_path: Path, gate: Gate) -> None:
    with make_stack(tmp_path, shape="standalone", options={"tunnel": {"max_sessions": 2}}) as stack, stack.guarded():
        client, [daemon] = stack.demo, stack.service.daemons
        job_id = start(client, gate)
        told = ask(client, job_id, port=PORT)
        held, before = Tunnel(told), threads(daemon.pid)
        where = urlsplit(stack.service.tunnel_urls[0])
        with ExitStack() as callers:
            silent = [callers.enter_context(socket.create_connection((where.hostname or "", where.port or 0))) for _ in range(150)]
            # Within five seconds: after ten all would end that have sent nothing, were there room for them or not.
            until(lambda: len(select.select(silent, (), (), 0)[0]) >= 90, 5, "the end of those who are too many")
            # Each of those who are not too many takes two; HTTP's may have grown, and the last that were hung up on may still be ending.
            until(lambda: threads(daemon.pid) <= before + 2 * 52 + 2, 9, "the end of the threads of those who are too many")
            assert echo(held, b"abc") == b"0:cba", "who has a tunnel does not notice"
        until(lambda: threads(daemon.pid) <= before + 2, 30, "the end of their threads")
        assert echo(Tunnel(told), b"abc") == b"0:cba"
        gate.open()
        client.succeed(job_id)


def test_tunnels_are_taken_again_after_files_have_run_out(tmp_path: Path, gate: Gate) -> None:
    with make_stack(tmp_path, shape="standalone") as stack, stack.guarded():
        client, [daemon] = stack.demo, stack.service.daemons
        job_id = start(client, gate)
        told = ask(client, job_id, port=PORT)
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # what is open stays open
        with pytest.raises((OSError, websocket.WebSocketException)):
            Tunnel(told)
        until(lambda: "A caller could not be taken" in daemon.log_path.read_text(), 30, "word of it in the log")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        assert echo(until(lambda: reached(told), 30, "tunnels are taken again"), b"abc") == b"0:cba"
        gate.open()
        client.succeed(job_id)


def reached(told: dict[str, Any]) -> Tunnel | None:
    try:
        return Tunnel(told)
    except ConnectionError:
        return None


def test_limits_and_the_end_of_a_worker(tmp_path: Path, gate: Gate) -> None:
    with make_stack(tmp_path, shape="standalone", options={"tunnel": {"max_sessions": 2, "idle_timeout": 1}}) as stack, stack.guarded():
        client, [daemon] = stack.demo, stack.service.daemons
        job_id = start(client, gate)
        Tunnel(ask(client, job_id, port=PORT)).close()  # what is made at the first is there from now on
        job_threads, job_files = threads(daemon.pid), files(daemon.pid)
        held = [Tunnel(ask(client, job_id, port=PORT)) for _ in range(2)]
        with pytest.raises(Refused, match=r"as many tunnels open as it may \(2\); try again later"):
            Tunnel(ask(client, job_id, port=PORT))
        for tunnel in held:
            assert tunnel.farewell() == (1001, "Nothing went through the tunnel for 1 s.")
        until(lambda: threads(daemon.pid) <= job_threads + 2, 30, "the end of the tunnels' threads")  # HTTP's may have grown
        until(lambda: files(daemon.pid) <= job_files + 2, 30, "the end of the tunnels' connections")
        held = [Tunnel(ask(client, job_id, port=PORT)) for _ in range(2)]
        stopping = threading.Thread(target=stack.service.stop)
        stopping.start()
        for tunnel in held:
            assert tunnel.farewell() == (1001, "This worker of the service stops; connect again.")
        stopping.join()
        stack.service.start()
        assert echo(Tunnel(ask(client, job_id, port=PORT)), b"abc") == b"0:cba"
        gate.open()
        client.succeed(job_id)
