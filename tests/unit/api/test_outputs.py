"""Log, events, metrics, nodes, artifacts: what is read of a job."""

from __future__ import annotations

import re
import threading
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import update

from cml_nova.api.v1 import outputs
from cml_nova.db import events as db_events
from cml_nova.db import metrics as db_metrics
from cml_nova.db.models import Job, Node, Task
from cml_nova.storage.base import log_key
from cml_nova.storage.times import TimesWriter
from tests.unit.api.conftest import Api


def running(api: Api, **values: Any) -> str:
    job_id: str = api.create()["id"]
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**{"phase": "RUNNING", "attempt": 1} | values))
    return job_id


def read(api: Api, job_id: str, query: str = "") -> tuple[bytes, int, bool, int]:
    answer = api.get(f"/v1/jobs/{job_id}/log?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/plain"
    headers = answer.headers
    eof = {"true": True, "false": False}[headers["X-Log-Eof"]]
    return answer.data, int(headers["X-Log-Next-Offset"]), eof, int(headers["X-Log-Attempt"])


def test_a_log_is_read_by_offset_without_loss(api: Api) -> None:
    job_id = running(api)
    text = "epoch ä 1\n".encode() * 10
    api.storage.write_at(log_key(job_id, 1, "worker:0"), 0, text)
    got, offset = b"", 0
    while True:
        data, offset, eof, attempt = read(api, job_id, f"offset={offset}&limit=7")
        assert (eof, attempt) == (False, 1)
        if not data:
            break
        got += data
    assert got == text
    assert offset == len(text)


def test_the_last_bytes_of_a_log(api: Api) -> None:
    job_id = running(api)
    assert read(api, job_id, "tail=4") == (b"", 0, False, 1)
    api.storage.write_at(log_key(job_id, 1, "worker:0"), 0, b"0123456789")
    assert read(api, job_id, "tail=4") == (b"6789", 10, False, 1)
    assert read(api, job_id, "tail=4&limit=2") == (b"67", 8, False, 1)
    assert read(api, job_id, "tail=40") == (b"0123456789", 10, False, 1)


@pytest.fixture
def timed(api: Api) -> str:
    """Give the id of a job whose log has come at 12:00:00, 12:00:10 (in the midst of a line) and 12:00:20."""
    job_id = running(api)
    key = log_key(job_id, 1, "worker:0")
    noon = 1767268800.0
    TimesWriter(api.storage, key, 0).add([(0, noon), (5, noon + 10), (12, noon + 20.5)])
    api.storage.write_at(key, 0, b"one\ntwo\n\nend\n")
    return job_id


@pytest.mark.parametrize(("since", "place"), [
    ("2026-01-01T11:00:00Z", 0), ("2026-01-01T12:00:00Z", 0), ("2026-01-01T12:00:00.001Z", 4), ("2026-01-01T13:00:10+01:00", 4),
    ("2026-01-01T12:00:20.5", 9), ("2026-01-01T12:00:21Z", 13), ("10", 13), ("9999999999", 0)])
def test_a_log_since_a_time_begins_with_a_line(api: Api, timed: str, since: str, place: int) -> None:
    answer = api.get(f"/v1/jobs/{timed}/log?{urlencode({'since': since})}")
    assert (answer.data, int(answer.headers["X-Log-Offset"])) == (b"one\ntwo\n\nend\n"[place:], place)
    assert answer.headers["X-Log-Next-Offset"] == "13"


@pytest.mark.parametrize("query", ["offset=0&limit=13", "offset=5&limit=6"])
def test_times_of_lines_count_in_no_offset(api: Api, timed: str, query: str) -> None:
    plain, whole = api.get(f"/v1/jobs/{timed}/log?{query}"), api.get(f"/v1/jobs/{timed}/log?{query}&timestamps=true")
    assert whole.text == {
        "offset=0&limit=13": "2026-01-01T12:00:00.000Z one\n2026-01-01T12:00:00.000Z two\n2026-01-01T12:00:10.000Z \n"
                             "2026-01-01T12:00:10.000Z end\n",
        "offset=5&limit=6": "2026-01-01T12:00:10.000Z wo\n2026-01-01T12:00:10.000Z \n2026-01-01T12:00:10.000Z en"}[query]
    assert re.sub(rb"2026-.{19} ", b"", whole.data) == plain.data
    headers = ("X-Log-Offset", "X-Log-Next-Offset", "X-Log-Eof", "X-Log-Attempt")
    assert [whole.headers[name] for name in headers] == [plain.headers[name] for name in headers]


def test_a_log_whose_times_are_not_known(api: Api) -> None:
    job_id = running(api)
    key = log_key(job_id, 1, "worker:0")
    assert read(api, job_id, "since=10&timestamps=true")[0] == b""
    api.storage.write_at(key, 0, b"old\nnew\n")
    assert read(api, job_id, "since=10")[0] == b"old\nnew\n"
    assert read(api, job_id, "timestamps=true")[0] == b"-" + b" " * 24 + b"old\n-" + b" " * 24 + b"new\n"
    api.storage.write_at(f"{key}.times", 0, bytes(7))
    assert read(api, job_id, "since=10")[0] == b"old\nnew\n", "a torn record is none"


@pytest.mark.parametrize(("query", "words"), [
    ("since=yesterday", "since: 'yesterday' is not a time like 2026-01-31T12:00:00Z, or a number of seconds such as 600."),
    ("since=-5", "since: '-5' is not a time"), ("since=10&offset=3", "since: it is in place of offset; give one of them."),
    ("since=10&tail=3", "since: it is in place of tail"), ("tail=3&offset=3", "tail: it is in place of offset"),
    ("timestamps=maybe", "timestamps: 'maybe' is neither true nor false"),
    ("timestamps=true&limit=262145", "limit: with timestamps it is at most 262144, not 262145; ask for the rest from X-Log-Next-Offset")])
def test_how_not_to_ask_for_times(api: Api, query: str, words: str) -> None:
    answer = api.get(f"/v1/jobs/{running(api)}/log?{query}")
    assert answer.status_code == 400
    assert words in answer.json["error"]["message"]  # type: ignore[index]


@pytest.mark.parametrize(("values", "query", "eof"), [
    ({}, "", False),
    ({"phase": "PROVISIONING"}, "", False),
    ({"phase": "COLLECTING"}, "", True),
    ({"phase": "TEARDOWN"}, "", True),
    ({"phase": "DONE", "outcome": "SUCCEEDED"}, "", True),
    ({"phase": "DONE", "outcome": "SUCCEEDED"}, "limit=3", False),
    ({"phase": "DONE", "outcome": "SUCCEEDED"}, "limit=3&offset=3", True),
    ({"attempt": 2}, "attempt=1", True),
    ({"attempt": 2}, "attempt=2", False),
    ({"attempt": 0, "phase": "BOOTSTRAPPING"}, "attempt=0", False),
    ({"attempt": 1}, "attempt=0", True),
])
def test_the_end_of_a_log(api: Api, values: dict[str, Any], query: str, eof: bool) -> None:
    job_id = running(api, **values)
    for attempt in (0, 1, 2):
        api.storage.write_at(log_key(job_id, attempt, "worker:0"), 0, b"12345")
    assert read(api, job_id, query)[2] is eof


def test_tasks_have_logs_of_their_own(api: Api) -> None:
    job_id = running(api)
    api.storage.write_at(log_key(job_id, 1, "worker:1"), 0, b"one")
    assert read(api, job_id, "task=worker:1")[0] == b"one"
    assert read(api, job_id)[0] == b""
    assert api.get(f"/v1/jobs/{job_id}/log?task=worker:2").status_code == 404


def test_waiting_ends_when_text_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = running(api)
    looks = []

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            looks.append(timeout)
            if len(looks) == 3:
                api.storage.write_at(log_key(job_id, 1, "worker:0"), 0, b"late")
            return False

    monkeypatch.setattr(outputs.threading, "Event", Pause)
    assert read(api, job_id, "wait=25") == (b"late", 4, False, 1)
    assert len(looks) == 3


def test_waiting_ends_with_the_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = running(api)

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            api.storage.write_at(log_key(job_id, 1, "worker:0"), 0, b"last words")
            with api.db.write() as session:
                session.execute(update(Job).where(Job.id == job_id).values(phase="COLLECTING"))
            return False

    monkeypatch.setattr(outputs.threading, "Event", Pause)
    assert read(api, job_id, "wait=25") == (b"last words", 10, True, 1)


def test_waiting_ends_at_the_services_limit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.conf.set_override("max_wait", 5, "api")
    job_id = running(api)
    now = [100.0]

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += 1
            return False

    monkeypatch.setattr(outputs.threading, "Event", Pause)
    monkeypatch.setattr(outputs.time, "monotonic", lambda: now[0])
    assert read(api, job_id, "wait=1000") == (b"", 0, False, 1)
    assert now[0] == 105


def test_events_in_order_and_in_pages(api: Api) -> None:
    job_id = running(api)
    with api.db.write() as session:
        for index in range(4):
            db_events.add(session, job_id, "phase", f"step {index}", {"index": index})
    seen, path = [], f"/v1/jobs/{job_id}/events?limit=2"
    while path:
        page = api.get(path).json
        seen += [event["message"] for event in page["events"]]  # type: ignore[index]
        path = page.get("events_links", [{"href": ""}])[0]["href"]  # type: ignore[union-attr]
    assert seen == ["The job was created with 2 nodes.", "step 0", "step 1", "step 2", "step 3"]


def test_metrics_are_series(api: Api) -> None:
    job_id = running(api)

    def point(task: str, offset: int, name: str, value: float, at: float) -> dict[str, Any]:
        return {"job_id": job_id, "attempt": 1, "task": task, "offset": offset, "name": name, "step": offset, "value": value, "at": at}

    rows = [point("worker:0", 0, "loss", 2.5, 1000.0), point("worker:0", 1, "loss", float("inf"), 999.0),
            point("worker:0", 3, "loss", float("nan"), 1003.0), point("worker:1", 0, "loss", 2.0, 1000.5),
            point("worker:0", 2, "accuracy", 0.5, 1002.0)]
    for _ in range(2):
        with api.db.write() as session:
            db_metrics.record(session, rows)
    path = f"/v1/jobs/{job_id}/metrics"
    answer = api.get(path).json
    assert answer["settings"] == {}  # type: ignore[index]
    assert [(s["name"], s["task"], [p["y"] for p in s["data"]]) for s in answer["series"]] == [  # type: ignore[index]
        ("accuracy", "worker:0", [0.5]), ("loss", "worker:0", [2.5, None, None]), ("loss", "worker:1", [2.0])]
    assert answer["series"][0]["data"] == [{"x": "1970-01-01T00:16:42.000Z", "y": 0.5, "step": 2}]  # type: ignore[index]
    for query, names in (("name=loss&task=worker:1", ["loss"]), ("name=none", []),
                         ("since=1970-01-01T00:16:41.500Z&task=worker:0&name=accuracy", ["accuracy"])):
        assert [s["name"] for s in api.get(f"{path}?{query}").json["series"]] == names  # type: ignore[index]


def test_nodes_with_the_tasks_of_the_newest_attempt(api: Api) -> None:
    job_id = running(api, attempt=2)
    with api.db.write() as session:
        second = update(Node).where(Node.job_id == job_id, Node.rank == 1)
        session.execute(second.values(status="ACTIVE", address="127.64.0.9", server_id="s"))
        for attempt in (1, 2):
            session.add(Task(job_id=job_id, attempt=attempt, name="worker:1", node_rank=1, state="RUNNING", started_at=1000.0))
    nodes = api.get(f"/v1/jobs/{job_id}/nodes").json["nodes"]  # type: ignore[index]
    assert [(node["rank"], node["role"], node["index"], node["status"]) for node in nodes] == [
        (0, "worker", 0, "PLANNED"), (1, "worker", 1, "ACTIVE")]
    assert nodes[0]["tasks"] == []
    assert nodes[1]["tasks"] == [{"name": "worker:1", "attempt": 2, "state": "RUNNING", "exit_code": None, "signal": None,
                                  "started_at": "1970-01-01T00:16:40.000Z", "ended_at": None}]


def test_what_is_saved_of_the_checkpoints(api: Api) -> None:
    job_id = running(api)
    path = f"/v1/jobs/{job_id}/checkpoint"
    assert api.get(path).json == {"checkpoint": None}
    saved = {"id": "1/u", "attempt": 2, "saved_at": 1000.0, "files": 3, "bytes": 1 << 40}
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(runtime={"table": [], "checkpoint": saved}))
    assert api.get(path).json == {"checkpoint": {"attempt": 2, "saved_at": "1970-01-01T00:16:40.000Z", "files": 3, "bytes": 1 << 40}}


