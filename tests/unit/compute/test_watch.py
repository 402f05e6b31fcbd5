"""When the watch looks, and what it says to those who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute.fleet import Server, parse_server
from cml_nova.compute.watch import ServerWatch

NEVER = float("-inf")


def server(id_: str, job: str, status: str = "ACTIVE") -> Server:
    return parse_server({"id": id_, "status": status, "tags": [f"cml:job:{job}"]})


class FakeFleet:
    """Gives the servers it is told to, or fails; can hold a look up in the middle."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.error: Exception | None = None
        self.looks = 0
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def all_servers(self) -> list[Server]:
        self.looks += 1
        seen, error = list(self.servers), self.error
        self.began.release()
        assert self.go_on.wait(10)
        if error:
            raise error
        return seen


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def options(conf: cfg.ConfigOpts) -> cfg.ConfigOpts:
    conf.set_override("poll_fast", 0.25, group="cloud")
    conf.set_override("poll_slow", 5.0, group="cloud")
    return conf


@pytest.fixture
def paced(fleet: FakeFleet, options: cfg.ConfigOpts, clock: FakeClock) -> ServerWatch:
    """A watch without a thread: the test looks."""
    return ServerWatch(fleet, options, clock)  # type: ignore[arg-type]


@pytest.fixture
def watch(fleet: FakeFleet, conf: cfg.ConfigOpts) -> Iterator[ServerWatch]:
    """A watch with its thread and the real clock."""
    conf.set_override("poll_fast", 0.05, group="cloud")
    conf.set_override("poll_slow", 0.1, group="cloud")
    made = ServerWatch(fleet, conf)  # type: ignore[arg-type]
    made.start()
    yield made
    fleet.go_on.set()
    made.stop()


def look(watch: ServerWatch, clock: FakeClock) -> None:
    clock.now += 0.001
    watch.look()


def test_nobody_watches_no_looks(paced: ServerWatch, clock: FakeClock) -> None:
    assert paced.next_look() is None
    with paced.watch("j"):
        look(paced, clock)
        assert paced.next_look() is not None
    assert paced.next_look() is None


def test_the_first_look_is_at_once(paced: ServerWatch) -> None:
    with paced.watch("j"):
        assert paced.next_look() == NEVER


def test_the_pace_is_slow_while_nothing_is_expected(paced: ServerWatch, clock: FakeClock) -> None:
    with paced.watch("j"):
        look(paced, clock)
        assert paced.next_look() == pytest.approx(clock.now + 5.0)


def test_the_pace_slows_down_with_the_wait(paced: ServerWatch, clock: FakeClock) -> None:
    with paced.watch("j", expect_change=True):
        gaps = []
        for seconds in (1, 5, 20, 60, 1000):
            clock.now = 1000.0 + seconds
            paced.look()
            due = paced.next_look()
            assert due is not None
            gaps.append(due - clock.now)
    assert gaps == pytest.approx([0.25, 0.25, 1.0, 3.0, 5.0])


def test_the_pace_does_not_depend_on_the_number_of_jobs(paced: ServerWatch, clock: FakeClock, fleet: FakeFleet) -> None:
    with paced.watch("a", expect_change=True):
        look(paced, clock)
        with paced.watch("b", expect_change=True), paced.watch("c", expect_change=True), paced.watch("d"):
            assert paced.next_look() == pytest.approx(clock.now + 0.25)
    assert fleet.looks == 1


def test_asking_again_does_not_speed_it_up(paced: ServerWatch, clock: FakeClock) -> None:
    with paced.watch("j", expect_change=True):
        clock.now += 60
        paced.look()
        with paced.watch("j", expect_change=True):
            assert paced.next_look() == pytest.approx(clock.now + 3.0)


def test_a_slow_cloud_is_asked_less(paced: ServerWatch, clock: FakeClock, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly() -> list[Server]:
        clock.now += 2.0
        return []

    monkeypatch.setattr(fleet, "all_servers", slowly)
    with paced.watch("j", expect_change=True):
        look(paced, clock)
        assert paced.next_look() == pytest.approx(clock.now + 2.0)


def test_failures_slow_it_down(paced: ServerWatch, clock: FakeClock, fleet: FakeFleet) -> None:
    fleet.error = exception.CloudError("503")
    gaps = []
    with paced.watch("j", expect_change=True):
        for _ in range(6):
            look(paced, clock)
            due = paced.next_look()
            assert due is not None
            gaps.append(due - clock.now)
        assert gaps == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0, 5.0])
        fleet.error = None
        look(paced, clock)
        assert paced.next_look() == pytest.approx(clock.now + 0.25)


