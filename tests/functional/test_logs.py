"""Logs: every line exactly once, by offset, with long poll."""

from __future__ import annotations

import time

from tests.harness.client import Client
from tests.harness.training import TICK, WAIT, Gate, document
from tests.harness.waiting import until


def test_ten_thousand_lines_exactly_once(client: Client) -> None:
    script = "import os\nfor i in range(10000): print('rank', os.environ['CML_NODE_RANK'], 'line', i)"
    job_id = client.submit(document(), {"train.py": script})
    client.succeed(job_id)
    for rank in range(2):
        assert client.log(job_id, f"worker:{rank}").splitlines() == [f"rank {rank} line {i}" for i in range(10000)]


def test_log_grows_while_the_job_runs_and_is_read_by_offset(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(workers=1, env=gate.env), gate.files(TICK))
    gate.expect(1)
    text = b""
    offset = 0
    deadline = time.monotonic() + 30
    while text.count(b"\n") < 100:
        data, next_offset, eof = client.log_piece(job_id, "worker:0", offset, wait=5, limit=50)
        assert not eof
        assert len(data) <= 50
        assert next_offset == offset + len(data)
        text, offset = text + data, next_offset
        assert time.monotonic() < deadline
    assert text.decode().splitlines()[:100] == [f"line {i}" for i in range(100)]
    gate.open()
    client.succeed(job_id)
    whole = client.log(job_id)
    assert whole.startswith(text.decode())
    assert client.log_piece(job_id, "worker:0", len(whole)) == (b"", len(whole), True)


def test_long_poll_answers_as_soon_as_there_is_more(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(workers=1, env=gate.env), gate.files(WAIT))
    gate.expect(1)
    until(lambda: client.log_piece(job_id, "worker:0")[0] == b"started\n", 20, "the first line")
    began = time.monotonic()
    assert client.log_piece(job_id, "worker:0", 8, wait=1) == (b"", 8, False)
    assert 0.9 < time.monotonic() - began < 10
    gate.open()
    began = time.monotonic()
    data, _, _ = client.log_piece(job_id, "worker:0", 8, wait=20)
    assert data == b"gate said go\n"
    assert time.monotonic() - began < 10
    client.succeed(job_id)


def test_output_that_is_no_text_and_has_no_newline(client: Client) -> None:
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000); sys.stderr.write('the end')"
    job_id = client.submit(document(workers=1), {"train.py": script})
    client.succeed(job_id)
    data, offset, eof = b"", 0, False
    while not eof:
        piece, offset, eof = client.log_piece(job_id, "worker:0", offset)
        data += piece
    assert data == bytes(range(256)) * 1000 + b"the end"


def test_log_of_a_task_that_is_not_there(client: Client) -> None:
    job_id = client.submit(document(workers=1), {"train.py": ""})
    client.succeed(job_id)
    assert client.request("GET", f"/v1/jobs/{job_id}/log", params={"task": "worker:7"}).status_code == 404
    assert client.request("GET", f"/v1/jobs/{job_id}/log", params={"task": "../../etc/passwd"}).status_code == 400
    assert client.request("GET", f"/v1/jobs/{job_id}/log", params={"task": "worker:0", "offset": "-1"}).status_code == 400
    assert client.log(job_id) == ""