def test_artifacts(api: Api) -> None:
    job_id = running(api)
    path = f"/v1/jobs/{job_id}/artifacts"
    assert api.get(path).json == {"artifacts": []}
    data = bytes(range(256)) * 1000
    api.storage.put(f"jobs/{job_id}/artifacts/worker-0/model/weights ä.bin", [data])
    entry = api.get(path).json["artifacts"][0]  # type: ignore[index]
    assert (entry["path"], entry["size"]) == ("worker-0/model/weights ä.bin", 256_000)
    answer = api.get(f"{path}/{entry['path']}")
    assert answer.data == data
    assert answer.headers["Content-Length"] == "256000"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert api.get(f"{path}/worker-0/model").status_code == 404


def test_download_goes_on_where_it_broke_off_unless_the_file_is_another(api: Api) -> None:
    job_id = running(api)
    key = f"jobs/{job_id}/artifacts/output/worker-0/model"
    url = f"/v1/{key}"
    api.storage.put(key, [b"0123456789"])
    etag = api.get(url).headers["ETag"]
    part = api.request("GET", url, headers={"Range": "bytes=4-", "If-Range": etag})
    assert (part.status_code, part.data, part.headers["Content-Range"]) == (206, b"456789", "bytes 4-9/10")
    assert part.headers["Content-Length"] == "6"
    assert api.request("GET", url, headers={"Range": "bytes=10-"}).status_code == 416
    api.storage.put(key, [b"abcdefghijk"])
    whole = api.request("GET", url, headers={"Range": "bytes=4-", "If-Range": etag})
    assert (whole.status_code, whole.data) == (200, b"abcdefghijk")
    assert whole.headers["ETag"] != etag
