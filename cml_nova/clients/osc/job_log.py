"""``ml job log show``."""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from cml_nova.clients.osc import waiting
from cml_nova.clients.osc.base import Command, find_job, reattach, say
from cml_nova.clients.osc.job import add_job

#: colours of tasks on a terminal
_COLOURS = (36, 33, 35, 32, 34, 31)
_PIECE = 1 << 20


class ShowLog(Command):
    """Print what a job's processes have printed; with --follow, go on until the job has ended, and let the exit code tell how"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("-f", "--follow", action="store_true",
                            help="Print lines as they come until the job has ended, over all attempts")
        parser.add_argument("--task", metavar="<role:index>", action="append", dest="tasks",
                            help="Task whose log is printed, such as worker:0 (repeat for several; default: those of all machines)")
        part = parser.add_mutually_exclusive_group()
        part.add_argument("--attempt", metavar="<number>", type=int, help="Attempt whose log is printed (default: the newest)")
        part.add_argument("--phase", choices=("setup", "run"), default="run", help="Log of the setup command, or of the training (default)")
        parser.add_argument("--lines", metavar="<count>", type=int,
                            help="Begin with the last so many lines of each task")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        args = parsed_args
        job = find_job(self.client, args.job)
        tasks = args.tasks or [f"{role}:{index}" for role, entry in job.roles.items() for index in range(entry["count"])]
        attempt = 0 if args.phase == "setup" else args.attempt
        show = _Printer(tasks)
        if not args.follow:
            for task in tasks:
                show(task, collections.deque(_there(self.client, job, task, attempt), args.lines))
            return 0
        return self._follow(job, tasks, attempt, args.lines, show)

    def _follow(self, job: Any, tasks: list[str], attempt: int | None, lines: int | None, show: _Printer) -> int:
        from cml_nova.clients import sdk

        try:
            for line in self.client.follow_log(job, tasks=tasks, attempt=attempt, patience=sdk.Patience(notify=say), lines=lines):
                show(line.task, [line.text])
        except KeyboardInterrupt as error:
            reattach(error, f"The job {job.id} goes on. `openstack ml job log show --follow {job.id}` follows it again, "
                            f"`openstack ml job cancel {job.id}` ends it.")
        return 0 if attempt is not None else waiting.wait(self.client, job, None)[1]


class _Printer:
    """Prints lines, with their task before them where there are several."""

    def __init__(self, tasks: list[str]) -> None:
        width = max(map(len, tasks))
        colour = sys.stdout.isatty()
        self._prefixes = {
            task: f"\x1b[{_COLOURS[i % len(_COLOURS)]}m{task:<{width}}\x1b[0m | " if colour else f"{task:<{width}} | "
            for i, task in enumerate(tasks)} if len(tasks) > 1 else {}

    def __call__(self, task: str, lines: Iterable[str]) -> None:
        prefix = self._prefixes.get(task, "")
        sys.stdout.writelines(f"{prefix}{line}\n" for line in lines)
        sys.stdout.flush()


def _there(client: Any, job: Any, task: str, attempt: int | None) -> Iterator[str]:
    """Give the lines of a log that are there now."""
    offset, rest = 0, b""
    while True:
        piece = client.job_log(job, task=task, attempt=attempt, offset=offset, limit=_PIECE)
        if not piece.data:
            break
        attempt, offset = piece.attempt, piece.next_offset
        *lines, rest = (rest + piece.data).split(b"\n")
        yield from (line.decode(errors="replace").removesuffix("\r") for line in lines)
    if rest:
        yield rest.decode(errors="replace")
