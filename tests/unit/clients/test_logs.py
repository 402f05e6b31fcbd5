"""Followers of logs against a made-up service that says what the real one may say, at the worst times."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions

from cml_nova.clients.sdk import logs
from cml_nova.clients.sdk.patience import Patience
from tests.unit.clients.conftest import Clock


def gone(code: int = 503) -> exceptions.HttpException:
    error = exceptions.HttpException("Error")
    error.status_code = code
    return error


class Service:
    """A job that goes on with each request. ``script`` has, for each attempt, the bytes of each task.

    :param ups_and_downs: each request may fail, and each answer may be cut off.
    :param at: tells when a byte came, by task and offset.
    """

    def __init__(self, script: list[dict[str, bytes]], seed: int = 0, ups_and_downs: bool = False,
                 at: Callable[[str, int], str] = lambda task, offset: "") -> None:
        self._at = at
        self._script = script
        self._random = random.Random(seed)
        self._troubled = ups_and_downs
        self._written = dict.fromkeys(script[0], 0)
        self.attempt = 0
        self.phase = "QUEUED"
        self.requests: list[dict[str, Any]] = []

    def _step(self) -> None:
        """Let some of the job happen."""
        if self._troubled and self._random.random() < 0.3:
            raise self._random.choice([ks_exceptions.ConnectFailure("no"), gone(502), gone(503), gone(504)])
        if self.phase == "QUEUED":
            self.attempt, self.phase = 1, "RUNNING"
        logs_now = self._script[self.attempt - 1]
        for task in logs_now:
            self._written[task] = min(len(logs_now[task]), self._written[task] + self._random.randrange(40))
        if self.phase == "RUNNING" and all(self._written[task] == len(text) for task, text in logs_now.items()):
            self.phase = "COLLECTING"
        elif self.phase == "COLLECTING" and self._random.random() < 0.5:
            if self.attempt < len(self._script):
                # the collecting was in vain: a node was lost
                self.attempt, self.phase = self.attempt + 1, "RUNNING"
                self._written = dict.fromkeys(self._script[0], 0)
            else:
                self.phase = "TEARDOWN"

    def get_job(self, job: str) -> Any:
        self._step()
        return SimpleNamespace(id=job, attempt=self.attempt, phase=self.phase)

    def job_log(self, job: str, task: str, attempt: int, limit: int, offset: int = 0, wait: int = 0, tail: int = 0,
                since: str | None = None, timestamps: bool = False) -> logs.LogPiece:
        self.requests.append({"task": task, "attempt": attempt, "offset": offset, "wait": wait})
        self._step()
        complete = attempt < self.attempt or self.phase in ("COLLECTING", "TEARDOWN")
        text = b"" if attempt > self.attempt else self._script[attempt - 1][task]
        if attempt == self.attempt:
            text = text[:self._written[task]]
        if since:
            offset = next((place for place in range(len(text)) if text[place - 1:place] in (b"", b"\n") and self._at(task, place) >= since),
                          len(text))
        if tail:
            offset = max(0, len(text) - tail)
        data = text[offset:offset + limit]
        if self._troubled and self._random.random() < 0.2:  # cut off on its way
            data = data[:len(data) // 2]
            return logs.LogPiece(data, offset + len(data), False, attempt, True, self._times(task, offset, data))
        return logs.LogPiece(data, offset + len(data), complete and len(data) < limit, attempt, len(data) == limit,
                             self._times(task, offset, data))

    def _times(self, task: str, offset: int, data: bytes) -> tuple[str, ...]:
        begins = [0, *(place + 1 for place, byte in enumerate(data) if byte == 10)]
        return tuple(self._at(task, offset + begin) for begin in begins if begin < len(data))


def follow(service: Service, tasks: list[str], attempt: int | None = None) -> list[logs.LogLine]:
    return list(logs.follow(service, "j", tasks, attempt, Patience()))


def numbered(task: str, attempt: int, lines: int) -> bytes:
    return b"".join(f"{task} {attempt} line {i}\n".encode() for i in range(lines))


@pytest.mark.parametrize("seed", range(20))
def test_every_line_once_and_in_order_whatever_happens(clock: Clock, seed: int) -> None:
    tasks = ["worker:0", "worker:1", "ps:0"]
    script = [{task: numbered(task, attempt, 25) for task in tasks} for attempt in (1, 2, 3)]
    service = Service(script, seed, ups_and_downs=True)
    lines = follow(service, tasks)
    for task in tasks:
        mine = [line for line in lines if line.task == task]
        assert [line.text for line in mine] == [f"{task} {attempt} line {i}" for attempt in (1, 2, 3) for i in range(25)]
        assert [line.attempt for line in mine] == [1] * 25 + [2] * 25 + [3] * 25
        assert mine[24].next_offset == len(script[0][task])


def test_last_line_without_a_line_feed_is_given_at_the_end_of_its_attempt(clock: Clock) -> None:
    service = Service([{"w:0": b"a\nb"}, {"w:0": b"\n\xff\r\nc"}])
    assert [(line.attempt, line.text, line.next_offset) for line in follow(service, ["w:0"])] == [
        (1, "a", 2), (1, "b", 3), (2, "", 1), (2, "\ufffd", 4), (2, "c", 5)]


def test_line_longer_than_a_piece_comes_in_parts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PIECE", 10)
    service = Service([{"w:0": b"x" * 25 + b"\nend\n"}])
    lines = follow(service, ["w:0"])
    assert "".join(line.text for line in lines) == "x" * 25 + "end"
    assert max(len(line.text) for line in lines) < 20
    assert lines[-1].next_offset == 30


@pytest.mark.parametrize(("text", "lines", "expected"), [
    (b"a\nb\nc\n", 2, ["b", "c"]), (b"a\nb\nc", 2, ["b", "c"]), (b"a\nb\n", 9, ["a", "b"]), (b"a\nb\n", 0, []), (b"", 5, []),
    (b"12345\n12345\nab\nc\n", 9, ["ab", "c"]), (b"12345\n12345\nab\nc\n", 1, ["c"]), (b"x" * 20, 1, ["x" * 10])])
def test_follower_of_the_last_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch, text: bytes, lines: int, expected: list[str]) -> None:
    monkeypatch.setattr(logs, "TAIL", 10)
    service = Service([{"w:0": text}])
    service.attempt, service.phase, service._written = 1, "TEARDOWN", {"w:0": len(text)}
    assert [line.text for line in logs.read(service, "j", ["w:0"], None, Patience(), lines)] == expected
    assert [line.text for line in logs.follow(service, "j", ["w:0"], None, Patience(), lines)] == expected
    assert [line.next_offset for line in logs.follow(service, "j", ["w:0"], None, Patience(), lines)][-1:] == [len(text)][:len(expected)]


def clocked(pieces: Callable[[int, str], int]) -> Callable[[str, int], str]:
    """Make up when lines of 5 bytes came."""
    return lambda task, offset: f"{pieces(offset // 5, task):05}"


@pytest.mark.parametrize("piece", [5, 12, 1000])
def test_what_is_there_is_read_in_the_order_of_its_times(clock: Clock, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(logs, "PIECE", piece)
    script = {f"w:{rank}": b"".join(b"%04d\n" % (3 * number + rank) for number in range(20 * (1 + rank))) + b"end" for rank in range(3)}
    service = Service([script], at=clocked(lambda number, task: 3 * number + int(task[-1])))
    service.attempt, service.phase, service._written = 1, "TEARDOWN", {task: len(text) for task, text in script.items()}
    service._step = lambda: None  # type: ignore[method-assign]
    for lines in (logs.read(service, "j", list(script), None, Patience()), logs.follow(service, "j", list(script), None, Patience())):
        found = list(lines)
        assert [line.at for line in found] == sorted(line.at for line in found)
        assert [line.text for line in found if line.text != "end"] == [f"{int(line.at):04}" for line in found if line.text != "end"]
        assert len(found) == 20 + 40 + 60 + 3
    since = list(logs.read(service, "j", ["w:1"], None, Patience(), since="00100"))
    assert [line.text for line in since][:2] == ["0100", "0103"]
    assert [line.text for line in logs.read(service, "j", ["w:1"], None, Patience(), lines=2, since="00100")] == ["0118", "end"]
    assert [line.text for line in logs.read(service, "j", ["w:1"], None, Patience(), lines=9, since="00118")] == ["0118", "end"]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_there_is_read_whatever_happens(clock: Clock, seed: int) -> None:
    script = [{"w:0": numbered("w", 1, 40) + b"the begin"}]
    service = Service(script, seed, ups_and_downs=True)
    service.attempt, service.phase, service._written = 1, "RUNNING", {"w:0": len(script[0]["w:0"])}
    assert [line.text for line in logs.read(service, "j", ["w:0"], None, Patience())] == [
        *(f"w 1 line {i}" for i in range(40)), "the begin"]


def test_one_attempt_only(clock: Clock) -> None:
    service = Service([{"w:0": b"one\n"}, {"w:0": b"two\n"}])
    assert [line.text for line in follow(service, ["w:0"], attempt=1)] == ["one"]


def test_quiet_logs_are_waited_for_and_busy_ones_not_asked_for_each_line(clock: Clock) -> None:
    service = Service([{"w:0": b"line\n" * 200}])
    asked: list[float] = []
    began = clock.now
    for _ in logs.follow(service, "j", ["w:0"], None, Patience()):
        asked.append(clock.now)
    assert len(service.requests) <= 1 + (asked[-1] - began) / 0.2 + 2  # five a second at most


@pytest.mark.parametrize(("tasks", "longest"), [(["w:0"], 20), (["w:0", "w:1"], 1)])
def test_quiet_logs_are_waited_for(clock: Clock, tasks: list[str], longest: int) -> None:
    service = Service([dict.fromkeys(tasks, b"")])
    service.attempt, service.phase = 1, "RUNNING"
    steps = itertools.count()
    service._step = lambda: next(steps) >= 9 and setattr(service, "phase", "TEARDOWN")  # type: ignore[method-assign,assignment]
    assert follow(service, tasks) == []
    rounds = [request["wait"] for request in service.requests if request["task"] == "w:0"]
    assert rounds[:3] == [0, longest, longest]
    assert {request["wait"] for request in service.requests if request["task"] != "w:0"} <= {0}


def test_job_whose_outputs_are_collected_is_looked_at_each_second(clock: Clock) -> None:
    service = Service([{"w:0": b"a\n"}])
    service.attempt, service.phase, service._written = 1, "COLLECTING", {"w:0": 2}
    end = clock.now + 60
    service._step = lambda: clock.now > end and setattr(service, "phase", "TEARDOWN")  # type: ignore[method-assign,assignment]
    assert [line.text for line in follow(service, ["w:0"])] == ["a"]
    assert len(service.requests) == 1
    assert 60 <= len(clock.naps) <= 62


def test_what_does_not_pass_is_raised(clock: Clock) -> None:
    service = Service([{"w:0": b"a\n"}])
    lines = logs.follow(service, "j", ["w:0"], None, Patience())
    assert next(lines).text == "a"
    service._step = lambda: (_ for _ in ()).throw(gone(404))  # type: ignore[method-assign]
    with pytest.raises(exceptions.HttpException):
        list(lines)


def test_patience_ends(clock: Clock) -> None:
    said: list[str] = []
    patience = Patience(30, said.append)

    def fail() -> None:
        raise ks_exceptions.ConnectFailure("nobody listens")

    began = clock.now
    with pytest.raises(ks_exceptions.ConnectFailure):
        patience.call(fail)
    assert 30 < clock.now - began < 33
    assert said == ["The service does not answer, trying again: nobody listens"]
    assert max(clock.naps) <= 2


def test_patience_says_when_it_is_over(clock: Clock) -> None:
    said: list[str] = []
    answers = iter([ks_exceptions.DiscoveryFailure("x"), ks_exceptions.ServiceUnavailable("Keystone"), gone(502),
                    ks_exceptions.ConnectTimeout(),
                    ks_exceptions.UnknownConnectionError("x", requests.exceptions.ChunkedEncodingError()), "fine"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(30, said.append).call(ask) == "fine"
    assert len(said) == 2 and said[1] == "The service answers again."


@pytest.mark.parametrize("error", [
    gone(500), gone(404), gone(401), ks_exceptions.Unauthorized("token"), ks_exceptions.SSLError("cert"), ValueError(),
    ks_exceptions.UnknownConnectionError("x", requests.exceptions.InvalidURL()), exceptions.SDKException("x")])
def test_errors_that_last_are_raised_at_once(clock: Clock, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        Patience().call(fail)
    assert not clock.naps
