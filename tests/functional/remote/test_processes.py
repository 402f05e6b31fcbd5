"""Processes on a node: started once, told of to their end, in a known environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from cml_nova import exception
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Machine, ProcessSpec
from tests.functional.remote.nodes import Record, Server, run, spec
from tests.harness.guests import alive
from tests.harness.waiting import until


def test_a_process_runs_and_its_end_is_told_after_its_whole_log(machine: Machine) -> None:
    state, text = run(machine, "echo out; echo err >&2; echo $GREETING; exit 7", GREETING="grüße")
    assert text == "out\nerr\ngrüße\n"
    assert (state.state, state.exit_code, state.signal, state.oom) == ("EXITED", 7, None, False)
    assert state.log_size == len(text.encode())


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


def test_a_killed_supervisor_takes_the_process_along_and_leaves_a_reason(machine: Machine) -> None:
    machine.start(spec("echo begun; sleep 600"))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    until(lambda: record.text() and record.states, 20, "word of the process")
    pid = record.states[-1].pid
    assert pid
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    thread.join(5)
    assert (record.states[-1].state, record.states[-1].reason) == ("LOST", "its supervisor was killed")
    until(lambda: not alive(pid), 20, "the end of the process")
    machine.start(spec("true", attempt=2))
    machine.start(spec("true"))  # what was started once is not started again
    with pytest.raises(exception.NodeCommandFailed, match="attempt 2 has begun"):
        machine.start(spec("true", task="worker:1"))


def test_a_restarted_machine_is_noticed(machine: Machine, server: Server, access: Access) -> None:
    run(machine, "true")
    path = server.home(access.address) / ".cml/tasks/1/worker:0/state.json"
    supervisor = json.loads(path.read_text())["supervisor"]
    until(lambda: not alive(supervisor), 20, "the supervisor's end")
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "state": "RUNNING", "boot_id": "another"}))
    assert [(each.state, each.reason) for each in machine.processes()] == [("LOST", "the machine was restarted")]


def test_a_younger_attempt_waits_for_the_end_of_the_older(machine: Machine) -> None:
    machine.start(spec("sleep 600"))
    with pytest.raises(exception.NodeCommandFailed, match="worker:0 of attempt 1 is still running"):
        machine.start(spec("true", attempt=2))
    machine.stop(1, 0)
    assert run(machine, "echo $CML_ATTEMPT", attempt=2, CML_ATTEMPT="2")[1] == "2\n"


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
