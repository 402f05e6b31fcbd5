"""The worker within a daemon."""

from __future__ import annotations

import gc
import socket
import sys
import time
import uuid

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import rpc
from cml_nova.compute import session as cloud_session
from cml_nova.compute.fleet import Fleet
from cml_nova.compute.watch import ServerWatch
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.secrets import Vault
from cml_nova.service import Beat
from cml_nova.storage import get_storage
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.tunnels import LOOK, Tunnels
from cml_nova.worker.work import Tools

LOG = logging.getLogger(__name__)

#: seconds that a thread of a worker may calculate while others wait
_SWITCH_INTERVAL = 0.05
#: ``gc.set_threshold`` of a worker
_COLLECTIONS = (200_000, 5, 2)


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
        # A list of 2 000 servers is some 200 000 objects. At the usual thresholds each look at a thousand jobs' servers would bring on
        # collections of all that their thousands of threads hold, of up to a second each, in which no job gets on. With these, none of
        # more than 0.05 s came while 60 of them were cancelled.
        gc.set_threshold(*_COLLECTIONS)
        self._watch.start()
        self._manager.announce()  # or nobody would know whose queue that is, if it dies then
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
