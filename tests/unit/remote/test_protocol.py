"""Frames, their limits, and what is believed of them."""

from __future__ import annotations

import json
import queue
import struct
from typing import Any

import pytest

from cml_nova import exception
from cml_nova.remote import protocol
from cml_nova.remote.runner.framing import FRAME_COST, MAGIC, MAX_BODY, MAX_HEADER
from cml_nova.remote.session import Session

STATE = {"attempt": 1, "task": "worker:0", "state": "RUNNING", "pid": 5, "started_at": 1.5, "log_size": 7}
HELLO = {"protocol": 1, "python": "3.6.8", "root": "/r", "boot_id": "b", "cpus": 2, "memory": 5, "user": 0, "pid": 1, "now": 1.0}


def frame(header: Any, body: bytes = b"") -> bytes:
    head = json.dumps(header).encode()
    return struct.pack(">II", len(head), len(body)) + head + body


def test_frames_come_out_whole_whatever_the_pieces() -> None:
    data = b"Welcome!\n" + MAGIC + frame({"a": 1}, b"xyz") + frame({"b": 2})
    for step in (1, 7, len(data)):
        reader = protocol.FrameReader()
        frames = [each for i in range(0, len(data), step) for each in reader.feed(data[i:i + step])]
        assert frames == [({"a": 1}, b"xyz"), ({"b": 2}, b"")]


def test_our_frames_are_the_same_on_both_sides() -> None:
    reader = protocol.FrameReader()
    assert list(reader.feed(MAGIC + protocol.encode({"op": "x"}, b"1"))) == [({"op": "x"}, b"1")]
    with pytest.raises(exception.NodeCommandFailed, match="too large"):
        protocol.encode({}, bytes(MAX_BODY + 1))


@pytest.mark.parametrize("data", [
    struct.pack(">II", MAX_HEADER + 1, 0), struct.pack(">II", 2, MAX_BODY + 1), frame([]), frame(5),
    struct.pack(">II", 3, 0) + b"{{{", struct.pack(">II", 100_000, 0) + b"[" * 100_000,
])
def test_bad_frames_are_refused(data: bytes) -> None:
    with pytest.raises(exception.RemoteError):
        list(protocol.FrameReader().feed(MAGIC + data))


def test_noise_is_kept_for_the_message_but_not_for_ever() -> None:
    reader = protocol.FrameReader()
    assert list(reader.feed(b"sh: python3: not found")) == []
    assert reader.noise == "sh: python3: not found"
    with pytest.raises(exception.RemoteError, match="something else"):
        list(reader.feed(bytes(protocol.MAX_NOISE + 1)))


def test_a_state_is_read() -> None:
    state = protocol.parse_state(STATE)
    assert (state.task, state.pid, state.ended, state.oom) == ("worker:0", 5, False, None)
    assert protocol.parse_state({**STATE, "state": "LOST", "reason": "x"}).ended


@pytest.mark.parametrize("change", [
    {"attempt": -1}, {"attempt": True}, {"attempt": "1"}, {"task": "../x"}, {"task": 5}, {"task": ""}, {"state": "DONE"}, {"state": []},
    {"pid": "5"}, {"started_at": float("nan")}, {"started_at": 1e300}, {"exit_code": 1.5}, {"oom": 1}, {"log_size": -1},
    {"reason": "x" * 5000}, {"stopped_by": {}}, {"log_truncated": None},
])
def test_a_state_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(exception.RemoteError):
        protocol.parse_state({**STATE, **change})


@pytest.mark.parametrize("document", [None, [], "x", {}])
def test_other_documents_are_refused(document: Any) -> None:
    for parse in (protocol.parse_state, protocol.parse_hello, protocol.parse_sample):
        with pytest.raises(exception.RemoteError):
            parse(document)


def test_greetings_and_samples_are_checked() -> None:
    assert protocol.parse_hello(HELLO).cpus == 2
    with pytest.raises(exception.RemoteError, match="another protocol"):
        protocol.parse_hello({**HELLO, "protocol": 2})
    gpu = {"index": 0, "utilization": 50.0, "memory_used": 1, "memory_total": None}
    sample = {"at": 1.0, "cpu_percent": 3.5, "memory_used": 1, "memory_total": 2, "gpus": [gpu], "more": 1}
    assert protocol.parse_sample(sample) == {key: value for key, value in sample.items() if key != "more"}
    for gpus in (None, [gpu] * 65, [{**gpu, "index": "x"}]):
        with pytest.raises(exception.RemoteError):
            protocol.parse_sample({**sample, "gpus": gpus})


@pytest.mark.parametrize("ports", [None, [1], [1, 1], [1, 70_000], [1, "2"], [1, True], [1, 2, 3]])
def test_ports_are_checked(ports: Any) -> None:
    assert protocol.parse_ports([1, 2], 2) == [1, 2]
    with pytest.raises(exception.RemoteError, match="2 free ports"):
        protocol.parse_ports(ports, 2)


