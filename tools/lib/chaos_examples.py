"""Kills what the example trainings run on, at random moments, and compares what comes of it with an undisturbed run.

``tools/chaos examples`` runs each example once as it is, and once while it is killed again and again: a server deleted, a machine
crashed, a process killed by SIGKILL, the whole service killed and started. It is wrong if the model at the end is worse, if an attempt
begins before what was saved of the one before it, or if anything is left in the cloud. Exit status 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bootstrap
import chaos_directory

from tests.harness.client import TERMINAL, Client, summary
from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.service import Standalone
from tests.harness.stack import Stack

EXAMPLES = ("tensorflow-digits", "mxnet-digits")
#: how much of the images that were not trained with may be told worse than by the undisturbed run's model
TOLERANCE = 0.03
#: of a training that is killed: so many that it is not over before the last kill, and seconds for each of them
_EPOCHS, _PAUSE = 120, 0.3
#: seconds after a new checkpoint, at most, until something is killed
_MOMENT = 2.0
_LOOK = 0.2
_PATIENCE = 300


class Progress:
    """What is known from outside of how far a training has come.

    :ivar epochs: how many the program has told of, in all of its attempts.
    :ivar safe: the last epoch that must be in the checkpoint that is saved.
    """

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._saved_at: str | None = None
        self._before = self._due = 0
        self.last = self.safe = 0
        self.saved_in = 0

    def look(self) -> None:
        """Look again. An epoch that was told of before a save was done is in the one that comes after it."""
        before = self.last
        found = self._client.metrics(self._job_id, name="test_accuracy")
        if found:
            self.last = int(found[0]["data"][-1]["step"])
        saved = self._client.get(f"/v1/jobs/{self._job_id}/checkpoint")["checkpoint"]
        if saved and saved["saved_at"] != self._saved_at:
            self._saved_at, self.saved_in = saved["saved_at"], saved["attempt"]
            self.safe, self._due = max(self.safe, self._due), before


class Killing:
    """What may be done to a training."""

    def __init__(self, stack: Stack[LocalCloud], job_id: str, choose: random.Random) -> None:
        self._stack = stack
        self._job_id = job_id
        self._choose = choose
        #: each with whether it makes another attempt
        self.kinds: dict[str, tuple[Callable[[], str], bool]] = {
            "server deleted": (lambda: self._server("vanish"), True), "machine crashed": (lambda: self._server("crash"), True),
            "process killed": (self._process, True), "service killed": (self._service, False),
        }

    def _server(self, fault: str) -> str:
        node = self._choose.choice(self._stack.demo.nodes(self._job_id))
        self._stack.cloud.fault("server", server=node["server_id"], fault=fault)
        return f"node {node['rank']}"

    def _process(self) -> str:
        pid = self._choose.choice(sorted(_processes(self._job_id)))
        os.kill(pid, signal.SIGKILL)
        return f"process {pid}"

    def _service(self) -> str:
        self._stack.service.kill()
        self._stack.service.start()
        return "all of it"


def _processes(job_id: str) -> Iterator[int]:
    """Give the processes of a job's program."""
    mark = f"CML_JOB_ID={job_id}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0") and b"train.py" in (entry / "cmdline").read_bytes():
                    yield int(entry.name)
            except OSError:
                continue  # it has ended, or is another user's


def submit(client: Client, example: str, epochs: int, pause: float) -> str:
    """Submit an example as it is, but for the number of epochs, a pause after each, and saves every second."""
    directory = bootstrap.REPOSITORY / "examples" / example
    body = json.loads((directory / "job.json").read_text())
    body.update(env={**body["env"], "EPOCHS": str(epochs), "EPOCH_PAUSE": str(pause)}, checkpoint_interval=1, max_restarts=100,
                max_run_time=3600)
    return client.submit(body, {path.name: path.read_text() for path in directory.glob("*.py")})


def harm(stack: Stack[LocalCloud], example: str, kinds: list[str], choose: random.Random) -> tuple[str, list[str]]:
    """Run an example and kill something once for each of the kinds; give its job's id, and what was wrong."""
    client, wrong = stack.demo, list[str]()
    job_id = submit(client, example, _EPOCHS, _PAUSE)
    progress, killing, attempt = Progress(client, job_id), Killing(stack, job_id, choose), 1
    for kind in kinds:
        _await_save(client, job_id, progress, attempt)
        _watch_for(choose.uniform(0, _MOMENT), progress)
        action, makes_attempt = killing.kinds[kind]
        safe, told = progress.safe, action()
        bootstrap.say(f"  {kind} ({told}) after epoch {progress.last} of attempt {attempt}; epoch {safe} is saved")
        if not makes_attempt:
            continue
        attempt += 1
        client.wait(job_id, lambda job, attempt=attempt: job["attempt"] >= attempt, _PATIENCE)  # type: ignore[misc]
        first = _first_epoch(client, job_id, attempt)
        bootstrap.say(f"  attempt {attempt} goes on with epoch {first}")
        if first <= max(1, safe):
            wrong.append(f"attempt {attempt} began with epoch {first} although epoch {safe} had been saved")
    return job_id, wrong