@pytest.mark.fault("rate-limited")
def test_the_next_look_is_as_late_as_the_cloud_asks_for(paced: ServerWatch, clock: FakeClock, fleet: FakeFleet) -> None:
    fleet.error = exception.CloudError("429", retry_after=9.0)
    with paced.watch("j", expect_change=True):
        look(paced, clock)
        assert paced.next_look() == pytest.approx(clock.now + 9.0)
        fleet.error = exception.CloudError("429", retry_after=3600.0)
        look(paced, clock)
        assert paced.next_look() == pytest.approx(clock.now + 10.0)


def test_a_snapshot_is_of_its_job(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.servers = [server("1", "a"), server("2", "b"), server("3", "a")]
    assert [found.id for found in watch.snapshot("a", NEVER)] == ["1", "3"]
    assert watch.snapshot("c", NEVER) == []
    assert fleet.looks == 1


def test_a_snapshot_does_not_take_a_look_that_began_before(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.go_on.clear()
    results: list[list[Server]] = []
    first = threading.Thread(target=lambda: results.append(watch.snapshot("a", NEVER)))
    first.start()
    assert fleet.began.acquire(timeout=10)
    # A look is on its way that has not seen the server yet.
    fleet.servers = [server("1", "a")]
    newer_than = time.monotonic()
    second = threading.Thread(target=lambda: results.append(watch.snapshot("a", newer_than)))
    second.start()
    fleet.go_on.set()
    first.join(10)
    second.join(10)
    assert sorted(len(found) for found in results) == [0, 1]
    assert fleet.looks == 2


def test_a_failed_look_is_never_an_empty_list(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.error = exception.CloudError("503", status=503)
    with pytest.raises(exception.CloudError, match="503"):
        watch.snapshot("a", NEVER)
    with pytest.raises(exception.CloudError, match="503"):
        watch.wait("a", lambda servers: not servers, timeout=0.5)


def test_a_bug_in_a_look_does_not_stop_the_watch(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.error = KeyError("id")
    with pytest.raises(exception.CloudError):
        watch.snapshot("a", NEVER)
    fleet.error = None
    assert watch.snapshot("a", time.monotonic()) == []


def test_wait_ends_with_the_predicate(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.servers = [server("1", "a", "BUILD")]

    def active(servers: list[Server]) -> bool:
        fleet.servers = [server("1", "a", "ACTIVE")]
        return all(found.status == "ACTIVE" for found in servers)

    assert [found.status for found in watch.wait("a", active, timeout=10)] == ["ACTIVE"]


def test_wait_passes_failed_looks_over(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.servers = [server("1", "a")]
    with watch.watch("a", expect_change=True):
        watch.wait("a", bool, timeout=10)
        fleet.error = exception.CloudError("503")
        assert [found.id for found in watch.wait("a", lambda servers: not servers, timeout=0.3)] == ["1"]


def test_wait_gives_what_there_is_when_the_time_is_up(watch: ServerWatch, fleet: FakeFleet) -> None:
    fleet.servers = [server("1", "a", "BUILD")]
    assert [found.status for found in watch.wait("a", lambda servers: False, timeout=0.3)] == ["BUILD"]


def test_wait_ends_when_it_is_woken(watch: ServerWatch, fleet: FakeFleet) -> None:
    wake = threading.Event()
    done = threading.Event()

    def waits() -> None:
        watch.wait("a", lambda servers: False, timeout=600, wake=wake)
        done.set()

    thread = threading.Thread(target=waits)
    thread.start()
    assert fleet.began.acquire(timeout=10)
    assert watch.snapshot("a", NEVER) == []
    assert not done.is_set()
    wake.set()
    assert done.wait(10)
    thread.join(10)


def test_stopping_lets_nobody_hang(watch: ServerWatch, fleet: FakeFleet) -> None:
    errors: list[Exception] = []

    def waits() -> None:
        try:
            watch.wait("a", lambda servers: False, timeout=600)
        except exception.CloudError as error:
            errors.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    assert fleet.began.acquire(timeout=10)
    watch.stop()
    thread.join(10)
    assert len(errors) == 1


def test_a_change_of_a_watched_job_wakes_it(fleet: FakeFleet, paced: ServerWatch, clock: FakeClock) -> None:
    wake = threading.Event()

    def woken_by(servers: list[Server]) -> bool:
        wake.clear()
        fleet.servers = servers
        clock.now += 5
        paced.look()
        return wake.is_set()

    with paced.watch("a", wake=wake):
        assert woken_by([server("1", "a")])  # the first look tells something
        assert not woken_by([server("1", "a")])
        assert not woken_by([server("1", "a"), server("2", "b")])
        assert woken_by([server("1", "a", "SHUTOFF")])
        fleet.error = exception.CloudError("away")
        assert not woken_by([])
        fleet.error = None
        assert woken_by([])
    assert not woken_by([server("1", "a")])
