"""A node that does not answer while it is made ready."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova.compute.fleet import Server
from cml_nova.worker.steps import bootstrap

NODE = {"rank": 0, "role": "worker", "index": 0, "address": "10.0.0.1", "server_id": "a"}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bootstrap, "_TICK", 0)
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    active = Server("a", "a", "ACTIVE", "10.0.0.1", None, "job", 0, 1, None)
    watch = SimpleNamespace(latest=lambda job_id, newer_than: [active])
    job = SimpleNamespace(id="job", nodes=[NODE], attempt=0, infra_restarts=0, phase_seconds=601)
    return SimpleNamespace(conf=conf, job=job, tools=SimpleNamespace(watch=watch), ended_early=lambda: False)


def test_one_that_never_answered_fails_the_job(work: Any) -> None:
    with pytest.raises(bootstrap._NotReady, match="did not answer by SSH within 600 s"):
        bootstrap._await(work, Future(), NODE, 0.0)


def test_one_that_has_worked_before_is_replaced(work: Any) -> None:
    work.job.attempt = 1
    with pytest.raises(bootstrap._Lost) as lost:
        bootstrap._await(work, Future(), NODE, 0.0)
    assert lost.value.nodes == {0: "it has not answered by SSH for 600 s"}
