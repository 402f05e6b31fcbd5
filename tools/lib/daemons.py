"""Starts and stops the service and the local cloud, and knows over many runs of a tool what is running."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import requests
import yaml
from bootstrap import whole


class DaemonError(Exception):
    """A daemon can't be started or has died; the message says why and what to do."""


class Daemons:
    """The two daemons of a state directory; their process ids are in ``daemons.json`` below it.

    :param directory: for configuration, database, logs and process ids of the daemons.
    :param state_dir: for the cloud's state and images.
    :param command: gives the path of a command of this project by its name.

    ``used`` tells whether there is anything in ``logs`` of this run.
    """

    def __init__(self, directory: Path, state_dir: Path, command: Callable[[str], str]) -> None:
        self.clouds_file = state_dir / "clouds.yaml"
        self.config_file = directory / "cml_nova.conf"
        self.logs = {name: directory / f"{name}.log" for name in ("localcloud", "standalone")}
        self.used = False
        self._state_dir = state_dir
        self._directory = directory
        self._record = directory / "daemons.json"
        self._command = command
        self._mine: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs of the tool out.

        :raises DaemonError: one is at work.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DaemonError(f"Another quickstart is at work in {self._state_dir}; wait for it, or give this one a directory and "
                                  "ports of its own (--state-dir, --port, --cloud-port).") from None
            yield

    def running(self) -> dict[str, int] | None:
        """Give the ports by daemon if both run and were meant to be kept; stop what is left of anything else."""
        record = self._read()
        if record and record["kept"] and all(_alive(d["pid"], d["born"]) for d in record["daemons"].values()):
            self.used = True
            return {name: daemon["port"] for name, daemon in record["daemons"].items()}
        self.stop()
        return None

    def start(self, port: int, cloud_port: int, network: str) -> None:
        """Start both and wait until they answer.

        :param network: addresses of the cloud's servers, as a CIDR.
        :raises DaemonError: a port is taken, or a daemon did not come up.
        """
        _check_free(port, "--port")
        _check_free(cloud_port, "--cloud-port")
        url, cloud_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{cloud_port}"
        try:
            self._start("localcloud", cloud_port, [self._command("cml-nova-localcloud"), "serve", "--state-dir", str(self._state_dir),
                                                   "--port", str(cloud_port), "--network", network, "--ml-endpoint", url])
            self._wait("localcloud", cloud_url + "/identity/v3")
            self._configure(port)
            self._start("standalone", port, [self._command("cml-nova-standalone"), "--config-file", str(self.config_file)])
            self._wait("standalone", url + "/")
        except BaseException:
            self.stop()
            raise

    def keep(self) -> None:
        """Note that the daemons are to go on when this process has ended."""
        self._write({**self._read(), "kept": True})

    def check(self) -> None:
        """:raises DaemonError: one of the daemons started here has died."""
        for name, process in self._mine.items():
            if process.poll() is not None:
                raise DaemonError(f"The {name} daemon ended with code {process.returncode}. The end of {self.logs[name]}:\n"
                                  f"{tail(self.logs[name])}")

    def stop(self) -> list[str]:
        """Stop what runs, the service before the cloud; give the names of what was stopped."""
        record = self._read()
        stopped = []
        for name in ("standalone", "localcloud"):
            daemon = record.get("daemons", {}).get(name)
            if daemon and _alive(daemon["pid"], daemon["born"]):
                _end(daemon["pid"], daemon["born"])
                stopped.append(name)
            if process := self._mine.pop(name, None):
                process.wait()
        self._record.unlink(missing_ok=True)
        return stopped

    def _start(self, name: str, port: int, command: Sequence[str]) -> None:
        self.used = True
        record = self._read() or {"kept": False, "daemons": {}}
        with self.logs[name].open("wb") as log, whole():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self._directory,
                                       start_new_session=True)
            self._mine[name] = process
            record["daemons"][name] = {"pid": process.pid, "born": _born(process.pid), "port": port}
            self._write(record)

    def _wait(self, name: str, url: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(url, timeout=5).status_code < 500:
                    return
            if time.monotonic() > deadline:
                raise DaemonError(f"The {name} daemon does not answer at {url} after {seconds:.0f} s. The end of {self.logs[name]}:\n"
                                  f"{tail(self.logs[name])}")
            time.sleep(0.1)

    def _configure(self, port: int) -> None:
        """Write the service's configuration; its account is one that the cloud has made."""
        tunnel_port = _free_port()
        auth = {"auth_type": "password", **yaml.safe_load(self.clouds_file.read_text())["clouds"]["local-service"]["auth"]}
        groups = {
            "DEFAULT": {"transport_url": "fake:/"},
            "database": {"connection": f"sqlite:///{self._directory}/cml_nova.sqlite"},
            "keystone_authtoken": {**auth, "www_authenticate_uri": auth["auth_url"]},
            "cloud": {**auth, "deployment": "quickstart", "network": "local-net"},
            "storage": {"path": self._directory / "storage"},
            "secrets": {"key_file": self._directory / "fernet.keys"},
            "api": {"standalone_host": "127.0.0.1", "standalone_port": port},
            "tunnel": {"public_url": f"ws://127.0.0.1:{tunnel_port}", "port": tunnel_port},
        }
        lines = [line for group, values in groups.items()
                 for line in (f"[{group}]", *(f"{name} = {str(value).replace('$', '$$')}" for name, value in values.items()), "")]
        self.config_file.touch(mode=0o600)
        self.config_file.write_text("\n".join(lines))

    def _read(self) -> dict:
        try:
            return json.loads(self._record.read_text())
        except FileNotFoundError:
            return {}

    def _write(self, record: dict) -> None:
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(self._record)


def tail(path: Path, lines: int = 15) -> str:
    """Give the last lines of a file."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _check_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DaemonError(f"Port {port} of 127.0.0.1 can't be used ({error.strerror}); choose another with {option}.") from None


def _free_port() -> int:
    """Give a port for what nobody has to type: the API tells clients of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _born(pid: int) -> str:
    """Give the start time of a process (field 22 of /proc/<pid>/stat), '' when there is none: ids of processes come again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _alive(pid: int, born: str) -> bool:
    return bool(born) and _born(pid) == born and not _zombie(pid)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _end(pid: int, born: str, grace: float = 30) -> None:
    """TERM a process, and KILL it when it has not ended in time."""
    for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not _alive(pid, born):
                return
            time.sleep(0.05)
