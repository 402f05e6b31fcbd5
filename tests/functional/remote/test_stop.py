"""The end of processes: asked for, or forced upon them and all that they have started."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from cml_nova import exception
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Machine
from tests.functional.remote.nodes import Record, Server, run, spec
from tests.harness.guests import alive
from tests.harness.waiting import until


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_stop_kills_what_ignores_term_and_whatever_it_has_spawned(machine: Machine, server: Server, access: Access) -> None:
    home = server.home(access.address)
    machine.start(spec(f"""trap '' TERM
        setsid sh -c 'trap "" TERM; setsid sleep 600 & echo $! > {home}/a; wait' &
        (sh -c 'sleep 600 & echo $! > {home}/b' &)
        sleep 600"""))
    until(lambda: all((home / name).exists() and (home / name).read_text() for name in "ab"), 20, "both of its processes")
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
    until(lambda: "ready" in record.text(), 20, "its first line")
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
    until(lambda: "ready" in record.text(), 20, "its first line")
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


def test_what_a_process_leaves_behind_is_killed_and_its_output_kept(machine: Machine, server: Server, access: Access) -> None:
    file = server.home(access.address) / "pid"
    state, text = run(machine, f"""setsid sh -c 'echo grandchild; echo $$ > {file}; exec sleep 600' &
        while ! [ -s {file} ]; do sleep 0.01; done""")
    assert (state.state, state.exit_code, text) == ("EXITED", 0, "grandchild\n")
    assert not alive(int(file.read_text()))
