"""How many requests each operation costs: the same for one server as for many, but for deletions."""

from __future__ import annotations

import time

import pytest
from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute.fleet import Fleet
from cml_nova.compute.watch import ServerWatch
from tests.contract.conftest import Job
from tests.harness.cloud import LocalCloud

pytestmark = pytest.mark.local_cloud


@pytest.mark.parametrize("count", [1, 10])
def test_requests_of_a_life(local: LocalCloud, fleet: Fleet, job: Job, count: int) -> None:
    fleet.network_id()
    fleet.all_servers()
    local.forget_calls()
    job.create(count)
    assert local.calls() == {"network GET /security-groups": 1, "network POST /security-groups": 1,
                             "network POST /security-group-rules": 1, "compute POST /servers": 1}
    job.active()
    local.forget_calls()
    servers = job.servers()
    assert local.calls() == {"compute GET /servers/detail": 1}
    local.forget_calls()
    fleet.delete([server.id for server in servers])
    assert local.calls() == {"compute DELETE /servers/{id}": count}
    job.gone()
    local.forget_calls()
    fleet.delete_groups(job.id)
    assert local.calls() == {"network GET /security-groups": 1, "network DELETE /security-groups/{id}": 1}


def test_one_poller_serves_all_jobs(local: LocalCloud, fleet: Fleet, job: Job, conf: cfg.ConfigOpts) -> None:
    job.create(2)
    watch = ServerWatch(fleet, conf)
    watch.start()
    try:
        servers = watch.wait(job.id, lambda now: len(now) == 2 and all(server.ready for server in now), timeout=30)
        assert len(servers) == 2
        local.forget_calls()
        newer_than = time.monotonic()
        with watch.watch(job.id), watch.watch("another"), watch.watch("a third"):
            assert watch.snapshot("another", newer_than) == []
            assert len(watch.snapshot(job.id, newer_than)) == 2
        assert local.calls() == {"compute GET /servers/detail": 1}
    finally:
        watch.stop()


def test_a_create_that_is_answered_by_503_is_asked_for_once(local: LocalCloud, fleet: Fleet, job: Job) -> None:
    local.fault("http", service="compute", method="POST", path="^/servers$", status=503, when="after", count=5)
    with pytest.raises(exception.CloudError):
        job.create(2)
    assert len(job.servers()) == 2
    local.heal()
    job.active()
