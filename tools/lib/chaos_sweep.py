"""Proves, kill by kill, that no death of a daemon loses a job or leaves anything of it in the cloud.

``tools/chaos sweep`` runs a job undisturbed and records every side effect of the conductor and the worker: what is sent to the
cloud, done on the nodes, stored, committed and sent over the bus. Then it runs a fresh job for each of these points, during which
the daemon kills itself with SIGKILL just after that side effect, and is started again at once. After each job it compares what is
left with what should be (see chaos_oracle.py). Exit status 1 if anything is not as it should be.

Some side effects hang on time: a node that is too busy to answer a cancel soon has no checkpoint taken. A job that did not come to
its point is judged as all are, and says nothing of the point: that is tried with another job, a few times.

Jobs run on several stacks at once, one job on each: that makes use of the time in which one only waits.
"""

from __future__ import annotations

import argparse
import queue
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import bootstrap
import chaos_directory
import servers
from chaos_jobs import FILES, SCENARIOS, TASKS, Scenario, document
from chaos_ledger import Ledger
from chaos_oracle import Oracle
from chaos_probe import Point
from chaos_stack import ROLES, ChaosStack, chaos_stack

from tests.harness.client import TERMINAL
from tests.harness.waiting import until

T = TypeVar("T")

#: undisturbed jobs that are recorded: points that not every one of them has depend on chance
_RECORDINGS = 3
#: effects whose number depends on the clock, and how many of them are points
_BY_THE_CLOCK = re.compile(r"job_get|worker_heartbeat|\((progress|nodes)\)|write_at|sweep|nudge|room_came_free")
_FIRST_FEW = 1
#: jobs that may pass a point by before it is called one that is never reached
_TRIES = 4
_OVER_SECONDS = 60


@dataclass
class Result:
    """How a job ended during which a daemon was killed.

    :ivar missed: the job did not come to the point.
    :ivar before: how many jobs had been tried before it that had not.
    """

    job: str
    point: Point | None
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    missed: bool = False
    before: int = 0


class Bench:
    """Runs one job after the other on a stack, and judges each."""

    def __init__(self, stack: ChaosStack, ledger: Ledger, rabbit_url: str) -> None:
        self._stack = stack
        self._ledger = ledger
        self._number = 0
        self._package = stack.client.upload(FILES)
        self._oracle = Oracle(stack, ledger, rabbit_url)

    def record(self, job: str) -> list[str]:
        """Run a job undisturbed; give the side effects that it has, in their order.

        :raises AssertionError: something was wrong with the job although nothing was killed.
        """
        result = self.run(job, None)
        assert not result.wrong, f"an undisturbed job: {'; '.join(result.wrong)}"
        effects = _cut(self._stack.board.effects(self._run_name), SCENARIOS[job].points_until)
        return [effect for effect in effects if not any(part in effect for part in SCENARIOS[job].by_chance)]

    def strike(self, job: str, point: Point) -> Result:
        """Run a job, a daemon dying at the point, or as many as it takes for one to come to it; judge each. Give the last one."""
        for before in range(_TRIES):
            result = self.run(job, point)
            result.before = before
            if result.wrong or not result.missed:
                return result
        result.wrong.append(f"{_TRIES} jobs did not come to the point")
        return result

    def run(self, job: str, point: Point | None) -> Result:
        """Run a job, a daemon dying at the point if it comes to that, and judge it when it is over."""
        self._number += 1
        result = Result(job, point)
        began, deaths = time.monotonic(), self._stack.deaths
        try:
            job_id = self._carry(SCENARIOS[job], point)
            result.wrong += self._oracle.judge(SCENARIOS[job], self._run_name, job_id)
        except AssertionError as error:
            result.wrong.append(str(error))
        result.missed = point is not None and not self._struck(deaths)
        more = self._stack.deaths - deaths - (point is not None and not result.missed)
        if more:
            result.wrong.append(f"{more} daemons died that nobody killed")
        self._stack.await_ready()
        result.wrong += self._oracle.bus()
        result.seconds = time.monotonic() - began
        return result

    def leftovers(self) -> list[str]:
        """List what all the deaths together have left behind."""
        return self._oracle.queues_of_the_dead()

    def kill(self) -> None:
        """End the service at once, and with it what is under way here."""
        self._stack.service.kill()

    @property
    def _run_name(self) -> str:
        return f"run{self._number}"

    def _carry(self, scenario: Scenario, point: Point | None) -> str:
        """Bring a job to its end; give its id."""
        client, board, run = self._stack.client, self._stack.board, self._run_name
        board.begin(run if scenario.act is None else f"{run}-before", point if scenario.act is None else None)
        job_id = client.submit({**document(scenario, run, self._ledger), "source": {"package": self._package}})
        if scenario.act:
            client.wait_status(job_id, "RUNNING", timeout=_OVER_SECONDS)
            until(lambda: sum(entry.attempt > 0 for entry in self._ledger.entries(run)) == len(TASKS), 30, "processes of the training")
            until(lambda: all(client.log_size(job_id, task) for task in TASKS), 30, "logs of all processes")
            board.begin(run, point)
            scenario.act(self._stack, self._ledger, run, job_id)
        client.wait(job_id, lambda seen: seen["status"] in TERMINAL, _OVER_SECONDS)
        return job_id

    def _struck(self, before: int) -> bool:
        """Tell whether a daemon died at the point. What a job does last, it may do when its end is known already."""
        def died() -> bool:
            return self._stack.board.killed(self._run_name) and self._stack.deaths > before

        try:
            until(died, 5, "a death")
        except AssertionError:
            return False
        return True


