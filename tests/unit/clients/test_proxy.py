"""What the proxy makes of answers, and of the time that passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions
from openstack import proxy as sdk_proxy

from cml_nova.clients.sdk import Proxy, explain
from tests.unit.clients.conftest import Clock


class Jobs:
    """A proxy whose job has these statuses, one after the other; an error is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *statuses: Any) -> None:
        self._statuses = list(statuses)
        self.proxy = Proxy(session=None)
        monkeypatch.setattr(self.proxy, "get_job", self._get_job)

    def _get_job(self, job: str) -> Any:
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, Exception):
            raise status
        return SimpleNamespace(id=job, status=status)


def test_wait_tells_of_each_look_and_ends_with_the_job(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(monkeypatch, "QUEUED", ks_exceptions.ConnectFailure(), "RUNNING", "RUNNING", "FAILED")
    seen: list[str] = []
    assert jobs.proxy.wait_for_job("j", lambda job: seen.append(job.status)).status == "FAILED"
    assert seen == ["QUEUED", "RUNNING", "RUNNING", "FAILED"]


def test_wait_for_another_status_ends_there_or_with_the_job(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Jobs(monkeypatch, "QUEUED", "RUNNING").proxy.wait_for_job("j", statuses=["RUNNING"]).status == "RUNNING"
    assert Jobs(monkeypatch, "QUEUED", "CANCELLED").proxy.wait_for_job("j", statuses=["RUNNING"]).status == "CANCELLED"


def test_wait_ends_when_its_time_is_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    began = clock.now
    with pytest.raises(exceptions.ResourceTimeout, match="The job j is RUNNING after 5 s, not yet SUCCEEDED or"):
        Jobs(monkeypatch, "RUNNING").proxy.wait_for_job("j", timeout=5)
    assert clock.now - began == 5


@pytest.mark.parametrize(("header", "eof", "ended"), [("13", "true", True), ("20", "true", False), ("13", "false", False)])
def test_log_that_came_in_part_goes_on_after_that_part(monkeypatch: pytest.MonkeyPatch, header: str, eof: str, ended: bool) -> None:
    proxy = Proxy(session=None)
    headers = {"X-Log-Offset": "10", "X-Log-Next-Offset": header, "X-Log-Eof": eof, "X-Log-Attempt": "2"}
    monkeypatch.setattr(proxy, "get", lambda url, **more: SimpleNamespace(status_code=200, content=b"abc", headers=headers))
    piece = proxy.job_log("j", "worker:0", offset=10)
    assert (piece.data, piece.next_offset, piece.eof, piece.attempt) == (b"abc", 13, ended, 2)
    assert piece.more is (header == "20")


@pytest.mark.parametrize(("cut", "data", "times"), [
    (0, b"ab\n\nc", ("2026-01-01T12:00:00.000Z", "2026-01-01T12:00:01.000Z", "")), (2, b"ab\n\n", ("2026-01-01T12:00:00.000Z",
                                                                                          "2026-01-01T12:00:01.000Z")),
    (30, b"ab\n", ("2026-01-01T12:00:00.000Z",)), (54, b"a", ("2026-01-01T12:00:00.000Z",)), (55, b"", ())])
def test_times_of_a_log_count_in_no_offset(monkeypatch: pytest.MonkeyPatch, cut: int, data: bytes, times: tuple[str, ...]) -> None:
    """Wherever the answer breaks off."""
    proxy, asked = Proxy(session=None), []
    headers = {"X-Log-Offset": "10", "X-Log-Next-Offset": "15", "X-Log-Eof": "true", "X-Log-Attempt": "2"}
    content = b"2026-01-01T12:00:00.000Z ab\n2026-01-01T12:00:01.000Z \n" + b"-".ljust(25) + b"c"

    def get(url: str, params: dict[str, Any], **more: Any) -> Any:
        asked.append(params)
        return SimpleNamespace(status_code=200, content=content[:len(content) - cut], headers=headers)

    monkeypatch.setattr(proxy, "get", get)
    piece = proxy.job_log("j", "worker:0", since=90.4, timestamps=True)
    assert (piece.data, piece.times, piece.next_offset, piece.eof) == (data, times, 10 + len(data), not cut)
    assert asked == [{"task": "worker:0", "since": 90, "timestamps": "true"}]


@pytest.mark.parametrize(("configured", "sent"), [(None, 60), (5, None)])
def test_what_gets_no_answer_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, configured: float | None, sent: float | None) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(sdk_proxy.Proxy, "request", lambda self, url, method, **more: asked.append(more))
    Proxy(session=SimpleNamespace(timeout=configured)).get("/jobs")
    assert asked[0].get("timeout") == sent


def test_errors_are_told_in_the_words_of_the_service() -> None:
    error = exceptions.HttpException("BadRequestException: 400", details="name is required.")
    error.request_id = "req-1"
    assert explain(error) == "name is required."
    error.status_code = 500
    assert explain(error) == "name is required. (request req-1)"
    assert explain(ValueError("plain")) == "plain"
