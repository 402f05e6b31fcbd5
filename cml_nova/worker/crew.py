"""The machines of one job: connections that are kept, and what is done on all of them at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Access, Machine, Options
from cml_nova.storage.base import package_key
from cml_nova.worker.threads import Threads
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds between tries to connect to a machine that may be about to come up: first, and at most
_PAUSE_MIN, _PAUSE_MAX = 0.1, 0.5
#: most seconds of such a pause after a machine has answered, but let nobody in
_PAUSE_BUSY = 3.0
#: seconds between looks for GPUs that are missing
_PAUSE_GPUS = 1.0
#: bytes read of a package at a time
_PIECE = 1024 * 1024
#: how much longer than the first one, at most, a try to connect may take
_PATIENCE = 8


class Crew:
    """Connections to the nodes of a job, by rank, made in parallel and as soon as each node is up."""

    def __init__(self, work: Work) -> None:
        self._work = work
        secrets = work.secrets()
        self._private_key: str = secrets["ssh"]
        remote = work.conf.remote
        self._options = Options(dead_after=remote.unreachable_after, max_log_bytes=remote.max_log_bytes, max_files=remote.max_output_files,
                                power_off_after=remote.power_off_after, generation=work.job.generation)
        self._machines: dict[int, tuple[str, Machine]] = {}
        self._coming: dict[int, tuple[str, Future[Machine]]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        size = min(work.conf.remote.parallel, max(2, len(work.job.nodes)))
        self._threads = Threads(size, f"crew-{work.job.id[:8]}")

    def expect(self, rank: int, address: str) -> Future[Machine]:
        """Start to connect to a node whose address is known now, and bring it the code; no node waits for a slower one.

        The same again is the same connection, for as long as it stands. A node that refuses the code makes it a NodeCommandFailed, one
        that has fewer GPUs than its flavor promises a NodeUnfit.
        """
        with self._lock:
            known = self._coming.get(rank)
            if known is None or known[0] != address or _is_over(known[1]):
                known = self._coming[rank] = (address, self._threads.submit(self._welcome, rank, address))
            return known[1]

    def _welcome(self, rank: int, address: str) -> Machine:
        machine = self.connect(rank, address)
        _bring_code(self._work, machine)
        self._check_gpus(rank, machine)
        return machine

    def _check_gpus(self, rank: int, machine: Machine) -> None:
        """See that a node has its GPUs; it may be a while until its driver is loaded."""
        flavor = self._work.job.spec["roles"][self._work.job.layout.nodes[rank].role]["flavor"]
        promised = flavor["accelerators"]["count"] if flavor["accelerators"] else 0
        deadline = time.monotonic() + self._work.conf.remote.unreachable_after
        while promised and not self._closed.is_set():
            found = machine.gpus()
            if found is None or found >= promised:
                return
            if time.monotonic() > deadline:
                raise exception.NodeUnfit(f"its driver shows {found} GPUs, and the flavor {flavor['name']} promises {promised}.")
            self._closed.wait(_PAUSE_GPUS)

    def connect(self, rank: int, address: str) -> Machine:
        """Give the connection to a node, making it for as long as it takes.

        :raises HostKeyRefused: for too long, something else answered under the address.
        :raises NodeUnfit: for too long, the runner did not come up; NodeCommandFailed: it did, and refused us.
        :raises RemoteError: the crew was closed, or the node replaced or dropped meanwhile.
        """
        machine = self._machine(rank, address)
        pause, refused_since, patience = _PAUSE_MIN, None, self._work.conf.remote.connect_timeout
        while not self._closed.is_set() and self._is_current(rank, machine):
            began, answered, soon = time.monotonic(), True, False
            known = machine.connected
            try:
                machine.connect(patience)
                if not known:
                    LOG.debug("Job %s: node %d at %s is connected; its runner was up %.2f s after the login",
                              self._work.job.id, rank, address, machine.startup)
                return machine
            except (exception.HostKeyRefused, exception.NodeUnfit, exception.NodeCommandFailed):
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > self._work.conf.remote.unreachable_after:
                    raise
            except exception.RemoteError as error:
                answered, soon = bool(error.detail.get("answered")), bool(error.detail.get("refused"))
                LOG.debug("Job %s: node %d at %s does not answer yet: %s", self._work.job.id, rank, address, error)
                if time.monotonic() - began > patience / 2:
                    # It does answer, but is too busy to finish in time; cutting it off each time would never get anywhere.
                    patience = min(patience * 2, _PATIENCE * self._work.conf.remote.connect_timeout)
            # A login that fails takes the node's time, too, of which it needs some to get ready.
            self._closed.wait(max(pause, min(_PAUSE_BUSY, time.monotonic() - began) if answered else 0))
            # A machine that refuses has its network up, and its SSH server comes next.
            pause = _PAUSE_MIN if soon else min(_PAUSE_MAX, pause * 1.5)
        raise exception.RemoteError(f"gave up connecting to node {rank} at {address}")

    def each(self, action: Callable[[int, Machine], T], ranks: Iterable[int]) -> dict[int, T | exception.RemoteError]:
        """Do something on several nodes in parallel; a node's RemoteError is its result."""

        def guarded(rank: int) -> T | exception.RemoteError:
            try:
                return action(rank, self.machine(rank))
            except exception.RemoteError as error:
                return error

        futures = {rank: self._threads.submit(guarded, rank) for rank in ranks}
        return {rank: future.result() for rank, future in futures.items()}

    def machine(self, rank: int) -> Machine:
        """Give a node's machine, connected or not. :raises RemoteError: the node has no address."""
        address = self._work.access(self._work.job.nodes[rank])
        if not address:
            raise exception.RemoteError(f"node {rank} has no address")
        return self._machine(rank, address)

    def has_answered(self, rank: int) -> bool:
        """Tell whether a node has ever answered this worker; one that replaces it has not."""
        return self.machine(rank).hello is not None

    def drop(self, rank: int) -> None:
        """Close the connection to a node that is lost."""
        with self._lock:
            self._coming.pop(rank, None)
            known = self._machines.pop(rank, None)
        if known:
            known[1].close()

    def close(self) -> None:
        """Close all connections and give up those being made; what runs on the nodes goes on."""
        self._closed.set()
        with self._lock:
            machines, self._machines = list(self._machines.values()), {}
        for _, machine in machines:
            machine.close()
        self._threads.close()

    def _is_current(self, rank: int, machine: Machine) -> bool:
        with self._lock:
            known = self._machines.get(rank)
        return known is not None and known[1] is machine

    def _machine(self, rank: int, address: str) -> Machine:
        conf, job = self._work.conf.remote, self._work.job
        with self._lock:
            known = self._machines.get(rank)
            if known is None or known[0] != address:
                access = access_to(address, job.spec["image"], conf, self._private_key, job.keys["host"])
                known = self._machines[rank] = (address, Machine(access, conf.root, self._options))
            return known[1]


def access_to(address: str, image: Mapping[str, Any], conf: cfg.ConfigOpts.GroupAttr, private_key: str, host_key: str) -> Access:
    """Say how a node is logged in to, by the job's image and keys.

    :param conf: the group [remote].
    """
    return Access(address=address, port=image.get("ssh_port") or conf.port, user=image.get("ssh_user") or conf.user,
                  private_key=private_key, host_key=host_key)


def _bring_code(work: Work, machine: Machine) -> None:
    """Upload the job's package; a node that has it already takes no second copy."""
    source = work.job.spec.get("source")
    if not source:
        return
    with work.tools.storage.open(package_key(work.job.project_id, source["sha256"])) as package:
        machine.upload("code", source["sha256"], iter(lambda: package.read(_PIECE), b""))


def _is_over(connecting: Future[Machine]) -> bool:
    """Tell whether a connection could not be made, or was made and lost."""
    return connecting.done() and (connecting.exception() is not None or not connecting.result().connected)
