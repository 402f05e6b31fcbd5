"""A conductor or worker of the release after this one: ``python -m tests.harness.next_release ROLE [arguments of the daemon]``.

It is ours, but for what goes over the bus. There it understands and uses what came with the next minor version, and its documents say more.
"""

from __future__ import annotations

import sys
from typing import Any

from cml_nova.cmd import conductor, worker  # first: it chooses the threads that all of it runs in

# isort: split
import oslo_messaging as messaging
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import rpc
from cml_nova.conductor import service as conductor_service
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.worker import service as worker_service
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)

Context = cml_context.RequestContext
#: what is new, wherever something is
MORE = {"colour": "blue"}
#: how the log says that it came over the bus
CAME = "The colour of %s is %s"


def after(topic: str) -> str:
    """Give the minor version after ours."""
    major, minor = rpc.VERSIONS[topic].split(".")
    return f"{major}.{int(minor) + 1}"


class NextConductor(ConductorManager):
    target = messaging.Target(version=after(rpc.CONDUCTOR_TOPIC))

    def job_get(self, context: Context, job_id: str, generation: int) -> dict[str, Any]:
        return {**super().job_get(context, job_id, generation), **MORE}

    def job_report(self, context: Context, job_id: str, generation: int, report: dict[str, Any],
                   colour: str | None = None) -> dict[str, Any]:
        LOG.info(CAME, "job_report", colour)
        return {**super().job_report(context, job_id, generation, report), **MORE}

    def worker_heartbeat(self, context: Context, worker: dict[str, Any], held: dict[str, int],
                         colour: str | None = None) -> list[dict[str, Any]]:
        LOG.info(CAME, "worker_heartbeat", colour)
        return [{**holding, **MORE} for holding in super().worker_heartbeat(context, worker, held)]


class NextConductorClient(ConductorClient):
    def job_report(self, context: Context, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        client = self._client.prepare(version=after(rpc.CONDUCTOR_TOPIC))
        return dict(client.call(context, "job_report", job_id=job_id, generation=generation, report={**report, **MORE}, **MORE))

    def worker_heartbeat(self, context: Context, worker: dict[str, Any], held: dict[str, int],
                         timeout: float | None = None) -> list[dict[str, Any]]:
        client = self._client.prepare(version=after(rpc.CONDUCTOR_TOPIC), **({"timeout": timeout} if timeout else {}))
        return list(client.call(context, "worker_heartbeat", worker={**worker, **MORE}, held=held, **MORE))


class NextWorker(WorkerManager):
    target = messaging.Target(version=after(rpc.WORKER_TOPIC))

    def run(self, context: Context, job_id: str, generation: int, colour: str | None = None) -> None:
        LOG.info(CAME, "run", colour)
        super().run(context, job_id, generation)


class NextWorkerClient(WorkerClient):
    def run(self, context: Context, worker_id: str, job_id: str, generation: int) -> None:
        client = self._client.prepare(server=worker_id, version=after(rpc.WORKER_TOPIC))
        client.cast(context, "run", job_id=job_id, generation=generation, **MORE)


def main(role: str, *arguments: str) -> None:
    """Run the daemon, made of the parts above."""
    for module, parts in ((conductor_service, (NextConductor, NextConductorClient, NextWorkerClient)),
                          (worker_service, (NextWorker, NextConductorClient))):
        for part in parts:
            setattr(module, part.__base__.__name__, part)
    sys.argv = [f"cml-nova-{role}", *arguments]
    {"conductor": conductor.main, "worker": worker.main}[role]()


if __name__ == "__main__":
    main(*sys.argv[1:])
