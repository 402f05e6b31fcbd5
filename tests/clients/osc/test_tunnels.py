"""Get to the machines of a job: log in, and use their ports."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clients.conftest import REPOSITORY
from tests.harness.client import Client
from tests.harness.command import Openstack
from tests.harness.training import Gate, document

PORT = 6006
#: tells over HTTP which node it is
SERVE = f'''
import http.server, os, threading
import gate

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("node " + os.environ["CML_NODE_RANK"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

address = os.environ["CML_NODE_IPS"].split(",")[int(os.environ["CML_NODE_RANK"])]
threading.Thread(target=http.server.ThreadingHTTPServer((address, {PORT}), Handler).serve_forever, daemon=True).start()
gate.wait()
'''


@pytest.fixture(scope="module")
def own_gate(openstack: Openstack) -> Iterator[Gate]:
    """One for each of the commands: the last test opens it for good."""
    with Gate() as gate:
        yield gate


@pytest.fixture(scope="module")
def serving(openstack: Openstack, client: Client, own_gate: Gate) -> Iterator[str]:
    """Give the id of a job of two machines that answer over HTTP; the last test ends it."""
    job_id = client.submit(document(name="serving", env=own_gate.env), own_gate.files(SERVE))
    own_gate.expect(2)
    yield job_id
    own_gate.open()
    client.finish(job_id)


def accesses(client: Client, job_id: str) -> list[str]:
    return [event["message"] for event in client.events(job_id) if event["kind"] == "access"]


def test_u24_ssh(openstack: Openstack, client: Client, serving: str, tmp_path: Path) -> None:
    server = client.nodes(serving)[1]["server_id"]
    private = {"TMPDIR": str(tmp_path)}
    done = openstack.run("ml", "job", "ssh", serving, "--task", "worker:1", "--", "cat; pwd; exit 7", stdin="said\n", env=private)
    assert (done.code, done.out.splitlines()[0]) == (7, "said"), done.err
    assert server in done.out
    assert list(tmp_path.iterdir()) == [], "key and known hosts are gone"
    [told] = accesses(client, serving)
    assert "to node 1, its SSH server" in told


def test_u24_the_command_for_other_programs(openstack: Openstack, client: Client, serving: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    command = openstack("ml", "job", "ssh", serving, "--node", "0", "--identity", str(key), "--dry-run").out
    assert len(accesses(client, serving)) == 1, "nothing was opened"
    done = subprocess.run(["sh", "-c", f"{command.strip()} pwd"], capture_output=True, text=True, env=openstack.env, check=False)
    assert (done.returncode, client.nodes(serving)[0]["server_id"] in done.stdout) == (0, True), done.stderr
    words = shlex.split(command)
    (tmp_path / "file").write_text("brought")
    subprocess.run(["scp", *words[1:-1], tmp_path / "file", f"{words[-1]}:file"], env=openstack.env, check=True)


def test_u24_what_can_not_be_reached(openstack: Openstack, done: str, serving: str) -> None:
    ended = openstack.run("ml", "job", "ssh", done)
    assert (ended.code, "has ended (SUCCEEDED), and its machines go with it" in ended.err) == (1, True)
    assert "its tasks are worker:0, worker:1" in openstack.run("ml", "job", "ssh", serving, "--task", "worker:7").err


def test_u24_u25_as_the_user_guide_has_it(openstack: Openstack, serving: str) -> None:
    block = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "doc" / "user.md").read_text(), re.DOTALL)[2]
    login, run, forward = (shlex.split(line.replace("digits", serving), comments=True)[1:] for line in block.splitlines())
    assert openstack(*login, stdin="echo logged in; exit\n").out.splitlines()[-1] == "logged in"
    assert "train.py" in openstack(*run).out
    with openstack.start(*forward, "--local-port", "0") as running:
        [url] = re.findall(r"http://\S+", running.error_line())
        assert requests.get(url, timeout=30).text == "node 0"
        running.interrupt()
        assert running.end().code == 130


def test_u25_a_port_that_is_taken(openstack: Openstack, serving: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = openstack.run("ml", "job", "port", "forward", serving, str(port))
    assert ended.code == 1
    assert f"Port {port} of this machine can't be had ({os.strerror(98)}); choose another one with --local-port" in ended.err


def test_u25_a_port_of_a_machine(openstack: Openstack, client: Client, own_gate: Gate, serving: str) -> None:
    with openstack.start("ml", "job", "port", "forward", serving, str(PORT), "--task", "worker:1", "--local-port", "0") as forward:
        line = forward.error_line()
        [url] = re.findall(r"http://127\.0\.0\.1:\d+", line)
        assert line.endswith(f" is port {PORT} of worker:1 of serving until Ctrl-C.")
        assert [requests.get(url, timeout=30).text for _ in range(2)] == ["node 1", "node 1"]
        with requests.Session() as kept:
            assert [kept.get(url, timeout=30).text for _ in range(2)] == ["node 1", "node 1"]
        forward.interrupt()
        ended = forward.end()
    assert (ended.code, ended.out) == (130, "")
    assert f"the job {serving} goes on" in ended.err and "Traceback" not in ended.err
    assert client.job(serving)["status"] == "RUNNING"
    with openstack.start("ml", "job", "port", "forward", serving, str(PORT), "--local-port", "0") as forward:
        [url] = re.findall(r"http://\S+", forward.error_line())
        own_gate.open()
        client.succeed(serving)
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=30)
        ended = forward.end()
    assert (ended.code, "has ended (SUCCEEDED)" in ended.err) == (1, True), ended.err
