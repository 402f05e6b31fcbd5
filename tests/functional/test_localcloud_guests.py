"""The local cloud's guests as their clients see them: over SSH, and as processes of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from cml_nova.localcloud import images, processes
from cml_nova.localcloud.forwarding import Forwards
from cml_nova.localcloud.hypervisor import AddressInUse, Hypervisor, HypervisorError
from cml_nova.localcloud.images import ImageError, ImageStore
from tests.harness.guests import alive
from tests.harness.process import free_port
from tests.harness.waiting import until

PORT = 2200
TEN_MB = 10 * 2**20
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
_addresses = itertools.count(1)


def new_address() -> str:
    number = next(_addresses)
    return f"127.70.{number // 250}.{number % 250 + 1}"


def cloud_config(host_key: asyncssh.SSHKey, in_users: bool = False) -> bytes:
    private = "".join(f"    {line}\n" for line in host_key.export_private_key().decode().splitlines())
    authorized = USER_KEY.export_public_key().decode()
    login = f"users:\n  - default\n  - name: cml\n    ssh_authorized_keys:\n      - {authorized}" if in_users else (
        f"ssh_authorized_keys:\n  - {authorized}")
    return f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{private}{login}\n".encode()


@dataclass
class Machine:
    """A booted guest and how to log in to it."""

    hypervisor: Hypervisor
    server_id: str
    address: str
    host_key: asyncssh.SSHKey
    home: Path

    def transport(self, key: asyncssh.SSHKey = USER_KEY, timeout: float = 10) -> paramiko.Transport:
        sock = socket.create_connection((self.address, PORT), timeout=timeout)
        transport = paramiko.Transport(sock)
        transport.banner_timeout = transport.auth_timeout = timeout
        try:
            transport.connect(username="cml", pkey=paramiko_key(key), hostkey=paramiko_key(self.host_key))
        except BaseException:
            transport.close()
            raise
        return transport

    def run(self, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command over a connection of its own; exit status, stdout, stderr."""
        with closing(self.transport()) as transport:
            return execute(transport, command, stdin)

    def start_detached(self, command: str) -> int:
        """Start a shell command in a session of its own, with nothing of the connection left open; give its pid."""
        pid_file = self.home / "detached"
        script = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; {command}"
        status, _, err = self.run(f"rm -f {pid_file}; setsid sh -c {shlex.quote(script)} </dev/null >/dev/null 2>&1 &")
        assert (status, err) == (0, b"")
        return int(until(lambda: pid_file.exists() and pid_file.read_text(), 10, "the detached process"))

    def fault(self, fault: str) -> None:
        self.hypervisor.fault(self.server_id, fault)


def paramiko_key(key: asyncssh.SSHKey) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(key.export_private_key().decode()))


def execute(transport: paramiko.Transport, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    channel = transport.open_session(timeout=10)
    channel.settimeout(30)
    channel.exec_command(command)
    # Both ways at the same time: else each side may wait for the other to read.
    feeder = threading.Thread(target=feed, args=(channel, stdin))
    feeder.start()
    out = b"".join(iter(lambda: channel.recv(2**20), b""))
    err = b"".join(iter(lambda: channel.recv_stderr(2**20), b""))
    feeder.join()
    return channel.recv_exit_status(), out, err


def feed(channel: paramiko.Channel, data: bytes) -> None:
    with suppress(OSError):  # the command may end before it has read everything
        for start in range(0, len(data), 2**18):
            channel.sendall(data[start : start + 2**18])
        channel.shutdown_write()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def powered_off() -> list[str]:
    """The servers that said that they shut down."""
    return []


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, store: ImageStore, powered_off: list[str]) -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(tmp_path_factory.mktemp("state"), store, PORT, on_power_off=powered_off.append)
    hypervisor.start()
    yield hypervisor
    hypervisor.stop()


@contextmanager
def booted(hypervisor: Hypervisor, state_dir: Path, in_users: bool = False) -> Iterator[Machine]:
    address, host_key = new_address(), asyncssh.generate_private_key("ssh-ed25519")
    server_id = "server-" + address.replace(".", "-")
    hypervisor.boot(server_id, address, "plain", cloud_config(host_key, in_users), "guest-name", {"purpose": "test"})
    yield Machine(hypervisor, server_id, address, host_key, state_dir / "guests" / server_id)
    hypervisor.destroy(server_id)


