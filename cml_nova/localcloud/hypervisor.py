"""Runs the guests of the local cloud in one thread with an asyncio loop, whatever their number."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import resource
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import asyncssh

from cml_nova.localcloud import simulated
from cml_nova.localcloud.forwarding import Forwards
from cml_nova.localcloud.guest import AddressInUse, Guest, read_user_data
from cml_nova.localcloud.images import SIMULATED, ImageStore
from cml_nova.localcloud.processes import MARKER, ProcessesRemain, ProcessTable

__all__ = ["FAULTS", "AddressInUse", "Hypervisor", "HypervisorError", "ProcessesRemain"]

T = TypeVar("T")

FAULTS = ("crash", "hang", "resume", "cut", "mend", "rekey")

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_SERVER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")

# The machine-level commands of a guest. They stand before the system's own in PATH, which would act on the real machine.
_POWEROFF = f"""#!/bin/sh
# Shuts this guest of the local cloud down.
exec echo "${{{MARKER}##*/}}" > '{{fifo}}'
"""
_SYSTEMCTL = """#!/bin/sh
case "$1" in
    poweroff|halt) exec poweroff ;;
esac
echo "This guest of the local cloud has no systemd." >&2
exit 1
"""
_SUDO = """#!/bin/sh
# Everybody may do everything in a guest: run the command as it is.
while :; do
    case "$1" in
        -[ugpCDRrTthU]) shift 2 ;;
        -*) shift ;;
        *=*) export "$1"; shift ;;
        *) break ;;
    esac
done
exec "$@"
"""
_PROGRAMS = {
    "poweroff": _POWEROFF, "shutdown": _POWEROFF, "halt": _POWEROFF, "systemctl": _SYSTEMCTL, "sudo": _SUDO,
}
_MAX_FILES = 65536
_HELPERS = 32  # threads for what would block the loop: at most so many guests are killed or deleted at the same time


class HypervisorError(Exception):
    """A request makes no sense for the guest's state, or the state directory is in use."""


