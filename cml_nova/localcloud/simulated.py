"""A guest without processes, for tests of scale: it has an address and an SSH server as the others, but what is started over SSH is
taken for the service's runner, and answered from here as that would answer. Two thousand of them cost what twenty real ones do.

A process of such a guest is told by its command what to look like: ``simulate --seconds 60 --lines-per-minute 6 --exit 0`` runs for so
long, logs so many lines of the same length (one of them at once) and ends with that exit code. Any other command ends with 127 at once.
What is uploaded is dropped; directories are empty.
"""

from __future__ import annotations

import asyncio
import json
import platform
import random
import shlex
import struct
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncssh

from cml_nova.remote.runner.files import PIECE
from cml_nova.remote.runner.framing import FRAME_COST, HEARTBEAT, MAGIC, PROTOCOL
from cml_nova.remote.runner.tasks import ENDED

if TYPE_CHECKING:
    from cml_nova.localcloud.guest import Guest

Header = dict[str, Any]
Key = tuple[int, str]

_LENGTHS = struct.Struct(">II")
_LINE = b"simulated line %011d\n"
_LINE_SIZE = len(_LINE % 0)
_NOTHING = bytes(1024)  # an empty tar
_MEMORY = 8 << 30
_HUNG = 1.0  # seconds between looks of a hung guest whether it is still hung
_USAGE = b"This guest is simulated: it runs only 'simulate --seconds S --lines-per-minute L --exit CODE'.\n"


@dataclass
class Process:
    """A process that is simulated: what there is of its log follows from the time."""

    attempt: int
    task: str
    seconds: float = 0.0
    pace: float = 0.0  # lines a second
    exit_code: int = 127
    pid: int = field(default_factory=lambda: random.randrange(2, 1 << 22))  # noqa: S311 -- no secret
    started: float = field(default_factory=time.time)
    cut: tuple[float, str] | None = None  # when something else than itself ended it, and how: STOPPED or LOST

    @property
    def ends(self) -> float:
        return self.cut[0] if self.cut else self.started + self.seconds

    def log(self, now: float, offset: int, size: int) -> bytes:
        """Give a part of what it has logged up to a time."""
        if not self.pace:
            return (_USAGE if self.exit_code == 127 else b"")[offset:offset + size]
        lines = 1 + int((min(now, self.ends) - self.started) * self.pace)
        end = min(lines * _LINE_SIZE, offset + size)
        first, last = offset // _LINE_SIZE, -(-end // _LINE_SIZE)
        return b"".join(_LINE % number for number in range(first, last))[offset - first * _LINE_SIZE:end - first * _LINE_SIZE]

    def next_line(self, now: float) -> float:
        """Tell when it logs the next time; infinity for never."""
        if not self.pace or now >= self.ends:
            return float("inf")
        return self.started + (1 + int((now - self.started) * self.pace)) / self.pace

    def state(self, now: float) -> Header:
        """Give its state in the runner's form."""
        ended = now >= self.ends
        how = (self.cut[1] if self.cut else "EXITED") if ended else "RUNNING"
        size = len(_USAGE) if not self.pace and self.exit_code == 127 else 0
        if self.pace:
            size = (1 + int((min(now, self.ends) - self.started) * self.pace)) * _LINE_SIZE
        return {"attempt": self.attempt, "task": self.task, "state": how, "pid": self.pid, "started_at": self.started,
                "ended_at": self.ends if ended else None, "exit_code": self.exit_code if how == "EXITED" else None,
                "signal": 15 if how == "STOPPED" else None, "oom": None, "log_size": size, "log_truncated": False,
                "stopped_by": "TERM" if how == "STOPPED" else None, "reason": "the machine was restarted" if how == "LOST" else None}


def make_process(attempt: int, task: str, command: str | list[str]) -> Process:
    """Read a command; one that is none for a simulated guest makes a process that ends at once with 127."""
    words = shlex.split(command) if isinstance(command, str) else command
    options = dict(zip(words[1::2], words[2::2], strict=False))
    try:
        if words[:1] != ["simulate"] or len(words) % 2 == 0 or set(options) - {"--seconds", "--lines-per-minute", "--exit"}:
            raise ValueError(command)
        return Process(attempt, task, float(options.get("--seconds", 0)), float(options.get("--lines-per-minute", 0)) / 60,
                       int(options.get("--exit", 0)))
    except ValueError:
        return Process(attempt, task)