def _await_save(client: Client, job_id: str, progress: Progress, attempt: int) -> None:
    """Wait until there is a checkpoint of the attempt, with an epoch in it that must not be lost."""
    deadline = time.monotonic() + _PATIENCE
    before = progress.safe
    while progress.saved_in < attempt or progress.safe <= before:
        progress.look()
        job = client.job(job_id)
        assert job["status"] not in TERMINAL, f"the training is over before it could be killed: {summary(job)}\n{client.story(job_id)}"
        assert time.monotonic() < deadline, f"no checkpoint of attempt {attempt}: {summary(job)}\n{client.story(job_id)}"
        time.sleep(_LOOK)


def _watch_for(seconds: float, progress: Progress) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        progress.look()
        time.sleep(min(_LOOK, max(0.0, until - time.monotonic())))


def _first_epoch(client: Client, job_id: str, attempt: int) -> int:
    """Wait for the first epoch that an attempt tells of."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        text = client.log_piece(job_id, "worker:0", attempt=attempt)[0].decode()
        found = re.search(r"^epoch (\d+)/", text, re.MULTILINE)
        if found:
            return int(found[1])
        time.sleep(_LOOK)
    raise AssertionError(f"attempt {attempt} tells of no epoch within {_PATIENCE} s:\n{client.story(job_id)}")


def accuracy(client: Client, job_id: str) -> float:
    """Wait until a training has succeeded; give how much of the images that it was not trained with its model tells."""
    client.succeed(job_id, _PATIENCE)
    [series] = client.metrics(job_id, name="test_accuracy")
    return float(series["data"][-1]["y"])


def try_example(stack: Stack[LocalCloud], example: str, kills: int, choose: random.Random) -> list[str]:
    """Run an example undisturbed and killed; list what is wrong."""
    bootstrap.say(f"{example}:")
    calm = accuracy(stack.demo, submit(stack.demo, example, _EPOCHS, 0))
    bootstrap.say(f"  undisturbed: accuracy {calm:.4f}")
    job_id, wrong = harm(stack, example, _kinds(kills, choose), choose)
    harmed = accuracy(stack.demo, job_id)
    bootstrap.say(f"  killed {kills} times: accuracy {harmed:.4f}")
    if harmed < calm - TOLERANCE:
        wrong.append(f"the model tells {harmed:.4f} of the images, that of the undisturbed run {calm:.4f}")
    wrong += [f"left in the cloud: {item}" for item in stack.cloud.leftovers()]
    for text in wrong:
        bootstrap.say(f"  WRONG: {text}")
    return wrong


def _kinds(kills: int, choose: random.Random) -> list[str]:
    """Draw what is to be killed: each kind once before any comes again."""
    drawn: list[str] = []
    while len(drawn) < kills:
        drawn += choose.sample(["server deleted", "machine crashed", "process killed", "service killed"], 4)
    return drawn[:kills]


@contextmanager
def stack_of(directory: Path, images: Path) -> Iterator[Stack[LocalCloud]]:
    """Start a cloud with the images of the frameworks, and the service as one process; stop them at the end."""
    port = free_port()
    with ExitStack() as cleanup:
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}", images_dir=images)
        cleanup.callback(cloud.stop)
        cloud.start()
        service = Standalone(directory / "service", cloud, port)
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        yield Stack.of(cloud, service)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's options."""
    command = commands.add_parser("examples", help="the example trainings, killed at random moments", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--example", choices=EXAMPLES, action="append", help="may be given several times; all of them by default")
    command.add_argument("--kills", type=int, default=5, metavar="N", help="how often each is killed; %(default)s by default")
    command.add_argument("--seed", type=int, default=random.randrange(10**6),
                         help="what, when and whom to kill is drawn from it; by default a new one, which is printed")
    chaos_directory.add_argument(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    began, wrong = time.monotonic(), list[str]()
    bootstrap.say(f"seed {options.seed}")
    images = options.state_dir.resolve() / "images"
    subprocess.run(["cml-nova-localcloud", "image", "build", "tensorflow", "mxnet", "--state-dir", str(images.parent)], check=True)
    with chaos_directory.given_or_passing(options.directory) as directory, stack_of(directory, images) as stack:
        for example in options.example or EXAMPLES:
            # Each draws for itself: one alone is killed as among all.
            wrong += try_example(stack, example, options.kills, random.Random(f"{options.seed} {example}"))
    bootstrap.say(f"seed {options.seed}, {time.monotonic() - began:.0f} s: {len(wrong)} wrong")
    return 1 if wrong else 0