@pytest.mark.parametrize("times", [
    {}, [1], [[10]], [[9, 1.0]], [[20, 1.0]], [[12, 1.0], [12, 1.0]], [[12, 1.0], [11, 1.0]], [[10, -1.0]], [[10, "1"]], [["10", 1.0]],
    [[10, 1.0, 2]], [[10 + number / 10, 1.0] for number in range(65)]])
def test_times_of_a_log_are_checked(times: Any) -> None:
    assert protocol.parse_times([[10, 1.5], [19, 0]], 10, 10) == [(10, 1.5), (19, 0)]
    assert protocol.parse_times(None, 10, 10) is None
    with pytest.raises(exception.RemoteError, match="times"):
        protocol.parse_times(times, 10, 10)


class Pipe:
    """A node of which the test plays the part; it gives the next of ``answers`` when it is asked for something."""

    def __init__(self) -> None:
        self.incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.sent = bytearray()
        self.answers = [MAGIC + frame({"id": 1, "result": HELLO})]
        self.exit_code: int | None = None

    def sendall(self, data: bytes) -> None:
        self.sent += data
        if b'"op"' in data and b'"credit"' not in data and self.answers:
            self.incoming.put(self.answers.pop(0))

    def recv(self, size: int) -> bytes:
        data = self.incoming.get()
        if data == b"silence":
            raise TimeoutError
        return data

    def close(self) -> None:
        self.incoming.put(b"")

    def last_words(self) -> tuple[int | None, str]:
        return self.exit_code, "Killed"


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def session(pipe: Pipe) -> Session:
    session = Session(pipe, "10.0.0.1", 30)
    session.open("r", 0, {}, 5)
    return session


@pytest.mark.parametrize(("greeting", "exit_code", "unfit"), [
    (b"Welcome", 127, True), (b"Welcome", None, False), (MAGIC, 1, False),
])
def test_a_runner_that_ends_before_its_first_word_makes_a_machine_unfit(pipe: Pipe, greeting: bytes, exit_code: int | None,
                                                                       unfit: bool) -> None:
    """Unless it was the path that ended."""
    pipe.answers, pipe.exit_code = [], exit_code
    for data in (greeting, b""):
        pipe.incoming.put(data)
    with pytest.raises(exception.RemoteError, match="Killed") as caught:
        Session(pipe, "10.0.0.1", 30).open("r", 0, {}, 5)
    assert isinstance(caught.value, exception.NodeUnfit) == unfit


@pytest.mark.parametrize(("text", "count"), [(b"", None), (b"0", 0), (b"16", 16)])
def test_counts(text: bytes, count: int | None) -> None:
    assert protocol.parse_count(text) == count


@pytest.mark.parametrize("text", [b"-1", b"1.5", b"4\n", b"9" * 10, "\u0664".encode(), b" 4"])
def test_bad_counts(text: bytes) -> None:
    with pytest.raises(exception.RemoteError, match="number"):
        protocol.parse_count(text)


def test_an_error_and_a_result_reach_who_asked(session: Session, pipe: Pipe) -> None:
    pipe.answers = [frame({"id": 99, "result": {}}) + frame({"beat": 1}) + frame({"id": 2, "error": "no such thing"}),
                    frame({"id": 3, "result": {"a": 1}})]
    with pytest.raises(exception.NodeCommandFailed, match="no such thing"):
        session.request("x", timeout=5)
    assert session.request("x", timeout=5) == {"a": 1}


@pytest.mark.parametrize(("data", "text"), [
    (b"", "the runner has ended: Killed"), (b"silence", "no sign of life for 30 s"), (struct.pack(">II", 1 << 31, 0), "too large"),
    (frame({"id": 2, "log": 1}), "more than it was allowed"),
])
def test_a_lost_path_reaches_everybody_who_waits_and_who_asks_later(session: Session, pipe: Pipe, data: bytes, text: str) -> None:
    waiting = session.begin("x", credit=0)
    pipe.incoming.put(data)
    with pytest.raises(exception.RemoteError, match=text):
        session.result(waiting, 5)
    with pytest.raises(exception.RemoteError, match=text):
        session.request("y", timeout=5)


def test_a_stream_flows_as_far_as_its_window(session: Session, pipe: Pipe) -> None:
    body = bytes(1000)
    window = 2 * (FRAME_COST + len(body))
    exchange = session.begin("fetch", credit=window)
    pipe.incoming.put(frame({"id": 2}, body) * 2)
    pieces = session.pieces(exchange, 5)
    assert [next(pieces), next(pieces)] == [body, body]
    pipe.incoming.put(frame({"id": 2}, body) + frame({"id": 2, "result": {}}))
    assert list(pieces) == [body]
    exchange = session.begin("fetch", credit=window)
    pipe.incoming.put(frame({"id": 3}, body) * 3)
    with pytest.raises(exception.RemoteError, match="more than it was allowed"):
        for _ in range(3):
            session.take(exchange, 5)