class Machine:
    """What a simulated guest keeps while connections come and go."""

    def __init__(self) -> None:
        self.boot_id = str(uuid.uuid4())
        self.uploads: dict[str, str] = {}
        self.processes: dict[Key, Process] = {}
        self.stopped: set[int] = set()
        self.sessions: set[Session] = set()

    def power_off(self) -> None:
        """End what runs, as a machine does that loses power."""
        now = time.time()
        self.boot_id = str(uuid.uuid4())
        for process in self.processes.values():
            if now < process.ends:
                process.cut = now, "LOST"

    def start(self, attempt: int, task: str, command: str | list[str]) -> bool:
        """Start a process; False if it was started before.

        :raises Refused: it can't be started any more, or not yet.
        """
        if (attempt, task) in self.processes:
            return False
        newest = max((process.attempt for process in self.processes.values()), default=attempt)
        if newest > attempt or attempt in self.stopped:
            raise Refused(f"attempt {attempt} is over")
        if any(other.attempt < attempt and time.time() < other.ends for other in self.processes.values()):
            raise Refused(f"attempt {attempt} can't start: an older one is still running")
        self.processes[attempt, task] = make_process(attempt, task, command)
        return True

    def stop(self, attempt: int, tasks: list[str] | None) -> None:
        """End processes of an attempt; without ``tasks`` all, and for good."""
        now = time.time()
        if tasks is None:
            self.stopped.add(attempt)
        for process in self.processes.values():
            if process.attempt == attempt and now < process.ends and (tasks is None or process.task in tasks):
                process.cut = now, "STOPPED"


class Refused(Exception):
    """A request that can't be done; the text goes to the client."""


class Follow:
    """A stream of logs and states: of the newest attempt, and of the processes that were named."""

    def __init__(self, offsets: dict[Key, int], window: int, samples: bool) -> None:
        self.offsets = offsets
        self.samples = samples
        self.credit = window
        self.sent: dict[Key, str] = {}


