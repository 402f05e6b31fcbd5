"""The conductor within a daemon."""

from __future__ import annotations

import socket

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import rpc
from cml_nova.conductor import metrics
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.db.engine import Database
from cml_nova.service import Beat
from cml_nova.storage import get_storage
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)


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
