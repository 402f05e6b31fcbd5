"""Daemons: what they are made of, and how they start, beat and stop."""

from __future__ import annotations

import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import service

from cml_nova import rpc
from cml_nova.compute import session as cloud_session
from cml_nova.compute.fleet import Fleet
from cml_nova.compute.watch import ServerWatch
from cml_nova.conductor import metrics
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import get_storage
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.rpcapi import WorkerClient
from cml_nova.worker.tunnels import LOOK, Tunnels
from cml_nova.worker.work import Tools

LOG = logging.getLogger(__name__)

#: seconds that a thread of a worker may calculate while others wait
_SWITCH_INTERVAL = 0.05


class Beat:
    """Calls a function by the clock in a thread of its own; a failure is logged, the next call comes all the same.

    :param interval: seconds between the end of a call and the next.
    """

    def __init__(self, name: str, interval: float, function: Callable[[], None]) -> None:
        self._function = function
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._function()
            except Exception:
                LOG.exception("%s failed; it is tried again in %s s", self._thread.name, self._interval)
            self._stopped.wait(self._interval)


class Part(Protocol):
    """A service within a daemon."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class ConductorService:
    """The conductor: endpoint on the bus, and what it does by the clock."""

    def __init__(self, conf: cfg.ConfigOpts, transport: messaging.Transport, db: Database) -> None:
        workers = WorkerClient(transport)
        health = Health(conf.conductor.lease_time, conf.conductor.sweep_interval)
        dispatcher = Dispatcher(conf, db, workers, health)
        manager = ConductorManager(conf, db, get_storage(conf), dispatcher)
        # Nobody asks for a certain conductor. One name for all that ever run on a host: the broker keeps a queue for each name.
        self._server = rpc.get_server(transport, rpc.CONDUCTOR_TOPIC, socket.gethostname(), manager)
        periodics = Periodics(conf, db, dispatcher, workers, ConductorClient(transport), health)
        self._beats = [Beat(f.__name__, interval, f) for interval, f in periodics.jobs()]
        self._serve_metrics = lambda: metrics.serve(conf, db)

    def start(self) -> None:
        self._server.start()
        for beat in self._beats:
            beat.start()
        self._serve_metrics()
        LOG.info("The conductor is up")

    def stop(self) -> None:
        for beat in self._beats:
            beat.stop()
        rpc.stop_server(self._server)


class WorkerService:
    """The worker: endpoint on the bus, its jobs, its heartbeat."""

    def __init__(self, conf: cfg.ConfigOpts, transport: messaging.Transport) -> None:
        self._conf = conf
        fleet = Fleet(conf, cloud_session.service_connection(conf))
        self._watch = ServerWatch(fleet, conf)
        conductor = ConductorClient(transport, conf.worker.rpc_timeout)
        tools = Tools(conf, conductor, fleet, self._watch, get_storage(conf), Vault.from_conf(conf))
        host = socket.gethostname()
        worker_id = f"{host}:{uuid.uuid4().hex[:12]}"
        self._manager = WorkerManager(worker_id, host, tools)
        self._server = rpc.get_server(transport, rpc.WORKER_TOPIC, worker_id, self._manager)
        self._tunnels = Tunnels(tools) if conf.tunnel.port else None
        self._beats = [Beat("heartbeat", conf.worker.heartbeat_interval, self._manager.heartbeat)]
        if self._tunnels:
            self._beats.append(Beat("tunnels", LOOK, self._tunnels.look))

    def start(self) -> None:
        # Each thread that waits for the interpreter wakes after so long to ask for it. With thousands of threads, hundreds may wait where
        # the host is short of processor time: at the usual 5 ms their asking alone would take all that there is.
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._watch.start()
        self._manager.announce()  # or nobody would know whose queue that is, if it dies now
        self._server.start()
        for beat in self._beats:
            beat.start()
        if self._tunnels:
            self._tunnels.start()
        LOG.info("Worker %s is up", self._manager.worker_id)

    def stop(self) -> None:
        began = time.monotonic()
        if self._tunnels:
            self._tunnels.stop()
        self._manager.drain(max(0.0, self._conf.worker.drain_timeout - (time.monotonic() - began)))
        for beat in self._beats:
            beat.stop()
        rpc.stop_server(self._server)
        try:
            rpc.delete_queue(self._conf, rpc.WORKER_TOPIC, self._manager.worker_id)
        except rpc.BUS_ERRORS as error:
            LOG.warning("The worker's queue stays on the bus: %s", error)
        self._watch.stop()
        LOG.info("The worker stopped after %.1f s", time.monotonic() - began)


class Daemon(service.Service):
    """One process made of parts, which are started in order and stopped in the opposite one."""

    def __init__(self, *parts: Part) -> None:
        super().__init__()
        self._parts = parts
        self._started = False
        self._stopped = threading.Event()

    def start(self) -> None:
        for part in self._parts:
            part.start()
        self._started = True

    def stop(self, graceful: bool = True) -> None:
        # The signal has interrupted the thread that starts the parts. One that waits for a bus that is away goes on only after this, so
        # it is not waited for; nothing has been taken yet that would have to be handed over.
        if self._started:
            for part in reversed(self._parts):
                part.stop()
        self._stopped.set()

    def wait(self) -> None:
        # oslo.service ends the process from its signal handler, after stop(). The handler runs in this thread, and only when that is awake:
        # a signal that comes just before the thread falls asleep would be seen by nobody.
        while not self._stopped.wait(1.0):
            pass


def run(conf: cfg.ConfigOpts, *parts: Part) -> None:
    """Run parts in this process until SIGTERM or SIGINT. Never a fork: threads and forks don't mix."""
    service.launch(conf, Daemon(*parts), workers=1, no_fork=True)
