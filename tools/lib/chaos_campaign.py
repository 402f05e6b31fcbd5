"""Proves, fault by fault, that none of them, however many come together, loses a job or leaves anything of it in the cloud.

``tools/chaos campaign`` runs many jobs at once on a local cloud with separate daemons over RabbitMQ and MariaDB, while faults of all
kinds strike: of daemons, bus, database, cloud, nodes and processes. Jobs and faults are drawn from a seed. Each job is held to
the end that is right for it, all the time and at the end it is asked who owns what. Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from random import Random
from typing import Any

import bootstrap
import chaos_directory
from chaos_faults import KINDS, LONG_CUT, LONG_OUTAGE, Kind, draw_fault
from chaos_load import FILES, Job, draw_job, has_passed
from chaos_verdict import Judge, over
from chaos_world import World, make_world, patiently

from tests.harness.waiting import until

#: seconds between looks at all jobs and at the cloud
_LOOK_EVERY = 0.7
#: seconds in which a job has to be over
_DEADLINE = 600.0
#: faults that come to each job, where nothing else is said
_FAULTS_PER_JOB = 4
#: faults that are going on at a time, at most, and the seconds between two: with fewer hardly any job would get anywhere
_AT_ONCE, _PAUSES = 10, (0.25, 1.0)
#: campaigns of more jobs than this have faults that last two minutes as well
_LONG_FROM = 200
_HEALTHY_WITHIN = 120.0


@dataclass
class Record:
    """What has come of a job."""

    job: Job
    status: str
    seconds: float
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """Jobs and faults, side by side.

    :param jobs: how many; None for as many as there is time for.
    :param faults: how many strike at least; None for some for each job.
    :param kinds: of faults that are drawn.
    :param until_time: monotonic time after which nothing more begins.
    """

    def __init__(self, world: World, seed: int, jobs: int | None, faults: int | None, kinds: Sequence[Kind], until_time: float,
                 say: Callable[[str], None]) -> None:
        self._world, self._seed, self._say_alone = world, seed, say
        self._until = until_time
        self._jobs = jobs
        self._kinds = kinds
        self._rate = faults / jobs if faults and jobs else _FAULTS_PER_JOB
        self._judge = Judge(world)
        self._package = world.client.upload(FILES)
        self._numbers = itertools.count()
        self._seen: dict[str, dict[str, Any]] = {}
        self._leaks: dict[str, str] = {}
        self._lock, self._speech = threading.Lock(), threading.Lock()
        self._begun = 0
        self._over = threading.Event()
        self.records: list[Record] = []
        self.struck: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, concurrent: int) -> None:
        """Let everything happen, and judge the end.

        :param concurrent: how many jobs there are at a time.
        """
        threads = [threading.Thread(target=self._guarded, args=(work,), name=work.__name__)
                   for work in (self._keep_alive, self._watch, self._strike_all)]
        for thread in threads:
            thread.start()
        try:
            with ThreadPoolExecutor(concurrent, "job") as pool:
                futures = [pool.submit(self._guarded, self._one_after_the_other) for _ in range(concurrent)]
                try:
                    wait(futures)
                except BaseException:
                    self._over.set()  # or the pool would wait for jobs
                    raise
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        self._say("all jobs are over, all faults are healed")
        until(self._well, _HEALTHY_WITHIN, "daemons that are well")
        self.wrong += [*self._world.died, *self._judge.end()]

    def _say(self, text: str) -> None:
        with self._speech:
            self._say_alone(text)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not self._over.is_set():
                self._say(f"THE CAMPAIGN ITSELF FAILED: {type(error).__name__}: {error}\n{traceback.format_exc()}")
                self.wrong.append(f"the campaign itself failed: {type(error).__name__}: {error}")
            self._over.set()
            raise

    # jobs

    def _one_after_the_other(self) -> None:
        while time.monotonic() < self._until and not self._over.is_set():
            if self.struck.total() < len(self.records) * self._rate:
                time.sleep(0.1)  # the faults have to keep up, or there would be none for the last jobs
                continue
            number = next(self._numbers)
            if self._jobs is not None and number >= self._jobs:
                return
            self._carry(number)

    def _carry(self, number: int) -> None:
        """Bring a job to its end, and judge it."""
        world = self._world
        job = world.jobs[number] = draw_job(self._seed, number, world.ledger.address, self._package)
        began = time.monotonic()
        with world.submitting:
            job.id = world.client.submit(job.document)
        with self._lock:
            self._begun += 1
        seen = self._await(job, lambda seen: job.cancel_at is None or over(seen) or has_passed(seen["status"], job.cancel_at[0]), began)
        if job.cancel_at and not over(seen):
            time.sleep(job.cancel_at[1])
            world.client.cancel(job.id)
        seen = self._await(job, over, began)
        if over(seen):
            wrong = self._judged(job)
        else:
            wrong = [f"stuck: {seen['status']} after {_DEADLINE:.0f} s ({seen['status_reason']})"]
            world.client.cancel(job.id)
        with self._lock:
            wrong += [self._leaks.pop(job.id)] if job.id in self._leaks else []
            self.records.append(Record(job, seen["status"], time.monotonic() - began, wrong))
        self._tell(job, seen, wrong)

    def _judged(self, job: Job) -> list[str]:
        try:
            return self._judge.job(job, self._world.client.job(job.id))
        except AssertionError as error:
            return [f"lost: not all of it can be read: {error}"]

    def _await(self, job: Job, wanted: Callable[[dict[str, Any]], bool], began: float) -> dict[str, Any]:
        """Wait for a job to be as wanted, but not for ever; give it as it was seen last."""
        while True:
            seen = self._seen.get(job.id)
            if seen and (wanted(seen) or time.monotonic() - began > _DEADLINE):
                return seen
            time.sleep(0.1)
            if self._over.is_set():
                raise AssertionError(f"the campaign was stopped while {job.run} was {seen and seen['status']}")
            if time.monotonic() - began > 2 * _DEADLINE:
                raise AssertionError(f"{job.run} ({job.id}) is in no list of jobs")

    def _tell(self, job: Job, seen: dict[str, Any], wrong: list[str]) -> None:
        self._say(f"{len(self.records):4} {self.struck.total():5}  {job.run:8} {job.kind.name:24} {seen['status']:10} "
                  f"{'WRONG' if wrong else 'ok'}")
        if wrong:
            self._say(story(self._world, job, wrong))

    # looks

    def _keep_alive(self) -> None:
        """Start daemons that have ended by themselves."""
        while not self._over.wait(_LOOK_EVERY):
            self._world.revive()

    def _watch(self) -> None:
        """Look at all jobs and at the cloud, again and again."""
        since = time.time() - 60
        while not self._over.wait(_LOOK_EVERY):
            began = time.time()
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
            for job in self._world.client.jobs(limit=1000, changes_since=at):
                self._seen[job["id"]] = job
            since = began - 5
            ended = {job_id for job_id, seen in list(self._seen.items()) if over(seen)}
            leaks = self._judge.leaked(ended)
            with self._lock:
                self._leaks.update(leaks)

    def _well(self) -> bool:
        self._world.revive()
        return all(daemon.alive for daemon in self._world.service.daemons) and patiently(lambda: True)

    # faults

    def _strike_all(self) -> None:
        """Strike as many faults as the jobs that have begun so far are good for."""
        allowed = threading.BoundedSemaphore(_AT_ONCE)
        pause = Random(f"{self._seed} pauses")
        with ThreadPoolExecutor(_AT_ONCE, "fault") as pool:
            futures = [pool.submit(self._guarded, work) for work in self._long_faults()]
            for number in itertools.count():
                # half of a job's at its begin, half at its end: so the first jobs do not get those of many all at once
                while self.struck.total() >= (self._begun + len(self.records)) / 2 * self._rate and not self._over.is_set():
                    time.sleep(0.1)
                allowed.acquire()
                if self._over.is_set() or time.monotonic() > self._until:
                    break
                kind, lasts, draw = draw_fault(self._seed, number, self._kinds)
                future = pool.submit(self._guarded, lambda k=kind, s=lasts, d=draw: self._strike(k, s, d))  # type: ignore[misc]
                future.add_done_callback(lambda _: allowed.release())
                futures.append(future)
                self._over.wait(pause.uniform(*_PAUSES))
        for future in futures:
            future.result()

    def _long_faults(self) -> list[Callable[[], None]]:
        """Give what goes on beside the rest in a long campaign: things that are away for two minutes, one after the other."""
        if (self._jobs or _LONG_FROM) < _LONG_FROM or len(self._kinds) < len(KINDS):
            return []

        def one_after_the_other() -> None:
            for number, kind in enumerate((LONG_CUT, LONG_OUTAGE, LONG_CUT)):
                self._over.wait(60)
                while not self._over.is_set() and not self._strike(kind, kind.lasts[0], Random(f"{self._seed} long fault {number}")):
                    self._over.wait(1)

        return [one_after_the_other]

    def _strike(self, kind: Kind, lasts: float, draw: Random) -> bool:
        """Let a fault strike and heal; tell whether it struck anything."""
        fault = kind.make(self._world, draw)
        try:
            began = time.strftime("%H:%M:%S")
            struck = patiently(fault.strike)
            if struck:
                self._over.wait(lasts)
                struck = fault.heal()
        finally:
            fault.release()
        if struck:
            with self._lock:
                self.struck[kind.name] += 1
                with (self._world.directory / "faults.log").open("a") as log:
                    log.write(f"{began} to {time.strftime('%H:%M:%S')}  {kind.name}: {fault.victim}\n")
        return struck


def story(world: World, job: Job, wrong: list[str]) -> str:
    """Tell all that helps to find what went wrong with a job."""
    lines = [f"      {job.run} is {job.id}: {job.document['name']}, {job.document['workers']} nodes"]
    lines += [f"      WRONG {text}" for text in wrong]
    now = time.monotonic()
    for entry in world.ledger.entries(job.run):
        began, ended = (time.strftime("%H:%M:%S", time.localtime(time.time() - now + at)) if at else "now"
                        for at in (entry.began, entry.ended))
        lines.append(f"      ran from {began} to {ended}: {entry.task} of attempt {entry.attempt} in {entry.place}")
    lines += [f"      hurt at {text}" for text in job.hurt]
    lines += [f"      cancelled {job.cancel_at[1]:.1f} s after {job.cancel_at[0]}"] if job.cancel_at else []
    lines += ["    " + line for line in world.client.story(job.id).splitlines()]
    return "\n".join([*lines, f"      logs: {world.directory}/service/*.log, {world.directory}/faults.log"])


def summary(campaign: Campaign) -> str:
    """Give tables: jobs by kind and outcome, faults by kind, what was wrong by kind."""
    lines = [f"{'jobs':28}{'number':>8}{'wrong':>8}{'median':>10}{'longest':>10}  outcomes"]
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in campaign.records:
        by_kind[record.job.kind.name].append(record)
    for kind, records in [*sorted(by_kind.items()), ("all", campaign.records)]:
        seconds = sorted(record.seconds for record in records)
        outcomes = ", ".join(f"{count} {status}" for status, count in Counter(record.status for record in records).most_common())
        lines.append(f"{kind:28}{len(records):8}{sum(bool(record.wrong) for record in records):8}{seconds[len(seconds) // 2]:8.1f} s"
                     f"{seconds[-1]:8.1f} s  {outcomes}")
    lines += ["", f"{'faults':36}{'number':>8}", *(f"{kind:36}{count:8}" for kind, count in sorted(campaign.struck.items())),
              f"{'all':36}{campaign.struck.total():8}", "", f"{'violations':36}{'number':>8}"]
    texts = [text for record in campaign.records for text in record.wrong] + campaign.wrong
    counts = Counter(text.partition(":")[0] for text in texts)
    for kind in ("leaked", "lost", "stuck", "stuck row", "wrong outcome", "wrong log", "wrong metrics", "run twice", "run at once"):
        lines.append(f"{kind:36}{counts.pop(kind, 0):8}")
    return "\n".join([*lines, *(f"{kind[:36]:36}{count:8}" for kind, count in sorted(counts.items()))])


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's options."""
    command = commands.add_parser("campaign", help="many jobs at once while faults of all kinds strike", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--seed", type=int, default=random.randrange(10**6),
                         help="what jobs and faults are drawn from: the same seed gives the same jobs, and the same faults in the same "
                              "order. Whom a fault meets depends on who is there at that moment. By default a new one, which is printed")
    command.add_argument("--jobs", type=int, metavar="N", help="how many jobs; 60 by default, or as many as there is time for")
    command.add_argument("--faults", type=int, metavar="N",
                         help=f"how many faults strike at least; {_FAULTS_PER_JOB} for each job by default")
    command.add_argument("--kind", action="append", metavar="NAME", choices=[kind.name for kind in KINDS],
                         help="a kind of fault that strikes; all kinds by default. May be given more than once: "
                              + ", ".join(kind.name for kind in KINDS))
    command.add_argument("--seconds", type=float, metavar="S", help="begin no more jobs and faults after this time")
    command.add_argument("--concurrent", type=int, default=16, metavar="N", help="how many jobs at a time; %(default)s by default")
    chaos_directory.add_argument(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    began = time.monotonic()
    jobs = options.jobs or (None if options.seconds else 60)
    bootstrap.say(f"seed {options.seed}")
    with chaos_directory.given_or_passing(options.directory) as directory, make_world(directory) as world:
        until_time = time.monotonic() + options.seconds if options.seconds else float("inf")
        kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
        campaign = Campaign(world, options.seed, jobs, options.faults, kinds, until_time, bootstrap.say)
        campaign.run(options.concurrent)
        bootstrap.say(f"\n{summary(campaign)}\n\nseed {options.seed}, {time.monotonic() - began:.0f} s")
        for text in campaign.wrong:
            bootstrap.say(f"WRONG at the end: {text}")
    enough = campaign.struck.total() >= (options.faults or 0)
    if not enough:
        bootstrap.say(f"WRONG: only {campaign.struck.total()} faults have struck")
    return 1 if campaign.wrong or not enough or any(record.wrong for record in campaign.records) or not campaign.records else 0

