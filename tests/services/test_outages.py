"""The service's own database and bus go away for a while, its daemons leave in turn, and their clocks differ: no job notices."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))

import servers
import sqlalchemy as sa
from chaos_wire import Wire

from tests.harness import guests
from tests.harness.service import Daemons
from tests.harness.stack import Stack, make_stack
from tests.harness.training import TICK, WAIT, Gate, document, ticked
from tests.harness.waiting import until
from tests.harness.wall_clock import WallClock

pytestmark = pytest.mark.timeout(900)

#: seconds; longer than drivers may pause between tries to reach the bus again, as it is with the usual times
LEASE = 15
OPTIONS = {"conductor": {"lease_time": LEASE}, "oslo_messaging_rabbit": {"rabbit_interval_max": 4}}
#: seconds that database and bus are away: two lease times, as two minutes are of the usual one
AWAY = 2 * LEASE
DATABASES = {"mariadb": ("CML_TEST_MYSQL_URL", servers.start_mariadb), "postgresql": ("CML_TEST_POSTGRES_URL", servers.start_postgresql)}

#: seconds before a server's start is over in which it may have answered already
STARTING = 1

#: for what concerns the bus and the daemons, and is the same over either database
on_one_database = pytest.mark.parametrize("outage_of_module", ["mariadb"], indirect=True, scope="module")


class Outage:
    """A stack with servers of its own, which may be stopped and started, and a wire to the bus that may be cut."""

    def __init__(self, stack: Stack, database: servers.Private, bus: servers.Private, wire: Wire) -> None:
        assert isinstance(stack.service, Daemons)
        self.stack = stack
        self.client = stack.demo
        self.daemons = stack.service
        self.database = database
        self.bus = bus
        self.wire = wire

    @contextmanager
    def without(self, server: servers.Private) -> Iterator[None]:
        """Have a server away for so long at least, and back at the end."""
        server.halt()
        began = time.monotonic()
        try:
            yield
            time.sleep(max(0.0, AWAY - (time.monotonic() - began)))
        finally:
            assert server.launch is not None
            server.launch()

    @contextmanager
    def failover(self) -> Iterator[None]:
        """Have all connections end and new ones meet a database that only reads, for so long at least; and that again at the end."""
        name = self.daemons.database.name
        engine = sa.create_engine(self.database.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

        def switch(read_only: str) -> None:
            with engine.connect() as connection:
                connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}"))
                connection.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name})

        switch("on")
        began = time.monotonic()
        try:
            yield
            time.sleep(max(0.0, AWAY - (time.monotonic() - began)))
        finally:
            switch("off")

    def start(self) -> None:
        """Start the daemons that do not run, and wait until all are at work."""
        self.daemons.start()
        self.daemons.await_at_work()

    def taken_over(self, job_id: str) -> bool:
        return any(event["kind"] == "lease" for event in self.client.events(job_id))


@pytest.fixture(scope="module", params=list(DATABASES))
def outage_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    directory = tmp_path_factory.mktemp("outage")
    variable, start = DATABASES[request.param]
    with ExitStack() as cleanup:
        servers.install([variable, "CML_TEST_RABBIT_URL"], directory)
        database, bus = start(directory), servers.start_rabbitmq(directory)
        cleanup.callback(database.stop)
        cleanup.callback(bus.stop)
        bus_url = sa.make_url(bus.url)
        wire = cleanup.enter_context(Wire(bus_url.port or 0))
        environ = {"CML_TEST_RABBIT_URL": bus_url.set(port=wire.port).render_as_string(hide_password=False),
                   "CML_TEST_DATABASE_URL": database.url}
        stack = cleanup.enter_context(make_stack(directory / "stack", environ=environ, shape="daemons", options=OPTIONS))
        yield Outage(stack, database, bus, wire)


@pytest.fixture
def outage(outage_of_module: Outage) -> Iterator[Outage]:
    with outage_of_module.stack.guarded():
        outage_of_module.start()
        yield outage_of_module


@pytest.fixture
def gate(outage: Outage) -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def second_gate(outage: Outage) -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def whole(log: str) -> bool:
    lines = log.splitlines()
    return lines == ticked(len(lines))


class Jobs:
    """One job that trains on, one whose training ends during the outage, one that is being built, and one that was just cancelled."""

    def __init__(self, outage: Outage, gate: Gate, second_gate: Gate) -> None:
        self._outage, self._gate, self._second_gate = outage, gate, second_gate
        submit = outage.client.submit
        self.training = submit(document(name="training", env=gate.env), gate.files(TICK))
        self.ending, self.cancelled = (
            submit(document(name=name, workers=1, env=second_gate.env), second_gate.files(WAIT)) for name in ("ending", "cancelled"))
        self.processes = gate.expect(2)
        self.others = second_gate.expect(2)
        for job_id in (self.training, self.ending, self.cancelled):
            outage.client.wait_status(job_id, "RUNNING")
        self.building = submit(document(name="building", workers=1), {"train.py": "print('built')"})
        outage.client.cancel(self.cancelled)

    def go_on(self) -> None:
        """During the outage: the trainings are alive, and one ends."""
        self.check_alive()
        self._second_gate.open()

    def check_alive(self) -> None:
        assert all(guests.alive(process.pid) for process in self.processes)

    def finish(self) -> None:
        client = self._outage.client
        assert client.succeed(self.ending)["attempt"] == 1
        assert client.succeed(self.building)["attempt"] == 1
        assert client.finish(self.cancelled)["status"] == "CANCELLED"
        assert client.log(self.ending) == "started\ngate said go\n"
        assert self._second_gate.visitors == self.others
        size = client.log_size(self.training)
        until(lambda: client.log_size(self.training) > size + 300, 60, "more of the training's log")
        self.check_alive()
        self._gate.open()
        job = client.succeed(self.training)
        assert (job["attempt"], job["infra_restarts"], job["error_restarts"]) == (1, 0, 0)
        assert self._gate.visitors == self.processes, "processes were started again"
        for task in ("worker:0", "worker:1"):
            assert whole(client.log(self.training, task)), task
        assert not any(self._outage.taken_over(job_id) for job_id in (self.training, self.ending, self.building)), \
            "a living worker's job was taken over"


@pytest.mark.fault("database-away")
def test_database_away_while_jobs_are_in_every_phase(outage: Outage, gate: Gate, second_gate: Gate) -> None:
    jobs = Jobs(outage, gate, second_gate)
    with outage.without(outage.database):
        for path in ("/v1/jobs", f"/v1/jobs/{jobs.training}"):
            answer = outage.client.request("GET", path)
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["slug"] == "database_unavailable"
            assert int(answer.headers["Retry-After"]) > 0
        refused = outage.client.request("POST", f"/v1/jobs/{jobs.training}/cancel")
        assert refused.status_code == 503, refused.text
        jobs.go_on()
    until(lambda: outage.client.request("GET", "/v1/jobs").ok, 30, "the API's answer")
    jobs.finish()


@on_one_database
@pytest.mark.fault("bus-away")
def test_bus_away_while_jobs_are_in_every_phase(outage: Outage, gate: Gate, second_gate: Gate) -> None:
    jobs = Jobs(outage, gate, second_gate)
    with outage.without(outage.bus):
        submitted = outage.client.submit(document(name="meanwhile", workers=1), {"train.py": ""})
        jobs.go_on()
    outage.client.succeed(submitted)
    jobs.finish()


@on_one_database
@pytest.mark.fault("bus-restart")
def test_bus_restarts_while_jobs_are_in_every_phase(outage: Outage, gate: Gate, second_gate: Gate) -> None:
    jobs = Jobs(outage, gate, second_gate)
    outage.bus.restart()
    jobs.go_on()
    jobs.finish()


@on_one_database
@pytest.mark.fault("bus-cut")
def test_way_to_the_bus_is_cut_and_nobody_is_told(outage: Outage, gate: Gate, second_gate: Gate) -> None:
    """What was sent meanwhile arrives at the end, when it is long out of date."""
    jobs = Jobs(outage, gate, second_gate)
    outage.wire.cut()
    try:
        jobs.go_on()
        time.sleep(AWAY)
    finally:
        outage.wire.mend()
    jobs.finish()


@pytest.mark.fault("database-failover")
@pytest.mark.parametrize("outage_of_module", ["postgresql"], indirect=True, scope="module")
def test_database_that_only_reads_for_a_while(outage: Outage, gate: Gate, second_gate: Gate) -> None:
    """As the one that was the first until the failover does."""
    jobs = Jobs(outage, gate, second_gate)
    with outage.failover():
        refused = outage.client.request("POST", f"/v1/jobs/{jobs.training}/cancel")
        assert (refused.status_code, refused.json()["error"]["slug"]) == (503, "database_unavailable"), refused.text
        jobs.go_on()
    jobs.finish()


@pytest.mark.fault("worker-killed-in-outage")
@pytest.mark.parametrize("away", ["bus", "database"])
def test_dead_worker_is_found_after_an_outage_too(outage: Outage, gate: Gate, away: str) -> None:
    """Nothing is taken over during the outage and for one lease time after it, but then it is."""
    job_id = outage.client.submit(document(env=gate.env), gate.files(WAIT))
    processes = gate.expect(2)
    outage.client.wait_status(job_id, "RUNNING")
    carriers = [w for w in outage.daemons.workers if f"Job {job_id} goes from".encode() in w.log_path.read_bytes()]
    with outage.without(getattr(outage, away)):
        carriers[0].kill()
    back = time.monotonic()
    until(lambda: outage.client.request("GET", "/v1/jobs").ok, 10, "the API's answer")
    until(lambda: outage.taken_over(job_id), LEASE + 30, "another worker takes the job over")
    assert time.monotonic() - back > LEASE - STARTING, "taken over before all had been well for one lease time"
    gate.open()
    assert outage.client.succeed(job_id)["attempt"] == 1
    assert gate.visitors == processes


@on_one_database
@pytest.mark.fault("stopped-in-outage")
def test_daemons_that_are_stopped_while_the_bus_is_away_end_in_time(outage: Outage, gate: Gate) -> None:
    job_id = outage.client.submit(document(env=gate.env), gate.files(WAIT))
    processes = gate.expect(2)
    outage.client.wait_status(job_id, "RUNNING")
    with outage.without(outage.bus):
        for daemon in (*outage.daemons.workers, *outage.daemons.conductors):
            assert daemon.stop() == 0
    outage.start()
    gate.open()
    assert outage.client.succeed(job_id)["attempt"] == 1
    assert gate.visitors == processes


@on_one_database
@pytest.mark.fault("stopped-in-outage")
def test_worker_that_is_stopped_while_the_cloud_does_not_answer_ends_in_time(outage: Outage) -> None:
    outage.stack.cloud.fault("http", service="compute", method="POST", path="^/servers$", delay=40, count=1)
    job_id = outage.client.submit(document(), {"train.py": ""})
    asks = f"Job {job_id} asks for 2 servers".encode()
    until(lambda: any(asks in worker.log_path.read_bytes() for worker in outage.daemons.workers), 60, "the request for servers")
    for worker in outage.daemons.workers:
        assert worker.stop() == 0
    outage.start()
    outage.client.succeed(job_id, timeout=150)


@on_one_database
@pytest.mark.fault("rolling-restart")
def test_daemons_are_started_anew_in_turn_while_a_dozen_jobs_run(outage: Outage, gate: Gate) -> None:
    client = outage.client
    held = [client.submit(document(name=f"held-{i}", workers=1, env=gate.env), gate.files(TICK)) for i in range(6)]
    brief = [client.submit(document(name=f"brief-{i}", workers=1), {"train.py": f"print({i})"}) for i in range(6)]
    for round_ in range(2):
        for daemon in outage.daemons.daemons:
            assert daemon.stop() in (0, 30), daemon.name  # uWSGI ends with 30 where it is told to by a signal
            outage.start()
        brief.append(client.submit(document(name=f"late-{round_}", workers=1), {"train.py": f"print({6 + round_})"}))
    processes = gate.expect(6)
    gate.open()
    for job_id in held:
        assert client.succeed(job_id)["attempt"] == 1
        assert whole(client.log(job_id))
    for i, job_id in enumerate(brief):
        assert client.succeed(job_id)["attempt"] == 1
        assert client.log(job_id) == f"{i}\n"
    assert gate.visitors == processes


@on_one_database
@pytest.mark.fault("clocks-differ")
def test_workers_whose_clocks_are_hours_apart(outage: Outage, gate: Gate, tmp_path: Path) -> None:
    """What one leaves behind, another one goes on with: a create without an answer, a node out of reach, a job to be cleaned up."""
    client, cloud = outage.client, outage.stack.cloud
    for hours, worker in zip((-1, 1), outage.daemons.workers, strict=True):
        assert worker.stop() == 0
        clock = WallClock(tmp_path / f"clock{hours}")
        clock.set(hours * 3600)
        clock.give_to(worker)
    outage.start()
    try:
        running = client.submit(document(name="running", env=gate.env), gate.files(TICK))
        processes = gate.expect(2)
        cloud.fault("http", service="compute", method="POST", path="^/servers$", status=503, when="after", count=2)
        unclear = [client.submit(document(name=f"unclear-{i}", workers=1, env=gate.env), gate.files(WAIT)) for i in range(2)]
        for worker in outage.daemons.workers:
            # Whoever has it, the other one takes it on.
            assert worker.stop() == 0
            time.sleep(2)
            outage.start()
        client.cancel(unclear[0])
        assert client.finish(unclear[0])["status"] == "CANCELLED"
        gate.expect(3)
        gate.open()
        for job_id in (running, unclear[1]):
            assert client.succeed(job_id)["attempt"] == 1
        assert whole(client.log(running))
        assert gate.visitors[:2] == processes
    finally:
        for worker in outage.daemons.workers:
            worker.stop()
            del worker.env["PYTHONPATH"]
