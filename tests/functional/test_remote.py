"""Real SSH to guests of the local cloud: host keys, the runner's life, logs over a bad path, transfers, many nodes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from cml_nova import exception
from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from cml_nova.remote import cloud_config, runner
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.login import Access, fingerprint
from cml_nova.remote.machine import Leave, Machine, Options, ProcessSpec, connect_all
from cml_nova.remote.protocol import ProcessState

PORT = 2200


class Server:
    """Guests of the local cloud: each has an address with an SSH server, a home directory, and processes."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.private, self.public = generate_keypair()
        self.hypervisor = Hypervisor(base, ImageStore(base / "images"), PORT)
        self.hypervisor.start()

    def listen(self, address: str) -> Access:
        private, public = generate_keypair()
        user_data = cloud_config(private, public, [self.public], "cml")
        self.hypervisor.boot(name_of(address), address, "plain", user_data.encode(), "node", {})
        return Access(address, PORT, "cml", self.private, public)

    def home(self, address: str) -> Path:
        return self.base / "guests" / name_of(address)

    def cut(self, address: str) -> None:
        """Reset the connections of a machine; it can be reached again at once."""
        self.hypervisor.fault(name_of(address), "cut")
        self.hypervisor.fault(name_of(address), "mend")


def name_of(address: str) -> str:
    return address.replace(".", "-")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("nodes"))
    yield server
    server.hypervisor.stop()


@pytest.fixture
def access(server: Server, request: pytest.FixtureRequest) -> Access:
    number = access_numbers.setdefault(request.node.name, len(access_numbers) + 1)
    return server.listen(f"127.71.0.{number}")


access_numbers: dict[str, int] = {}


@pytest.fixture
def machine(access: Access) -> Iterator[Machine]:
    machine = Machine(access)
    machine.connect(10)
    yield machine
    if not machine.connected:
        machine.connect(10)
    for attempt in {state.attempt for state in machine.processes()}:
        machine.stop(attempt, 0)
    machine.close()


class Record:
    """Collects what ``follow`` delivers, and checks that the pieces of a log fit together."""

    def __init__(self) -> None:
        self.logs: dict[tuple[int, str], bytearray] = {}
        self.times: dict[tuple[int, str], list[tuple[int, float]]] = {}
        self.states: list[ProcessState] = []
        self.stop = Leave()

    def on_log(self, attempt: int, task: str, offset: int, data: bytes, times: list[tuple[int, float]]) -> None:
        log = self.logs.setdefault((attempt, task), bytearray())
        assert offset == len(log)
        log += data
        self.times.setdefault((attempt, task), []).extend(times)

    def offsets(self) -> dict[tuple[int, str], int]:
        return {key: len(log) for key, log in self.logs.items()}

    def follow(self, machine: Machine) -> None:
        machine.follow(self.offsets(), self.on_log, self.states.append, self.stop)

    def text(self, attempt: int = 1, task: str = "worker:0") -> str:
        return self.logs.get((attempt, task), bytearray()).decode()


def spec(command: str | list[str], attempt: int = 1, task: str = "worker:0", **env: str) -> ProcessSpec:
    return ProcessSpec(attempt, task, command, env)


def run(machine: Machine, command: str | list[str], attempt: int = 1, **env: str) -> tuple[ProcessState, str]:
    """Run a process to its end."""
    machine.start(spec(command, attempt, **env))
    record = Record()
    record.follow(machine)
    return record.states[-1], record.text(attempt)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_runs_and_its_end_is_told_after_its_whole_log(machine: Machine) -> None:
    state, text = run(machine, "echo out; echo err >&2; echo $GREETING; exit 7", GREETING="grüße")
    assert text == "out\nerr\ngrüße\n"
    assert (state.state, state.exit_code, state.signal, state.oom) == ("EXITED", 7, None, False)
    assert state.log_size == len(text.encode())


@pytest.mark.fault("mitm")
def test_another_host_key_is_refused_with_both_fingerprints(server: Server, access: Access) -> None:
    other = generate_keypair()[1]
    with pytest.raises(exception.HostKeyRefused) as caught:
        Machine(Access(access.address, access.port, access.user, access.private_key, other)).connect(10)
    for key in (access.host_key, other):
        assert fingerprint(asyncssh.import_public_key(key).public_data) in caught.value.message
    assert not (server.home(access.address) / ".cml").exists(), "something was done on a machine that is not ours"