def _cut(effects: list[str], last: str | None) -> list[str]:
    """Leave out what comes after the last effect that has ``last`` in its name."""
    return effects[:max(i for i, effect in enumerate(effects, 1) if last in effect)] if last else effects


def points_of(runs: Sequence[Sequence[str]]) -> list[Point]:
    """Give the points that all recordings have, in the order of the first."""
    counts = [Counter(run) for run in runs]
    points, seen = [], Counter[str]()
    for name in runs[0]:
        seen[name] += 1
        most = min(count[name] for count in counts)
        if seen[name] <= (min(most, _FIRST_FEW) if _BY_THE_CLOCK.search(name) else most):
            points.append(Point(name, seen[name]))
    return points


def chosen(points: Sequence[Point], roles: Sequence[str], which: str | None, stride: int) -> list[tuple[int, Point]]:
    """Pick points by the role of the daemon, and by a part of the name or the number in the list."""
    mine = [(place, point) for place, point in enumerate(points, 1) if point.name.split()[0] in roles]
    if which is not None and which.isdigit():
        mine = [(place, point) for place, point in mine if place == int(which)]
    elif which is not None:
        mine = [(place, point) for place, point in mine if which in str(point)]
    return mine[::stride]


class Benches:
    """Benches that work side by side.

    :param count: of benches that are added.
    """

    def __init__(self, count: int) -> None:
        self._benches: list[Bench] = []
        self._idle: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(count, "bench")

    def add(self, bench: Bench) -> None:
        """Have one more at work."""
        self._benches.append(bench)
        self._idle.put(bench)

    def submit(self, work: Callable[[Bench], T]) -> Future[T]:
        """Have the next bench that is idle do something."""
        def on_one() -> T:
            bench = self._idle.get()
            try:
                return work(bench)
            finally:
                self._idle.put(bench)

        return self._pool.submit(on_one)

    def leftovers(self) -> list[str]:
        """List what all the deaths together have left behind."""
        return [text for found in self._pool.map(lambda bench: bench.leftovers(), self._benches) for text in found]

    def stop(self, why: type[BaseException] | None, *_: object) -> None:
        """Begin nothing more. Where something has gone wrong, or somebody wants the end now, what is under way fails at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if why:
            for bench in self._benches:
                bench.kill()

    def close(self) -> None:
        """Wait for the end of what is under way."""
        self._pool.shutdown()


@contextmanager
def make_benches(directory: Path, count: int) -> Iterator[Benches]:
    """Start servers, stacks and ledgers. Queues have the same names in each stack, so each has a broker of its own."""
    with ExitStack() as cleanup:
        benches = Benches(count)
        cleanup.callback(benches.close)
        logs = directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        database_url = cleanup.enter_context(servers.all_servers(logs, ["CML_TEST_MYSQL_URL"]))["CML_TEST_MYSQL_URL"]
        for number in range(1, count + 1):
            place = directory / f"stack-{number}"
            place.mkdir()
            broker = servers.start_rabbitmq(place)
            cleanup.callback(broker.stop)
            stack = cleanup.enter_context(chaos_stack(place, broker.url, database_url))
            benches.add(Bench(stack, cleanup.enter_context(Ledger()), broker.url))
        cleanup.push(benches.stop)
        yield benches


def sweep(options: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> tuple[list[Result], list[str]]:
    """Do what the command line asks for; give a result for each point, and what is left at the end."""
    results: list[Result] = []
    roles = [options.role] if options.role else ROLES
    with make_benches(directory, options.stacks) as benches:
        for job in options.job or SCENARIOS:
            began = time.monotonic()
            recordings = [benches.submit(lambda bench, job=job: bench.record(job)) for _ in range(_RECORDINGS)]  # type: ignore[misc]
            points = points_of([recording.result() for recording in recordings])
            say(f"{job}: {len(points)} points, recorded in {time.monotonic() - began:.1f} s")
            picked = chosen(points, roles, options.points, options.stride)
            if options.list:
                for place, point in picked:
                    say(f"{place:4}  {job:6}  {point}")
                continue
            running = [(place, benches.submit(lambda bench, job=job, point=point: bench.strike(job, point)))  # type: ignore[misc]
                       for place, point in picked]
            results += [_told(place, future.result(), say) for place, future in running]
        leftovers = benches.leftovers()
    return results, leftovers


def _told(place: int, result: Result, say: Callable[[str], None]) -> Result:
    """Print a result, and give it back."""
    before = f" ({result.before} jobs before did not come to it)" if result.before else ""
    say(f"{place:4}  {result.job:6}  {'FAILED' if result.wrong else 'ok    '} {result.seconds:5.1f} s  {result.point}{before}")
    for text in result.wrong:
        say(f"      {text}")
    return result


def summary(results: Sequence[Result]) -> str:
    """Give a table: points, failures and times by job and role."""
    lines = [f"{'job':8}{'role':12}{'points':>8}{'failed':>8}{'median':>10}{'longest':>10}{'all':>10}"]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        assert result.point
        groups.setdefault((result.job, result.point.name.split()[0]), []).append(result)
    for (job, role), group in groups.items():
        seconds = [result.seconds for result in group]
        lines.append(f"{job:8}{role:12}{len(group):8}{sum(bool(result.wrong) for result in group):8}"
                     f"{median(seconds):8.1f} s{max(seconds):8.1f} s{sum(seconds):8.0f} s")
    return "\n".join(lines)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's options."""
    command = commands.add_parser("sweep", help="record the points of a job, and kill at each", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--job", choices=list(SCENARIOS), action="append",
                         help="a training that succeeds; one that is cancelled while it runs: then the points are those after the cancel; "
                              "one that fails and is started again, one that loses a node: then they are those until all processes run "
                              "again. May be given several times; all of them by default")
    command.add_argument("--role", choices=ROLES, help="whom to kill; each of them by default")
    command.add_argument("--points", metavar="TEXT|N", help="only points with this in their name, or the one of this number in --list")
    command.add_argument("--stride", type=int, default=1, metavar="K", help="only every K-th point")
    command.add_argument("--stacks", type=int, default=2, metavar="N", help="on how many stacks at once; %(default)s by default")
    command.add_argument("--list", action="store_true", help="record and print the points; kill nothing")
    chaos_directory.add_argument(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    with chaos_directory.given_or_passing(options.directory) as directory:
        results, leftovers = sweep(options, directory, bootstrap.say)
    if results:
        bootstrap.say("\n" + summary(results))
    failed = [result for result in results if result.wrong]
    for result in failed:
        bootstrap.say(f"FAILED: {result.job}: {result.point}; again with: tools/chaos sweep --job {result.job} --points '{result.point}'")
    for text in leftovers:
        bootstrap.say(f"FAILED: at the end, {text}")
    if not results and not options.list:
        bootstrap.say("No point was chosen.")
    return 1 if failed or leftovers or not (results or options.list) else 0