@pytest.fixture
def machine(cloud: Hypervisor) -> Iterator[Machine]:
    with booted(cloud, cloud._dir) as machine:
        yield machine


# Commands


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


# Who may log in


def test_the_host_key_is_the_one_of_the_user_data(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        assert transport.get_remote_server_key().get_base64() == paramiko_key(machine.host_key).get_base64()


def test_a_wrong_key_is_refused(machine: Machine) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        machine.transport(asyncssh.generate_private_key("ssh-ed25519"))


def test_public_keys_are_the_only_way_in(machine: Machine) -> None:
    transport = paramiko.Transport((machine.address, PORT))
    with closing(transport):
        transport.start_client(timeout=10)
        with pytest.raises(paramiko.BadAuthenticationType) as refusal:
            transport.auth_none("cml")
    assert refusal.value.allowed_types == ["publickey"]


def test_keys_given_to_users_count_too(cloud: Hypervisor) -> None:
    with booted(cloud, cloud._dir, in_users=True) as machine:
        assert machine.run("echo in")[1] == b"in\n"


@pytest.mark.parametrize("user_data", [None, b"#!/bin/sh\n", b"#cloud-config\n[", b"#cloud-config\nssh_keys: 3\n", b"\xff\xfe"])
def test_a_guest_without_usable_user_data_boots_and_lets_nobody_in(cloud: Hypervisor, user_data: bytes | None) -> None:
    address = new_address()
    cloud.boot("no-keys", address, "plain", user_data, "guest", {})
    with closing(paramiko.Transport((address, PORT))) as transport, pytest.raises(paramiko.AuthenticationException):
        transport.connect(username="cml", pkey=paramiko_key(USER_KEY))
    cloud.destroy("no-keys")


# Life and death of processes


def test_a_lost_connection_hangs_up_on_the_command_but_not_on_what_it_detached(machine: Machine) -> None:
    detached = machine.start_detached("exec sleep 1000")
    transport = machine.transport()
    channel = transport.open_session()
    channel.exec_command("echo $$; exec sleep 1000")
    attached = int(channel.makefile().readline())
    transport.close()
    until(lambda: not alive(attached), 5, "the end of the command")
    assert alive(detached)


@pytest.mark.parametrize("command", ["sleep 1000", "yes"])
def test_a_closed_channel_hangs_up_on_the_command(machine: Machine, command: str) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.exec_command(f"echo $$; exec {command}")
        pid = int(channel.makefile().readline())
        channel.close()
        until(lambda: not alive(pid), 5, "the end of the command")


def test_destroy_kills_everything_and_removes_the_files(cloud: Hypervisor) -> None:
    with booted(cloud, cloud._dir) as machine:
        detached = machine.start_detached("exec sleep 1000")
        stubborn = machine.start_detached("trap '' TERM HUP INT; while :; do sleep 1; done")
        machine.start_detached("env -i sleep 1000 & echo $! >child; wait")
        child = int(until(lambda: (machine.home / "child").exists() and (machine.home / "child").read_text(), 5, "the child"))
        unmarked = machine.transport().open_session()
        unmarked.exec_command("echo $$; exec env -i sleep 1000")
        command = int(unmarked.makefile().readline())
        pids = [detached, stubborn, child, command]
        assert all(map(alive, pids))
        cloud.destroy(machine.server_id)
        assert [pid for pid in pids if alive(pid)] == []
        assert not machine.home.exists()
        assert not cloud.alive(machine.server_id)
        with pytest.raises(ConnectionRefusedError):
            machine.transport()
        cloud.destroy(machine.server_id)  # and once more


def test_destroy_outruns_a_guest_that_keeps_starting_processes(cloud: Hypervisor) -> None:
    with booted(cloud, cloud._dir) as machine:
        machine.start_detached("for i in $(seq 200); do setsid sleep 1000 & sleep 0.01; done")
        until(lambda: len(cloud._processes.of(machine.server_id)) > 10, 10, "some processes")
        cloud.destroy(machine.server_id)
        assert cloud._processes.of(machine.server_id) == []


def test_destroy_leaves_other_guests_alone(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    with booted(cloud, cloud._dir) as other:
        other.start_detached("exec sleep 1000")
    assert alive(pid)
    assert machine.run("echo here")[1] == b"here\n"


@pytest.mark.parametrize("command", ["poweroff", "sudo -n shutdown -h now", "systemctl poweroff"])
def test_a_guest_can_shut_itself_down_and_be_started_again(cloud: Hypervisor, powered_off: list[str], command: str) -> None:
    with booted(cloud, cloud._dir) as machine:
        pid = machine.start_detached("exec sleep 1000")
        machine.run("echo kept >file")
        machine.start_detached(command)
        until(lambda: machine.server_id in powered_off, 5, "the message that the guest is off")
        assert not cloud.alive(machine.server_id)
        assert not alive(pid)
        cloud.boot(machine.server_id, machine.address, "plain", cloud_config(machine.host_key), "guest-name", {})
        assert machine.run("cat file")[1] == b"kept\n"
        powered_off.remove(machine.server_id)


# Faults


def test_crash_ends_everything_at_once(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    transport = machine.transport()
    machine.fault("crash")
    assert not alive(pid)
    assert not cloud.alive(machine.server_id)
    until(lambda: not transport.is_active(), 5, "the loss of the connection")
    with pytest.raises(ConnectionRefusedError):
        machine.transport()
    machine.fault("crash")
    with pytest.raises(HypervisorError, match="not running"):
        machine.fault("hang")


def test_a_hung_guest_accepts_connections_and_answers_nothing_until_it_resumes(cloud: Hypervisor, machine: Machine) -> None:
    machine.start_detached("for i in $(seq 1000); do echo tick >>ticks; sleep 0.02; done")
    ticks = machine.home / "ticks"
    until(ticks.exists, 5, "the first tick")
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.settimeout(0.5)
        channel.exec_command("cat")
        machine.fault("hang")
        size = ticks.stat().st_size
        channel.sendall(b"hello")
        with pytest.raises(TimeoutError):
            channel.recv(100)
        with socket.create_connection((machine.address, PORT), timeout=0.5) as late:
            with pytest.raises(TimeoutError):
                late.recv(100)
            assert ticks.stat().st_size == size
            assert cloud.alive(machine.server_id)
            machine.fault("resume")
            late.settimeout(10)
            assert late.recv(100).startswith(b"SSH-2.0-")
        channel.settimeout(10)
        assert channel.recv(100) == b"hello"
        until(lambda: ticks.stat().st_size > size, 5, "another tick")


def test_a_hung_guest_can_be_destroyed(cloud: Hypervisor) -> None:
    with booted(cloud, cloud._dir) as machine:
        pid = machine.start_detached("exec sleep 1000")
        machine.fault("hang")
        cloud.destroy(machine.server_id)
        assert not alive(pid)


def test_a_cut_path_loses_connections_and_refuses_new_ones_while_processes_live(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    with socket.create_connection((machine.address, PORT), timeout=10) as sock:
        assert sock.recv(100)
        machine.fault("cut")
        with pytest.raises(ConnectionResetError):
            while sock.recv(1000):
                pass
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            machine.transport()
    assert alive(pid)
    assert cloud.alive(machine.server_id)
    machine.fault("mend")
    assert machine.run("echo back")[1] == b"back\n"
    assert alive(pid)


def test_a_guest_that_was_cut_and_hung_needs_both_made_good(machine: Machine) -> None:
    machine.fault("cut")
    machine.fault("hang")
    machine.fault("mend")
    with socket.create_connection((machine.address, PORT), timeout=0.3) as sock, pytest.raises(TimeoutError):
        sock.recv(100)
    machine.fault("resume")
    assert machine.run("echo back")[1] == b"back\n"


def test_rekey_changes_the_host_key_and_drops_connections(machine: Machine) -> None:
    transport = machine.transport()
    machine.fault("rekey")
    until(lambda: not transport.is_active(), 5, "the loss of the connection")
    with pytest.raises(paramiko.SSHException, match="host key"):
        machine.transport()


def test_an_unknown_fault_is_refused(machine: Machine) -> None:
    with pytest.raises(HypervisorError, match="there is no fault 'flood'"):
        machine.fault("flood")


# Addresses and many guests


def test_an_address_is_given_to_one_guest_only(cloud: Hypervisor, machine: Machine) -> None:
    with pytest.raises(AddressInUse):
        cloud.boot("second", machine.address, "plain", None, "second", {})
    assert not cloud.alive("second")
    machine.fault("cut")
    with pytest.raises(AddressInUse):
        cloud.boot("second", machine.address, "plain", None, "second", {})


def test_an_address_on_which_another_program_listens_is_in_use(cloud: Hypervisor) -> None:
    address = new_address()
    with socket.create_server((address, PORT)), pytest.raises(AddressInUse):
        cloud.boot("second", address, "plain", None, "second", {})
    assert not cloud.alive("second")


@pytest.mark.parametrize(("server_id", "address"), [("../up", "127.70.9.9"), ("", "127.70.9.9"), ("a", "192.0.2.1")])
def test_bad_ids_and_outside_addresses_are_refused(cloud: Hypervisor, server_id: str, address: str) -> None:
    with pytest.raises(HypervisorError):
        cloud.boot(server_id, address, "plain", None, "guest", {})


def test_an_unknown_image_is_refused(cloud: Hypervisor) -> None:
    with pytest.raises(ImageError, match="there is no image 'cobol'"):
        cloud.boot("a", new_address(), "cobol", None, "guest", {})


def test_fifty_guests_start_and_answer_quickly(cloud: Hypervisor) -> None:
    begin = time.monotonic()
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    machines = [Machine(cloud, f"many-{number}", new_address(), host_key, Path()) for number in range(50)]
    user_data = cloud_config(host_key)

    def boot(machine: Machine) -> tuple[int, bytes, bytes]:
        cloud.boot(machine.server_id, machine.address, "plain", user_data, machine.server_id, {})
        return machine.run("echo $HOSTNAME")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(boot, machines))
        list(pool.map(lambda machine: cloud.destroy(machine.server_id), machines))
    assert [out.decode().strip() for _, out, _ in answers] == [machine.server_id for machine in machines]
    assert time.monotonic() - begin < 15


# The cloud itself


def test_left_over_processes_of_a_killed_cloud_are_killed_at_the_next_start_and_no_others(
    tmp_path: Path, store: ImageStore, machine: Machine
) -> None:
    other_cloud = machine.start_detached("exec sleep 1000")
    first = Hypervisor(tmp_path, store, PORT)
    first.start()
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    left = Machine(first, "left", new_address(), host_key, tmp_path / "guests" / "left")
    first.boot("left", left.address, "plain", cloud_config(host_key), "left", {})
    marker = left.run("printenv CML_LOCALCLOUD_GUEST")[1].decode().strip()
    first.stop()
    # A killed cloud leaves what carries its marker.
    environ = {"PATH": os.environ["PATH"], processes.MARKER: marker}
    with subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True) as leftover:
        second = Hypervisor(tmp_path, store, PORT)
        second.start()
        assert leftover.wait(timeout=5) == -signal.SIGKILL
        assert alive(other_cloud)
        assert not second.alive("left")
        second.destroy("left")  # known from its files only
        assert not left.home.exists()
        second.stop()


def test_stop_kills_all_guests_and_gives_the_state_directory_free(tmp_path: Path, store: ImageStore) -> None:
    cloud = Hypervisor(tmp_path, store, PORT)
    cloud.start()
    with pytest.raises(HypervisorError, match="another local cloud"):
        Hypervisor(tmp_path, store, PORT).start()
    address, host_key = new_address(), asyncssh.generate_private_key("ssh-ed25519")
    cloud.boot("one", address, "plain", cloud_config(host_key), "one", {})
    pid = Machine(cloud, "one", address, host_key, tmp_path / "guests" / "one").start_detached("exec sleep 1000")
    cloud.stop()
    cloud.stop()
    assert not alive(pid)
    with pytest.raises(HypervisorError, match="not running"):
        cloud.boot("two", new_address(), "plain", None, "two", {})


# Images


def test_the_plain_image_is_always_there(store: ImageStore) -> None:
    plain = next(image for image in store.list() if image.name == "plain")
    assert plain.properties["cml_framework"] == "custom"
    assert plain.properties["cml_ssh_port"] == str(PORT)
    assert (plain.bin / "python3").exists()


def test_an_image_that_is_not_built_says_how_to_build_it(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="image build mxnet"):
        store.get("mxnet")


@pytest.fixture
def tiny_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An image whose framework is a package on this disk, so that pip needs no registry. Give the version."""
    source, environments = tmp_path / "source", tmp_path / "environments"
    source.mkdir()
    environments.mkdir()
    monkeypatch.setattr(images, "ENVIRONMENTS", environments)

    def write(version: str) -> None:
        wheel(source, version)
        head = "# python: 3.8 - 3.20\n# framework: tiny\n"
        (environments / "tiny.txt").write_text(f"{head}--no-index\n--find-links {source}\ntiny=={version}\n")

    return write


def wheel(directory: Path, version: str) -> None:
    """Make a wheel of a package ``tiny`` whose only module says its version."""
    import zipfile

    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(directory / f"tiny-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_an_image_is_built_once_and_again_when_its_recipe_changes(tmp_path: Path, tiny_recipe: Callable[[str], None]) -> None:
    store = ImageStore(tmp_path / "images")
    lines: list[str] = []
    tiny_recipe("1.0")
    with ThreadPoolExecutor(2) as pool:  # two at the same time
        first, second = pool.map(lambda _: ImageStore(tmp_path / "images").build("tiny", lines.append), range(2))
    assert first == second
    assert sum("up to date" in line for line in lines) == 1
    assert [image.name for image in store.list()] == ["plain", "tiny", "simulated"]
    assert (first.properties["cml_framework"], first.properties["cml_framework_version"]) == ("tiny", "1.0")
    program: list[str | Path] = [first.bin / "python3", "-c", "import tiny; print(tiny.version)"]
    assert subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout == "1.0\n"

    recipe = images.ENVIRONMENTS / "tiny.txt"
    recipe.write_text(recipe.read_text().replace("tiny==1.0", "tiny==2.0"))  # which is nowhere
    with pytest.raises(ImageError, match="No matching distribution"):
        store.build("tiny", images.print_nothing)
    assert [image.name for image in store.list()] == ["plain", "simulated"]


def test_without_a_fitting_python_the_build_says_what_it_looked_at(tmp_path: Path, tiny_recipe: Callable[[str], None]) -> None:
    tiny_recipe("1.0")
    (images.ENVIRONMENTS / "tiny.txt").write_text("# python: 3.2 - 3.3\n# framework: tiny\ntiny==1.0\n")
    with pytest.raises(ImageError, match=r"needs Python 3\.2 to 3\.3.*found only: .*python"):
        ImageStore(tmp_path / "images").build("tiny", images.print_nothing)


def test_the_shipped_recipes_are_sound() -> None:
    assert images.recipes() == ["mxnet", "tensorflow"]
    assert (images.recipe("tensorflow").version, images.recipe("mxnet").version) == ("2.21.0", "1.9.1")
    assert images.recipe("tensorflow").without_deps


def connect(machine: Machine) -> Any:
    known = asyncssh.import_known_hosts(f"[{machine.address}]:{PORT} {machine.host_key.export_public_key().decode()}")
    return asyncssh.connect(machine.address, PORT, username="cml", client_keys=[USER_KEY], known_hosts=known, agent_path=None)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_connection_to_a_floating_address_does_not_hold_the_loop_while_its_target_is_asked_for() -> None:
    """Whoever knows the target may wait for the loop itself."""
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[None] = loop.create_future()

        def target() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)
            loop.call_soon_threadsafe(asked.set_result, None)

        port = free_port()
        forwards = Forwards(port)
        await forwards.add("127.0.0.1", target)
        try:
            await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait_for(asked, 10)
        finally:
            forwards.close()

    asyncio.run(connect())