def test_another_login_key_and_a_closed_port_are_plain_errors(access: Access) -> None:
    for wrong in (Access(access.address, access.port, access.user, generate_keypair()[0], access.host_key),
                  Access(access.address, 2199, access.user, access.private_key, access.host_key)):
        with pytest.raises(exception.RemoteError) as caught:
            Machine(wrong).connect(10)
        assert not isinstance(caught.value, exception.HostKeyRefused)


def test_starting_twice_is_one_start_also_over_another_connection(machine: Machine, access: Access, server: Server) -> None:
    count = server.home(access.address) / "count"
    command = f"echo started >> {count}; sleep 0.2"
    other = Machine(access)
    other.connect(10)
    threads = [threading.Thread(target=each.start, args=(spec(command),)) for each in (machine, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Record().follow(other)
    machine.start(spec(command))
    other.close()
    assert count.read_text() == "started\n"
    assert [state.state for state in machine.processes()] == ["EXITED"]


@pytest.mark.fault("ssh-cut")
def test_a_log_is_exact_over_a_connection_that_is_cut_again_and_again(machine: Machine, server: Server) -> None:
    lines = 10_000
    machine.start(spec(f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); [ $((i % 500)) -eq 0 ] && sleep 0.1; done; true"))
    record = Record()
    cuts, deadline = 0, time.monotonic() + 60
    finished = threading.Event()

    def cutter() -> None:
        while not finished.wait(0.25):
            server.cut(machine.access.address)

    thread = threading.Thread(target=cutter)
    thread.start()
    try:
        while True:
            try:
                machine.connect(10)
                record.follow(machine)
                break
            except exception.RemoteError:
                cuts += 1
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        finished.set()
        thread.join()
    assert record.text() == "".join(f"line {i}\n" for i in range(lines))
    assert cuts >= 3
    assert (record.states[-1].state, record.states[-1].exit_code) == ("EXITED", 0)


def test_what_was_printed_while_nobody_was_there_has_its_own_times(machine: Machine) -> None:
    began = time.time()
    machine.start(spec("echo one; sleep 1; echo two"))
    until(lambda: machine.processes()[0].ended)
    record = Record()
    record.follow(machine)
    [(first, one), (second, two)] = record.times[1, "worker:0"]
    assert (first, second) == (0, 4)
    assert began <= one <= two - 1 <= time.time() - 1


def test_a_process_outlives_its_session_and_the_session_process(machine: Machine, server: Server) -> None:
    machine.start(spec("echo one; sleep 1; echo two"))
    os.kill(machine.hello.pid, signal.SIGKILL)
    record = Record()
    with pytest.raises(exception.RemoteError):
        record.follow(machine)
    until(lambda: not machine.connected)
    machine.connect(10)
    record.follow(machine)
    assert record.text() == "one\ntwo\n"
    assert record.states[-1].exit_code == 0


def test_stop_kills_what_ignores_term_and_whatever_it_has_spawned(machine: Machine, server: Server, access: Access) -> None:
    home = server.home(access.address)
    machine.start(spec(f"""trap '' TERM
        setsid sh -c 'trap "" TERM; setsid sleep 600 & echo $! > {home}/a; wait' &
        (sh -c 'sleep 600 & echo $! > {home}/b' &)
        sleep 600"""))
    until(lambda: all((home / name).exists() and (home / name).read_text() for name in "ab"))
    before = time.monotonic()
    machine.stop(1, 0.5)
    assert 0.4 < time.monotonic() - before < 5
    state = machine.processes()[0]
    assert (state.state, state.stopped_by, state.signal, state.oom) == ("STOPPED", "KILL", signal.SIGKILL, False)
    assert not any(alive(int((home / name).read_text())) for name in "ab")
    machine.stop(1, 0)
    with pytest.raises(exception.NodeCommandFailed, match="attempt 1 was stopped"):
        machine.start(spec("true", task="worker:1"))


def test_term_is_enough_for_those_who_listen_and_their_last_words_are_kept(machine: Machine) -> None:
    machine.start(spec("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    until(lambda: "ready" in record.text())
    machine.stop(1, 30, ["worker:0"])
    thread.join(10)
    assert record.text().startswith("ready\n")  # the shell may also say that its sleep was terminated
    assert record.text().endswith("bye\n")
    assert (record.states[-1].state, record.states[-1].stopped_by, record.states[-1].exit_code) == ("STOPPED", "TERM", 3)


def test_what_a_shell_has_started_has_the_grace_although_the_shell_ends_at_once(machine: Machine) -> None:
    machine.start(spec("""sh -c 'trap "sleep 0.3; echo saved; exit" TERM; echo ready; while :; do sleep 0.05; done'; true"""))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    until(lambda: "ready" in record.text())
    machine.stop(1, 30)
    thread.join(10)
    assert record.text().endswith("saved\n")
    assert (record.states[-1].state, record.states[-1].stopped_by, record.states[-1].signal) == ("STOPPED", "TERM", signal.SIGTERM)


def test_forkers_are_killed(machine: Machine) -> None:
    machine.start(spec("f() { sleep 0.05; f & }; for i in 1 2 3 4 5 6 7 8; do f & done; sleep 600"))
    time.sleep(0.3)
    machine.stop(1, 0)
    mark = f"CML_UNIT={machine.hello.root}/tasks/1/worker:0".encode()
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if mark in read(path)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_a_process_leaves_behind_is_killed_and_its_output_kept(machine: Machine, server: Server, access: Access) -> None:
    file = server.home(access.address) / "pid"
    state, text = run(machine, f"""setsid sh -c 'echo grandchild; echo $$ > {file}; exec sleep 600' &
        while ! [ -s {file} ]; do sleep 0.01; done""")
    assert (state.state, state.exit_code, text) == ("EXITED", 0, "grandchild\n")
    assert not alive(int(file.read_text()))


def test_a_killed_supervisor_takes_the_process_along_and_leaves_a_reason(machine: Machine) -> None:
    machine.start(spec("echo begun; sleep 600"))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    until(lambda: bool(record.text() and record.states))
    pid = record.states[-1].pid
    assert pid
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    thread.join(5)
    assert (record.states[-1].state, record.states[-1].reason) == ("LOST", "its supervisor was killed")
    until(lambda: not alive(pid))
    machine.start(spec("true", attempt=2))
    machine.start(spec("true"))  # what was started once is not started again
    with pytest.raises(exception.NodeCommandFailed, match="attempt 2 has begun"):
        machine.start(spec("true", task="worker:1"))


def test_a_restarted_machine_is_noticed(machine: Machine, server: Server, access: Access) -> None:
    run(machine, "true")
    path = server.home(access.address) / ".cml/tasks/1/worker:0/state.json"
    supervisor = json.loads(path.read_text())["supervisor"]
    until(lambda: not alive(supervisor))
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "state": "RUNNING", "boot_id": "another"}))
    assert [(each.state, each.reason) for each in machine.processes()] == [("LOST", "the machine was restarted")]


def test_a_younger_attempt_waits_for_the_end_of_the_older(machine: Machine) -> None:
    machine.start(spec("sleep 600"))
    with pytest.raises(exception.NodeCommandFailed, match="worker:0 of attempt 1 is still running"):
        machine.start(spec("true", attempt=2))
    machine.stop(1, 0)
    assert run(machine, "echo $CML_ATTEMPT", attempt=2, CML_ATTEMPT="2")[1] == "2\n"


def test_a_silent_path_is_noticed(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(dead_after=6))
    machine.connect(10)
    machine.start(spec("sleep 600"))
    pid = machine.hello.pid
    time.sleep(7)  # longer than dead_after: the heartbeat alone keeps the connection up
    assert machine.processes()[0].state == "RUNNING"
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(exception.RemoteError, match="no sign of life for 6 s"):
            Record().follow(machine)
    finally:
        os.kill(pid, signal.SIGKILL)
    machine.connect(10)
    machine.stop(1, 0)
    machine.close()


@pytest.mark.fault("node-frozen")
def test_a_frozen_machine_is_given_up_in_time_and_found_again(machine: Machine, server: Server, access: Access) -> None:
    machine.start(spec("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"))
    other = Machine(access)
    server.hypervisor.fault(name_of(access.address), "hang")
    try:
        before = time.monotonic()
        with pytest.raises(exception.RemoteError):
            other.connect(1)
        assert time.monotonic() - before < 4
    finally:
        server.hypervisor.fault(name_of(access.address), "resume")
    other.connect(10)
    record = Record()
    record.follow(other)
    other.close()
    assert record.text() == "1\n2\n3\n4\n5\n6\n7\n8\n"


def test_signals_and_commands_that_cannot_run_are_told(machine: Machine) -> None:
    state, _ = run(machine, "kill -SEGV $$")
    assert (state.state, state.exit_code, state.signal) == ("EXITED", None, signal.SIGSEGV)
    state, _ = run(machine, "kill -KILL $$", attempt=2)  # somebody else's kill: no stop of ours, no want of memory
    assert (state.state, state.exit_code, state.signal, state.oom, state.stopped_by) == ("EXITED", None, signal.SIGKILL, False, None)
    state, text = run(machine, ["no-such-program", "x"], attempt=3)
    assert state.exit_code == 127
    assert "no-such-program" in text or "No such file" in text
    assert run(machine, ["printf", "%s|", "a b", "$HOME"], attempt=4)[1] == "a b|$HOME|"
    machine.start(ProcessSpec(5, "worker:0", "pwd", {}, cwd="missing"))
    record = Record()
    record.follow(machine)
    assert record.states[-1].exit_code == 127
    with pytest.raises(exception.NodeCommandFailed):
        machine.start(spec("true", attempt=6, task="../../escape"))


@pytest.mark.fault("log-limit")
def test_a_log_has_a_limit_that_does_not_hurt_the_process(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(max_log_bytes=10_000))
    machine.connect(10)
    state, text = run(machine, "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; exit 5")
    assert (state.exit_code, state.log_truncated) == (5, True)
    assert text[:10_000] == ("0123456789\n" * 1000)[:10_000]
    assert "limit of 10000 bytes" in text[10_000:]
    assert len(text) < 10_200
    machine.close()


def test_the_environment_is_complete_and_nothing_of_it_stays_on_disk(machine: Machine, server: Server, access: Access) -> None:
    _, text = run(machine, "env; cat $CML_HOSTFILE; ls -d $CML_OUTPUT_DIR $CML_CHECKPOINT_DIR $CML_INPUT_DIR",
                  SECRET="hunter2", CML_NODE_IPS="10.0.0.1,10.0.0.2")
    root = f"{server.home(access.address)}/.cml"
    for line in ("SECRET=hunter2", "PYTHONUNBUFFERED=1", f"CML_OUTPUT_DIR={root}/output", f"CML_HOSTFILE={root}/hostfile",
                 "10.0.0.1", "10.0.0.2", f"{root}/checkpoints", f"{root}/input"):
        assert line in text.splitlines()
    assert "SSH_" not in text
    kept = [path for path in Path(root).rglob("*") if path.is_file() and path.name != "log" and b"hunter2" in path.read_bytes()]
    assert kept == []


def test_ports_are_free_held_and_let_go_at_the_start(machine: Machine) -> None:
    ports = machine.free_ports(8)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(10_000 <= port < min(32_000, low) for port in ports)
    for host in ("127.0.0.1", "127.71.9.9", ""):
        with socket.socket() as sock, pytest.raises(OSError, match="in use"):
            sock.bind((host, ports[0]))
    machine.start(ProcessSpec(1, "worker:0", "true", {}, ports=ports[:1]))
    with socket.socket() as sock:
        sock.bind(("", ports[0]))
    with socket.socket() as sock, pytest.raises(OSError, match="in use"):
        sock.bind(("", ports[1]))
    machine.start(ProcessSpec(1, "worker:1", "true", {}))
    with socket.socket() as sock:
        sock.bind(("", ports[1]))


def archive(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def test_an_upload_appears_at_once_and_only_when_it_is_good(machine: Machine, server: Server, access: Access) -> None:
    target = server.home(access.address) / ".cml/source"
    first, second = archive({"train.py": b"one", "old.py": b"x"}), archive({"train.py": b"two"}, "w")
    digest = hashlib.sha256(first).hexdigest()
    machine.upload("source", digest, [first])
    inode = target.stat().st_ino
    machine.upload("source", digest, iter(()))  # the same again: nothing is asked of the pieces
    assert target.stat().st_ino == inode
    for wrong, text in ((second, "another sha256"), (b"no archive", "not a good tar archive"), (archive({"../x": b""}), "leads out")):
        with pytest.raises(exception.NodeCommandFailed, match=text):
            machine.upload("source", "0" * 64, [wrong])
    assert sorted(path.name for path in target.iterdir()) == ["old.py", "train.py"]
    machine.upload("source", None, [second[i:i + 100] for i in range(0, len(second), 100)])
    assert [path.read_bytes() for path in target.iterdir()] == [b"two"]
    assert sorted(path.name for path in target.parent.iterdir() if "source" in path.name) == ["source"]


def test_fifty_megabytes_go_both_ways_quickly_beside_a_live_log(machine: Machine) -> None:
    content = os.urandom(1 << 20) * 50
    machine.start(spec("while :; do echo tick; sleep 0.1; done"))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    before = time.monotonic()
    machine.upload("output", None, [archive({"model/weights": content}, "w")])
    middle = time.monotonic()
    back = b"".join(machine.fetch("output"))
    took = (middle - before, time.monotonic() - middle)
    machine.stop(1, 0)
    thread.join(10)
    with tarfile.open(fileobj=io.BytesIO(back)) as tar:
        assert [(member.name, member.size) for member in tar] == [("model/weights", len(content))]
        assert tar.extractfile("model/weights").read() == content
    assert max(took) < 15, f"upload {took[0]:.1f} s, fetch {took[1]:.1f} s"
    assert record.text().startswith("tick\n")
    assert b"".join(machine.fetch("missing")) == bytes(1024)


def test_an_abandoned_fetch_does_not_stand_in_the_way(machine: Machine, server: Server, access: Access) -> None:
    output = server.home(access.address) / ".cml/output"
    output.mkdir(exist_ok=True)
    (output / "big").write_bytes(bytes(30 << 20))
    (output / "link").symlink_to("/etc/passwd")
    (output / "inner").symlink_to("big")
    pieces = machine.fetch("output")
    next(pieces)
    pieces.close()
    names = []
    with tarfile.open(fileobj=io.BytesIO(b"".join(machine.fetch("output")))) as tar:
        names = [member.name for member in tar]
    assert names == ["big", "inner"]


@pytest.mark.fault("mitm")
def test_a_changed_host_key_is_refused_at_the_next_connect(machine: Machine, server: Server, access: Access) -> None:
    machine.start(spec("true"))
    server.hypervisor.fault(name_of(access.address), "rekey")
    until(lambda: not machine.connected)
    with pytest.raises(exception.HostKeyRefused):
        machine.connect(10)
    server.hypervisor.destroy(name_of(access.address))
    fresh = Machine(server.listen(access.address))
    fresh.connect(10)
    assert fresh.processes() == []
    machine.access = fresh.access
    fresh.close()


@pytest.mark.fault("ip-reused")
def test_another_machine_under_an_old_address_is_never_trusted(machine: Machine, server: Server, access: Access) -> None:
    server.hypervisor.destroy(name_of(access.address))
    until(lambda: not machine.connected)
    newcomer = Machine(server.listen(access.address))
    with pytest.raises(exception.HostKeyRefused):
        machine.connect(10)
    newcomer.connect(10)
    assert newcomer.processes() == []
    machine.access = newcomer.access
    newcomer.close()


@pytest.mark.fault("image-without-python")
def test_a_machine_without_python_says_so(server: Server, access: Access) -> None:
    server.hypervisor.fault(name_of(access.address), "crash")  # its address is needed
    images = ImageStore(server.base / "bare")
    info = images.get("plain")
    (info.bin / "python3").unlink()
    (info.bin / "python3").write_text("#!/bin/sh\necho Welcome to this machine\necho python3: not found >&2\nexit 127\n")
    (info.bin / "python3").chmod(0o755)
    bare = Hypervisor(server.base / "bare", images, PORT + 1)
    bare.start()
    try:
        private, public = generate_keypair()
        bare.boot("bare", access.address, "plain", cloud_config(private, public, [server.public], "cml").encode(), "node", {})
        with pytest.raises(exception.RemoteError, match=r"(?s)Welcome.*python3: not found"):
            Machine(Access(access.address, PORT + 1, "cml", server.private, public)).connect(10)
    finally:
        bare.stop()


def test_samples_come_while_following(access: Access) -> None:
    machine = Machine(access, options=Options(sample_interval=0.2))
    machine.connect(10)
    machine.start(spec("sleep 600"))
    samples: list[dict[str, Any]] = []
    stop = Leave()

    def on_sample(sample: dict[str, Any]) -> None:
        samples.append(sample)
        if len(samples) == 2:
            stop.set()

    machine.follow({}, lambda *_: None, lambda _: None, stop, on_sample)
    machine.stop(1, 0)
    machine.close()
    assert all(0 <= sample["cpu_percent"] <= 100 and 0 < sample["memory_used"] < sample["memory_total"] for sample in samples)


def test_a_machine_that_nobody_asks_for_powers_itself_off(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(power_off_after=1))
    machine.connect(10)
    run(machine, "true")
    machine.start(spec("sleep 1.5", task="worker:1"))
    machine.close()
    time.sleep(1.3)
    assert server.hypervisor.alive(name_of(access.address)), "it went off while a process was running"
    until(lambda: not server.hypervisor.alive(name_of(access.address)))


def test_a_session_of_an_older_generation_may_only_look(access: Access) -> None:
    """The worker of the older one was taken for dead; it hung, and wakes up with its session still open."""
    old, new = (Machine(access, options=Options(generation=generation)) for generation in (4, 5))
    old.connect(10)
    old.start(spec("sleep 600"))
    new.connect(10)
    until(lambda: any(state.state == "RUNNING" for state in new.processes()))
    changes: list[Callable[[], object]] = [
        lambda: old.start(spec("echo > ../started", task="worker:1")),
        lambda: old.stop(1, 0),
        lambda: old.write("input/late", b""),
        lambda: old.upload("code", None, iter([archive({"main.py": b""}, "w")])),
        lambda: old.free_ports(1),
    ]
    for change in changes:
        with pytest.raises(exception.NodeCommandFailed, match=r"generation 4 .* is over, generation 5 has begun"):
            change()
    old.close()
    old.connect(10)  # a new session of it is no better
    with pytest.raises(exception.NodeCommandFailed, match="is over"):
        old.stop(1, 0)
    assert [state.state for state in old.processes()] == ["RUNNING"]
    assert b"".join(old.fetch("input")) == bytes(1024)
    new.stop(1, 0)
    for machine in (old, new):
        machine.close()


def test_an_upload_that_was_under_way_when_a_newer_generation_came_takes_no_effect(access: Access) -> None:
    old, new = (Machine(access, options=Options(generation=generation)) for generation in (1, 2))
    old.connect(10)
    data = archive({"main.py": b"old"}, "w")

    def pieces() -> Iterator[bytes]:
        yield data[:512]
        new.connect(10)
        new.upload("code", None, iter([archive({"main.py": b"new"}, "w")]))
        yield data[512:]

    with pytest.raises(exception.NodeCommandFailed, match=r"generation 1 .* is over"):
        old.upload("code", None, pieces())
    with tarfile.open(fileobj=io.BytesIO(b"".join(new.fetch("code")))) as tar:
        assert tar.extractfile("main.py").read() == b"new"  # type: ignore[union-attr]
    for machine in (old, new):
        machine.close()


@pytest.mark.parametrize(("answer", "said"), [
    (b"OK 1234\r\nl\3\1\1 no such property", "no such property"), (b"REJECTED EXTERNAL\r\n", "REJECTED"), (b"", "nothing more"),
])
def test_a_refusal_of_systemd_is_said_at_once(tmp_path: Path, answer: bytes, said: str) -> None:
    requests = []
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(tmp_path / "private"))
        manager.listen()

        def refuse() -> None:
            connection, _ = manager.accept()
            with connection:
                requests.append(connection.recv(1 << 16))
                connection.sendall(answer)
                if answer:
                    connection.recv(1)  # until the other side hangs up

        thread = threading.Thread(target=refuse)
        thread.start()
        began = time.monotonic()
        scope = runner.Scope(str(tmp_path / "private"))
        for _ in range(2):
            with pytest.raises(runner.Refused, match=said):
                scope.enter()
        thread.join()
    assert time.monotonic() - began < 10
    assert requests[0].startswith(f"\0AUTH EXTERNAL {str(os.getuid()).encode().hex()}\r\nBEGIN\r\n".encode())


def test_without_a_manager_the_refusal_says_so(tmp_path: Path) -> None:
    with pytest.raises(runner.Refused, match="can't be reached"):
        runner.Scope(str(tmp_path / "private")).enter()


@pytest.mark.fault("many-nodes")
def test_thirty_nodes_are_up_and_logging_quickly(server: Server) -> None:
    machines = [Machine(server.listen(f"127.71.1.{i + 1}")) for i in range(30)]
    before = time.monotonic()
    assert [answer for answer in connect_all(machines, 30) if isinstance(answer, exception.RemoteError)] == []
    connected = time.monotonic() - before
    records = [Record() for _ in machines]

    def work(machine: Machine, record: Record) -> None:
        machine.free_ports(1)
        machine.start(spec("echo $CML_OUTPUT_DIR"))
        record.follow(machine)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(machines, records, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - before
    for machine, record in zip(machines, records, strict=True):
        assert record.text() == f"{machine.hello.root}/output\n"
        machine.close()
    print(f"30 nodes: connected {connected:.2f} s, log of all complete {took:.2f} s")
    assert took < 20  # on two busy cores; it is about 1 s on idle ones
