"""Cloud and service together, and what has to hold after each test."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tests.harness.base import Cloud, Options
from tests.harness.client import TERMINAL, Client, summary
from tests.harness.cloud import LocalCloud, images_dir
from tests.harness.process import free_port, tail
from tests.harness.service import Service, make_service
from tests.harness.waiting import until

C = TypeVar("C", bound=Cloud)


@dataclass
class Stack(Generic[C]):
    """A cloud, the service on it, and users: of project demo, of another project, and the administrator."""

    cloud: C
    service: Service
    demo: Client
    other: Client
    admin: Client

    @classmethod
    def of(cls, cloud: C, service: Service, endpoint: str | None = None) -> Stack[C]:
        """Make the users' clients, which find the service in the catalog unless its endpoint is given."""
        return cls(cloud, service, *(Client(cloud.session(name), cloud.pace, endpoint) for name in cloud.users))

    def logs(self) -> dict[str, str]:
        """Give the ends of all logs, for a test that failed."""
        return {**{daemon.name: tail(daemon.log_path) for daemon in self.service.daemons}, **self.cloud.logs}

    @contextmanager
    def guarded(self) -> Iterator[Stack[C]]:
        """Hold a test to it: what it started is over at the end, and nothing of it is left in the cloud.

        Jobs that a failed test left behind are cancelled, so that the next test finds the stack as it should be.
        """
        try:
            yield self
        finally:
            self.cloud.heal()
            self.service.start()
            self._end_all_jobs()
            # A job that is done owns nothing: so there is nothing to wait for here.
            leftovers = self.cloud.leftovers()
            assert not leftovers, f"left in the cloud: {leftovers}"

    def _end_all_jobs(self) -> None:
        for client in (self.demo, self.other):
            for job in client.jobs(limit=1000):
                if job["status"] not in TERMINAL:
                    client.cancel(job["id"])
        timeout = 60 * self.cloud.pace.patience
        for client in (self.demo, self.other):
            until(lambda client=client: all(job["status"] in TERMINAL for job in client.jobs(limit=1000)), timeout,  # type: ignore[misc]
                  "the end of all jobs: " + "; ".join(summary(j) for j in client.jobs(limit=1000) if j["status"] not in TERMINAL))


@contextmanager
def make_stack(directory: Path, *, environ: Mapping[str, str] = os.environ, shape: str | None = None,
               options: Options | None = None) -> Iterator[Stack[LocalCloud]]:
    """Start a cloud and the service, and stop them at the end.

    :param shape: standalone or daemons; by default what ``CML_TEST_STACK`` says.
    """
    port = free_port()
    with ExitStack() as cleanup:
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}", images_dir=images_dir())
        cleanup.callback(cloud.stop)
        cloud.start()
        service = make_service(shape or environ.get("CML_TEST_STACK", "standalone"), directory / "service", cloud, port, environ=environ,
                               options=options)
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        yield Stack.of(cloud, service)
