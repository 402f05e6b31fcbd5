"""Commands, terminals and file copies over SSH: what goes in, what comes out, and how they end."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from cml_nova.localcloud import processes
from tests.functional.localcloud.guests import PORT, USER_KEY, Machine

TEN_MB = 10 * 2**20


def test_a_command_has_its_own_streams_and_exit_status(machine: Machine) -> None:
    assert machine.run("cat; echo out; echo err >&2; exit 3", b"in\n") == (3, b"in\nout\n", b"err\n")


def test_a_command_sees_the_guest_and_nothing_of_the_process_that_runs_the_cloud(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_PASSWORD", "of the operator")
    status, out, _ = machine.run(
        "env; echo; pwd; python3 -ISc 'import sys; print(sys.version.split()[0])'; "
        "for name in python3 python poweroff; do command -v $name; done"
    )
    environ, _, rest = out.decode().partition("\n\n")
    variables = dict(line.split("=", 1) for line in environ.splitlines())
    assert status == 0
    assert set(variables) - {"_", "SHLVL"} == {
        "HOME", "PWD", "PATH", "LANG", "SHELL", "USER", "LOGNAME", "HOSTNAME", processes.MARKER}
    assert (variables["HOME"], variables["USER"], variables["HOSTNAME"], variables["LANG"]) == (
        str(machine.home), "cml", "guest-name", "C.UTF-8")
    cwd, version, *programs = rest.splitlines()
    assert cwd == str(machine.home)
    assert version == sys.version.split()[0]
    image_bin = variables["PATH"].split(":")[0]
    assert programs[:2] == [f"{image_bin}/python3", f"{image_bin}/python"]
    assert not programs[2].startswith(("/usr", "/sbin", "/bin"))


def test_the_signal_that_ended_a_command_is_reported(machine: Machine) -> None:
    async def run() -> Any:
        async with connect(machine) as connection:
            return await connection.run("kill -KILL $$")

    assert asyncio.run(run()).exit_signal[0] == "KILL"


def test_ten_megabytes_go_both_ways_unchanged(machine: Machine) -> None:
    data = os.urandom(TEN_MB)
    status, out, _ = machine.run("tee copy", data)
    assert status == 0
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
    assert (machine.home / "copy").stat().st_size == TEN_MB


def test_a_slow_reader_does_not_make_the_cloud_buffer_the_output(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.exec_command("head -c 300000000 /dev/zero; echo done >finished")
        before = resident_bytes()
        time.sleep(1.0)  # nobody reads meanwhile
        assert not (machine.home / "finished").exists()
        assert resident_bytes() - before < 50 * 2**20


def test_a_command_that_does_not_read_stops_the_sender(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.settimeout(1.0)
        channel.exec_command("sleep 1000")
        with pytest.raises(TimeoutError):
            for _ in range(100):
                channel.sendall(bytes(2**20))


def test_a_command_that_closes_its_input_still_ends_well(machine: Machine) -> None:
    assert machine.run("exec <&-; echo enough", os.urandom(3 * 2**20))[:2] == (0, b"enough\n")


def test_small_frames_go_to_and_fro_without_delay(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.settimeout(10)
        channel.exec_command("cat")
        begin = time.monotonic()
        for number in range(200):
            frame = bytes([number]) * 40
            channel.sendall(frame)
            assert channel.recv(100) == frame
        assert time.monotonic() - begin < 4  # 200 times the 40 ms of a delayed acknowledgement would be 8 s


def test_a_client_can_send_a_signal(machine: Machine) -> None:
    async def run() -> Any:
        async with connect(machine) as connection:
            process = await connection.create_process("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
            await process.stdout.readline()
            process.send_signal("USR1")
            return await process.wait(timeout=10)

    result = asyncio.run(run())
    assert (result.stdout, result.exit_status) == ("caught\n", 7)


def test_a_terminal_gives_an_interactive_shell(machine: Machine) -> None:
    async def run() -> Any:
        async with connect(machine) as connection:
            return await connection.run(None, input="stty size; tty; exit 5\n", term_type="xterm", term_size=(132, 43), timeout=10)

    result = asyncio.run(run())
    assert result.exit_status == 5
    assert "43 132" in result.stdout
    assert "/dev/pts/" in result.stdout


def test_a_terminal_is_over_with_its_shell_though_a_background_job_goes_on_writing(machine: Machine) -> None:
    async def run() -> Any:
        async with connect(machine) as connection:
            return await connection.run("trap '' HUP; yes & echo last; exit 5", term_type="xterm", timeout=10)

    assert asyncio.run(run()).exit_status == 5
    assert machine.run("echo here")[1] == b"here\n"


def test_files_can_be_copied_by_sftp(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.invoke_subsystem("sftp")
        sftp = paramiko.SFTPClient(channel)
        data = os.urandom(2**20)
        sftp.putfo(io.BytesIO(data), "up")
        assert (machine.home / "up").read_bytes() == data
        assert sftp.normalize(".") == str(machine.home)
        channel.shutdown_write()
        assert channel.recv_exit_status() == 0  # what scp takes for success
    assert machine.run("wc -c <up")[1].strip() == b"1048576"


def connect(machine: Machine) -> Any:
    known = asyncssh.import_known_hosts(f"[{machine.address}]:{PORT} {machine.host_key.export_public_key().decode()}")
    return asyncssh.connect(machine.address, PORT, username="cml", client_keys=[USER_KEY], known_hosts=known, agent_path=None)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