class Hypervisor:
    """All methods are thread-safe and return when the thing is done.

    :param state_dir: holds the guests' directories and this cloud's instance id. One hypervisor at a time uses it.
    :param ssh_port: the port of every guest's SSH server.
    :param on_power_off: is called with the server's id, in a thread of its own, after a guest has shut itself down.
    :ivar login_delay: seconds for which every guest's SSH server thinks before it lets anybody in.
    """

    def __init__(
        self, state_dir: Path, images: ImageStore, ssh_port: int = 2200, on_power_off: Callable[[str], None] | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._dir = state_dir.absolute()
        self._guests_dir = self._dir / "guests"
        self._bin = self._dir / "bin"
        self._fifo = self._dir / "power"
        self._images = images
        self.login_delay = 0.0
        self._port = ssh_port
        self._on_power_off = on_power_off
        self._log = log or logging.getLogger(__name__)
        self._guests: dict[str, Guest] = {}
        self._forwards = Forwards(ssh_port)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    # Life

    def start(self) -> None:
        """Start the loop's thread, after killing what is left of the guests of a run that did not end properly.

        :raises HypervisorError: another process uses the state directory.
        :raises ProcessesRemain: a left-over process can't be killed.
        """
        self._guests_dir.mkdir(parents=True, exist_ok=True)
        self._lock_file = self._lock_state_dir()
        self._processes = ProcessTable(self._instance())
        self._processes.kill()
        self._write_programs()
        _prepare_process()
        asyncssh.set_log_level(logging.WARNING)  # it logs every command, with whatever secrets are in it
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_HELPERS, "hypervisor"))
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="hypervisor", daemon=True)
        self._thread.start()
        self._call(self._watch_power())

    def stop(self) -> None:
        """Power every guest off, kill its processes, end the thread. The guests' files stay."""
        loop = self._loop
        if not loop:
            return
        try:
            self._call(self._power_off_all())
        finally:
            self._loop = None
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            os.close(self._power)
            self._lock_file.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._loop:
            coroutine.close()
            raise HypervisorError("the hypervisor is not running")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # Guests

    def boot(
        self, server_id: str, address: str, image: str, user_data: bytes | None, hostname: str, metadata: dict[str, Any]
    ) -> None:
        """Start a guest; one that is off starts again with the files it had.

        :param image: name of a built image.
        :param user_data: a cloud-config, as bytes (not base64).
        :raises AddressInUse: take another address.
        :raises ImageError: the image is unknown or not built.
        :raises HypervisorError: the server's id or address is not valid, or the guest runs already.
        """
        if not _SERVER_ID.fullmatch(server_id):
            raise HypervisorError(f"'{server_id}' is no server id: only letters, digits and '-', 64 at most")
        if not ipaddress.IPv4Address(address).is_loopback:
            raise HypervisorError(f"{address} is no loopback address: guests listen on the machine's own network only")
        path = f"{self._images.get(image).bin}:{self._bin}:{_SYSTEM_PATH}"
        login = read_user_data(user_data, self._log)
        guest = Guest(
            server_id, address, self._port, hostname, home=self._guests_dir / server_id, path=path,
            processes=self._processes, login=login, login_delay=lambda: self.login_delay, log=self._log,
            machine=self._machine(server_id) if image == SIMULATED else None,
        )
        self._call(self._boot(guest, metadata))

    def _machine(self, server_id: str) -> simulated.Machine:
        """Give what a simulated guest has in the place of files and processes; one that was off starts with what it had."""
        known = self._guests.get(server_id)
        return known.machine if known and known.machine else simulated.Machine()

    def destroy(self, server_id: str) -> None:
        """Power a guest off, kill its processes, delete its files. Unknown and already destroyed ones are fine.

        :raises ProcessesRemain: a process can't be killed; call again.
        """
        if _SERVER_ID.fullmatch(server_id):
            self._call(self._destroy(server_id))

    def fault(self, server_id: str, fault: str) -> None:
        """Do something bad to a guest, or make it good again.

        :param fault: one of :data:`FAULTS`.
        :raises HypervisorError: no such fault; or no such guest, or it is off (unless the fault is a crash).
        """
        if fault not in FAULTS:
            raise HypervisorError(f"there is no fault '{fault}'; there are: {', '.join(FAULTS)}")
        self._call(self._fault(server_id, fault))

    def alive(self, server_id: str) -> bool:
        """Whether the guest is powered on (a hung or cut-off one is)."""
        guest = self._guests.get(server_id)
        return bool(guest and guest.on)

    # Floating addresses

    def forward(self, address: str, server_of: Callable[[], str | None]) -> None:
        """Begin to connect what connects to an address to a guest.

        :param server_of: tells which server's guest, at each connection anew; None for none.
        :raises AddressInUse: take another address.
        """
        def target() -> str | None:
            guest = self._guests.get(server_of() or "")
            return guest.address if guest else None

        self._call(self._forwards.add(address, target))

    def unforward(self, address: str) -> None:
        """End that; what is connected stays so."""
        self._call(self._unforward(address))

    # In the loop's thread

    async def _unforward(self, address: str) -> None:
        self._forwards.remove(address)

    async def _boot(self, guest: Guest, metadata: dict[str, Any]) -> None:
        async with self._lock(guest.server_id):
            if self.alive(guest.server_id):
                raise HypervisorError(f"the server {guest.server_id} is running")
            # The kernel would give the address of a guest that is cut off, and so does not listen, away.
            if any(other.on and other.address == guest.address for other in self._guests.values()):
                raise AddressInUse(f"{guest.address} is another server's")
            await guest.power_on(metadata)
            self._guests[guest.server_id] = guest

    async def _destroy(self, server_id: str) -> None:
        async with self._lock(server_id):
            await self._power_off(server_id)
            await asyncio.to_thread(_remove, self._guests_dir / server_id)
            self._guests.pop(server_id, None)
        self._locks.pop(server_id, None)

    async def _power_off(self, server_id: str) -> None:
        guest = self._guests.get(server_id)
        if guest:
            guest.power_off()
            if guest.used:
                await asyncio.to_thread(self._processes.kill, server_id)
            await _all_reaped([guest])

    async def _power_off_all(self) -> None:
        for guest in self._guests.values():
            guest.power_off()
        await asyncio.to_thread(self._processes.kill)
        await _all_reaped(self._guests.values())
        self._forwards.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._guests.clear()
        if self._loop:
            self._loop.remove_reader(self._power)

    async def _fault(self, server_id: str, fault: str) -> None:
        async with self._lock(server_id):
            guest = self._guests.get(server_id)
            if fault == "crash":
                await self._power_off(server_id)  # fine for one that is off
                return
            if not guest or not guest.on:
                raise HypervisorError(f"the server {server_id} is not running")
            match fault:
                case "hang":
                    guest.hang()
                    await asyncio.to_thread(self._processes.stop, server_id)
                case "resume":
                    await asyncio.to_thread(self._processes.resume, server_id)
                    await guest.resume()
                case "cut":
                    guest.cut()
                case "mend":
                    await guest.mend()
                case "rekey":
                    await guest.rekey()

    def _lock(self, server_id: str) -> asyncio.Lock:
        return self._locks.setdefault(server_id, asyncio.Lock())

    # A guest that shuts itself down

    async def _watch_power(self) -> None:
        # Open for writing too: so there is a reader for ever, and never an end of file.
        self._power = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._power, self._on_power)

    def _on_power(self) -> None:
        for server_id in os.read(self._power, 65536).decode(errors="replace").split():
            if self.alive(server_id):
                task = asyncio.get_running_loop().create_task(self._shut_down(server_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _shut_down(self, server_id: str) -> None:
        self._log.info("server %s shuts down", server_id)
        try:
            async with self._lock(server_id):
                await self._power_off(server_id)
            if self._on_power_off:
                await asyncio.to_thread(self._on_power_off, server_id)
        except Exception:
            self._log.exception("server %s: shutting down failed", server_id)

    # The state directory

    def _lock_state_dir(self) -> IO[str]:
        file = (self._dir / "hypervisor.lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise HypervisorError(f"another local cloud runs with the state directory {self._dir}; use another one or stop it") from None
        return file

    def _instance(self) -> str:
        """What tells this cloud's processes from another's; stays the same over restarts."""
        path = self._dir / "instance"
        if not path.exists():
            temporary = self._dir / "instance.tmp"
            temporary.write_text(uuid.uuid4().hex)
            temporary.rename(path)
        return path.read_text().strip()

    def _write_programs(self) -> None:
        self._bin.mkdir(exist_ok=True)
        for name, text in _PROGRAMS.items():
            (self._bin / name).write_text(text.replace("{fifo}", str(self._fifo).replace("'", "'\\''")))
            (self._bin / name).chmod(0o755)
        self._fifo.unlink(missing_ok=True)
        os.mkfifo(self._fifo, 0o600)


async def _all_reaped(guests: Iterable[Guest]) -> None:
    """Wait until the sessions have noticed that their killed commands have ended."""
    while any(guest.commands for guest in guests):
        await asyncio.sleep(0.002)


def _prepare_process() -> None:
    """Allow many guests' sockets, and see that guests don't inherit signals that a background job ignores."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # exec makes the default of a handler, but leaves an ignored signal ignored


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