class Session(asyncssh.SSHServerSession):
    """One session channel with a runner that is none. Everything here runs in the thread of the hypervisor's loop."""

    def __init__(self, guest: Guest, machine: Machine) -> None:
        self._guest = guest
        self._machine = machine
        self._loop = asyncio.get_running_loop()
        self._input = bytearray()
        self._programs = 2  # the runner comes as source and compiled
        self._follows: dict[int, Follow] = {}
        self._uploads: dict[int, tuple[str, str | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._beat = self._sampled = time.time()
        self._sample_interval = float("inf")

    # The channel

    def connection_made(self, chan: asyncssh.SSHServerChannel) -> None:
        self._chan = chan

    def exec_requested(self, command: str) -> bool:
        return True

    def session_started(self) -> None:
        self._machine.sessions.add(self)
        self._chan.write(MAGIC)

    def connection_lost(self, exc: Exception | None) -> None:
        self._machine.sessions.discard(self)
        if self._timer:
            self._timer.cancel()

    def eof_received(self) -> bool:
        self._chan.exit(0)
        return False

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._input += data
        while self._programs and len(self._input) >= 8:
            size = 8 + int(self._input[:8])
            if len(self._input) < size:
                return
            del self._input[:size]
            self._programs -= 1
        while not self._programs and len(self._input) >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(self._input)
            end = _LENGTHS.size + head + body
            if len(self._input) < end:
                return
            header = json.loads(self._input[_LENGTHS.size:_LENGTHS.size + head])
            payload = bytes(self._input[_LENGTHS.size + head:end])
            del self._input[:end]
            self._handle(header, payload)

    def _send(self, header: Header, body: bytes = b"") -> None:
        head = json.dumps(header).encode()
        self._beat = time.time()
        self._chan.write(_LENGTHS.pack(len(head), len(body)) + head + body)

    # What the client asks for

    def _handle(self, header: Header, body: bytes) -> None:
        number, op = header["id"], header["op"]
        try:
            if op == "credit":
                if number in self._follows:
                    self._follows[number].credit += header["bytes"]
            elif op == "cancel":
                self._uploads.pop(number, None)
                if self._follows.pop(number, None):
                    self._send({"id": number, "result": {}})
            elif op == "piece":
                self._piece(number, header)
            else:
                result = self._answer(number, op, header, body)
                if result is not None:
                    self._send({"id": number, "result": result})
        except Refused as refusal:
            self._send({"id": number, "error": str(refusal)})
        # The state of things may have changed for every connection.
        for session in list(self._machine.sessions):
            session.tick()

    def _answer(self, number: int, op: str, header: Header, body: bytes) -> Header | None:
        """Give the result of a request; None for one that has none yet."""
        machine = self._machine
        match op:
            case "hello":
                self._sample_interval = header["options"].get("sample_interval") or float("inf")
                return {"protocol": PROTOCOL, "python": platform.python_version(), "root": f"/simulated/{self._guest.server_id}",
                        "boot_id": machine.boot_id, "cpus": 4, "memory": _MEMORY, "user": 1000, "pid": 1, "now": time.time()}
            case "upload":
                return self._upload(number, header["name"], header["digest"])
            case "write":
                return {}
            case "ports":
                return {"ports": random.sample(range(10000, 32000), header["count"])}
            case "start":
                spec = json.loads(body)
                return {"started": machine.start(spec["attempt"], spec["task"], spec["command"])}
            case "processes":
                return {"processes": [process.state(time.time()) for process in machine.processes.values()]}
            case "follow":
                offsets = {(attempt, task): offset for attempt, task, offset in header["offsets"]}
                self._follows[number] = Follow(offsets, header["window"], header["samples"])
                return None
            case "stop":
                machine.stop(header["attempt"], header["tasks"])
                return {}
            case "gpus":
                return {}
            case "fetch":
                self._send({"id": number, "data": True}, _NOTHING)
                return {}
            case "snapshot":
                self._send({"id": number, "data": True}, b'{"snapshot": ""}\n')
                return {}
            case _:
                raise Refused(f"a simulated guest can't do {op}")

    def _upload(self, number: int, name: str, digest: str | None) -> Header | None:
        if digest and self._machine.uploads.get(name) == digest:
            return {"have": True}
        self._uploads[number] = name, digest
        self._send({"id": number, "go": True})
        return None

    def _piece(self, number: int, header: Header) -> None:
        if number in self._uploads and header.get("end"):
            name, digest = self._uploads.pop(number)
            self._machine.uploads[name] = digest or ""
            self._send({"id": number, "result": {}})

    # What comes unasked

    def tick(self) -> None:
        """Send what is due, and have this called again when there is more."""
        if self._timer:
            self._timer.cancel()
        now = time.time()
        if self._guest.hung:
            self._timer = self._loop.call_later(_HUNG, self.tick)
            return
        for number, follow in list(self._follows.items()):
            self._follow(number, follow, now)
        sampled = {number: follow for number, follow in self._follows.items() if follow.samples}
        if sampled and now - self._sampled >= self._sample_interval:
            self._sampled = now
            for number, follow in sampled.items():
                follow.credit -= FRAME_COST
                self._send({"id": number, "sample": {"at": now, "cpu_percent": 50.0, "memory_used": _MEMORY // 2,
                                                     "memory_total": _MEMORY, "gpus": []}})
        if now - self._beat >= HEARTBEAT:
            self._send({"beat": now})
        due = self._beat + HEARTBEAT
        if self._follows:
            changes = [time_ for process in self._machine.processes.values() if now < process.ends
                       for time_ in (process.ends, process.next_line(now))]
            due = min([due, *changes, *([self._sampled + self._sample_interval] if sampled else [])])
        # A moment later than due, so that it is due by any rounding.
        self._timer = self._loop.call_later(max(0.0, due - now) + 0.001, self.tick)

    def _follow(self, number: int, follow: Follow, now: float) -> None:
        processes = self._machine.processes
        newest = max((attempt for attempt, _ in processes), default=0)
        over = True
        for key, process in processes.items():
            if key[0] != newest and key not in follow.offsets:
                continue
            self._send_log(number, follow, process, now)
            state = process.state(now)
            ended = state["state"] in ENDED
            whole = follow.offsets.get(key, 0) >= state["log_size"]
            if follow.sent.get(key) != state["state"] and (whole or not ended) and follow.credit > FRAME_COST:
                follow.credit -= FRAME_COST
                follow.sent[key] = state["state"]
                self._send({"id": number, "state": state})
            over = over and ended and follow.sent.get(key) == state["state"]
        if over:
            del self._follows[number]
            self._send({"id": number, "result": {}})

    def _send_log(self, number: int, follow: Follow, process: Process, now: float) -> None:
        key = (process.attempt, process.task)
        while follow.credit > FRAME_COST:
            offset = follow.offsets.setdefault(key, 0)
            data = process.log(now, offset, min(PIECE, follow.credit - FRAME_COST))
            if not data:
                return
            follow.credit -= FRAME_COST + len(data)
            follow.offsets[key] = offset + len(data)
            self._send({"id": number, "log": list(key), "offset": offset}, data)
