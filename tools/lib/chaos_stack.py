"""The stack that a sweep runs on: a cloud, an API, and one conductor and one worker that rise again as soon as they die."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_probe import Board

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.process import Daemon, free_port
from tests.harness.service import Daemons
from tests.harness.waiting import until

ROLES = ("worker", "conductor")
_LAUNCHER = Path(__file__).with_name("chaos_daemon.py")
#: short, so that a death costs seconds. Nothing but jobs may clean up what they leave behind: no look for orphans
OPTIONS: dict[str, dict[str, Any]] = {
    "cloud": {"poll_fast": 0.1, "poll_slow": 0.5, "settle_time": 1, "request_timeout": 5, "floating_network": "local-external"},
    "conductor": {"lease_time": 2.5, "sweep_interval": 0.3, "orphan_interval": 3600},
    "worker": {"heartbeat_interval": 0.4, "rpc_timeout": 2},
}


class Phoenix:
    """A daemon that is started again at once whenever it dies. A successor stands by, loaded already.

    :param board: where it tells of its side effects.
    :param arguments: of the daemon.
    """

    def __init__(self, role: str, board: Board, log_path: Path, arguments: list[str], env: dict[str, str]) -> None:
        self.name = role
        self.log_path = log_path
        self.deaths = 0
        self._board = board
        self._arguments = arguments
        self._env = env
        self._number = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._active: Daemon | None = None
        self._next: tuple[Daemon, Path] | None = None
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{role}", daemon=True)

    @property
    def alive(self) -> bool:
        """It counts as alive as long as it rises again."""
        return self._active is not None

    @property
    def ready(self) -> bool:
        """Tell whether the living one is at work."""
        with self._lock:
            return self._active is not None and self._active.alive and self._board.up(self._active.pid)

    def start(self) -> None:
        self._stand_by()
        self._promote()
        self._watcher.start()

    def stop(self) -> None:
        self._rest()
        if self._active:
            self._active.stop()

    def kill(self) -> None:
        """End it for good, the way that leaves it no time for anything."""
        self._rest()
        if self._active and self._active.alive:
            self._active.kill()

    def _rest(self) -> None:
        """Have it rise no more."""
        self._stopping.set()
        if self._watcher.ident:
            self._watcher.join()
        if self._next and self._next[0].alive:
            self._next[0].kill()

    def check(self) -> None:
        """Nothing: whether a death was meant is the sweep's business."""

    def _stand_by(self) -> None:
        self._number += 1
        go = self._board.directory / f"go-{self.name}-{self._number}"
        command = ["python", str(_LAUNCHER), self.name, str(self._board.directory), str(go), *self._arguments]
        daemon = Daemon(f"{self.name}-{self._number}", command, self.log_path, self._env)
        daemon.start()
        self._next = daemon, go

    def _promote(self) -> None:
        assert self._next
        with self._lock:
            self._active, go = self._next
            go.touch()
        self._stand_by()

    def _watch(self) -> None:
        while not self._stopping.wait(0.02):
            if self._active and not self._active.alive:
                self.deaths += 1
                self._promote()


class ChaosService(Daemons):
    """The service with one conductor and one worker that tell of their side effects and rise again."""

    def __init__(self, directory: Path, cloud: LocalCloud, port: int, rabbit_url: str, database_url: str, board: Board) -> None:
        super().__init__(directory, cloud, port, rabbit_url, database_url, OPTIONS, conductors=0, workers=0)
        # The launcher is a script: it finds the product and this tool's modules by the path alone.
        path = os.pathsep.join([str(_LAUNCHER.parents[2]), str(_LAUNCHER.parent)])
        arguments = ["--config-file", str(self.config_file)]
        self.phoenixes = {role: Phoenix(role, board, directory / f"{role}.log", arguments, {**self.env, "PYTHONPATH": path})
                          for role in ROLES}

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.phoenixes.values(), self.api]  # type: ignore[list-item]


@dataclass
class ChaosStack:
    """All that a sweep has in its hands."""

    cloud: LocalCloud
    service: ChaosService
    board: Board
    client: Client
    lease_time: float = OPTIONS["conductor"]["lease_time"]

    def await_ready(self) -> None:
        """Wait until both daemons are at work."""
        for phoenix in self.service.phoenixes.values():
            until(lambda phoenix=phoenix: phoenix.ready, 60, f"a {phoenix.name} that is at work")  # type: ignore[misc]

    @property
    def deaths(self) -> int:
        return sum(phoenix.deaths for phoenix in self.service.phoenixes.values())


@contextmanager
def chaos_stack(directory: Path, rabbit_url: str, database_url: str) -> Iterator[ChaosStack]:
    """Start everything, and stop it at the end."""
    port = free_port()
    board = Board(directory / "board")
    board.begin("start", None)
    with ExitStack() as cleanup:
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}", args=("--delete-time", "0.3"))
        cleanup.callback(cloud.stop)
        cloud.start()
        service = ChaosService(directory / "service", cloud, port, rabbit_url, database_url, board)
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        stack = ChaosStack(cloud, service, board, Client(cloud.session("local"), cloud.pace))
        stack.await_ready()
        yield stack
