"""Daemons of two releases work together while one is replaced by the other, daemon by daemon, and back: no job notices."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))

import servers

from tests.harness.process import Daemon
from tests.harness.service import Daemons
from tests.harness.stack import Stack, make_stack
from tests.harness.training import TICK, Gate, document, ticked
from tests.harness.waiting import until
from tests.services.conftest import url

pytestmark = pytest.mark.timeout(900)

OPTIONS = {"conductor": {"lease_time": 15}}
_REPOSITORY = str(Path(__file__).resolve().parents[2])


class Site:
    """A stack whose daemons are of this release or of the next one, each by itself."""

    def __init__(self, stack: Stack) -> None:
        assert isinstance(stack.service, Daemons)
        self.stack = stack
        self.client = stack.demo
        self.daemons = stack.service
        self.conductors, self.workers = self.daemons.conductors, self.daemons.workers
        self._now = {daemon.name: daemon.command for daemon in (*self.conductors, *self.workers)}
        self._next = {name: ["python", "-m", "tests.harness.next_release", name.split("-")[0], *command[1:]]
                      for name, command in self._now.items()}
        for daemon in (*self.conductors, *self.workers):
            daemon.env["PYTHONPATH"] = _REPOSITORY

    def replace(self, daemon: Daemon, *, later: bool) -> None:
        """Stop a daemon, and begin to start the same of the other release."""
        assert daemon.stop() == 0, daemon.name
        daemon.command = (self._next if later else self._now)[daemon.name]
        self.daemons.start()

    def back(self) -> None:
        """Have all daemons be of this release."""
        for daemon in (*self.conductors, *self.workers):
            if daemon.command != self._now[daemon.name]:
                self.replace(daemon, later=False)
        self.daemons.await_at_work()

    def brief(self, word: str) -> str:
        """Begin a job that prints a word."""
        return self.client.submit(document(name=word, workers=1), {"train.py": f"print({word!r})"})

    def check_brief(self, job_id: str, word: str) -> None:
        assert self.client.succeed(job_id)["attempt"] == 1, self.client.story(job_id)
        assert self.client.log(job_id) == f"{word}\n"


@pytest.fixture(scope="module")
def site_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as cleanup:
        servers.install(["CML_TEST_RABBIT_URL"], directory)
        bus = servers.start_rabbitmq(directory)  # stacks that share one take each other's messages
        cleanup.callback(bus.stop)
        environ = {"CML_TEST_RABBIT_URL": bus.url, "CML_TEST_DATABASE_URL": url("CML_TEST_MYSQL_URL")}
        yield Site(cleanup.enter_context(make_stack(directory / "stack", environ=environ, shape="daemons", options=OPTIONS)))


@pytest.fixture
def site(site_of_module: Site) -> Iterator[Site]:
    with site_of_module.stack.guarded():
        site_of_module.daemons.await_at_work()
        yield site_of_module
        site_of_module.back()


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def written(daemon: Daemon, pattern: str) -> int:
    """Count the lines of a daemon's log that a pattern is found in."""
    return len(re.findall(pattern, daemon.log_path.read_text()))


@pytest.mark.fault("rolling-upgrade")
def test_jobs_run_through_an_upgrade_of_all_daemons_and_back(site: Site, gate: Gate) -> None:
    """In the order that is documented, conductors first, and the other way round; a job is begun at each step of it."""
    client = site.client
    held = [client.submit(document(name=f"held-{i}", env=gate.env), gate.files(TICK)) for i in range(2)]
    cancelled = [client.submit(document(name=f"cancelled-{i}", workers=1, env=gate.env), gate.files(TICK)) for i in range(2)]
    processes = gate.expect(6)
    brief = {}
    order = [*site.conductors, *site.workers]
    for later, daemons in ((True, order), (False, order[::-1])):
        for daemon in daemons:
            site.replace(daemon, later=later)
            site.daemons.await_at_work(daemon)
            word = f"{'after' if later else 'back-from'}-{daemon.name}"
            brief[word] = site.brief(word)
            if daemon is order[1 if later else 2]:  # all conductors are of the next release then, and all workers of this one
                job_id = cancelled.pop()
                client.cancel(job_id)
                assert client.finish(job_id)["status"] == "CANCELLED"
    for word, job_id in brief.items():
        site.check_brief(job_id, word)
    gate.open()
    for job_id in held:
        job = client.succeed(job_id)
        assert (job["attempt"], job["infra_restarts"]) == (1, 0)
        for task in ("worker:0", "worker:1"):
            lines = client.log(job_id, task).splitlines()
            assert lines == ticked(len(lines)), task
    assert gate.visitors == processes, "processes were started again"
    for daemon in site.conductors:
        assert written(daemon, "The colour of job_report is blue"), "the next release's workers said what its conductors understand"
        assert written(daemon, "The colour of job_report is None"), "its conductors heard workers of this one"
    assert sum(written(daemon, "The colour of run is blue") for daemon in site.workers)
    refused = r"does not support RPC version \S+\. Attempted method: run"
    assert sum(written(daemon, refused) for daemon in site.workers), "those of this one refused it"


@pytest.mark.fault("rolling-upgrade")
def test_a_worker_that_is_upgraded_before_the_conductors_waits_for_them(site: Site) -> None:
    early, other = site.workers
    pause = written(early, "the conductors are upgraded before the workers")
    site.replace(early, later=True)
    until(lambda: written(early, "the conductors are upgraded before the workers") > pause, 60, "what it waits for, in its log")
    site.check_brief(site.brief("meanwhile"), "meanwhile")
    assert early.alive and other.alive
    site.replace(site.conductors[0], later=True)
    site.daemons.await_at_work(early)
    # One of two conductors refuses what it says; its jobs get on with the other one.
    assert other.stop() == 0
    site.check_brief(site.brief("mixed"), "mixed")
