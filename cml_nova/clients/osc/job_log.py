"""``ml job log show``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cml_nova.clients.osc import jobfile, waiting
from cml_nova.clients.osc.base import Command, find_job, reattach, say
from cml_nova.clients.osc.job import add_job

#: colours of tasks on a terminal
_COLOURS = (36, 33, 35, 32, 34, 31)


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
        part.add_argument("--attempt", metavar="<number>", type=jobfile.at_least(0),
                          help="Attempt whose log is printed (default: the newest)")
        part.add_argument("--phase", choices=("setup", "run"), default="run", help="Log of the setup command, or of the training (default)")
        parser.add_argument("--lines", metavar="<count>", type=jobfile.at_least(0),
                            help="Begin with the last so many lines of each task")
        parser.add_argument("--since", metavar="<time>", type=jobfile.moment,
                            help="Begin with what was printed in the last 90s, 15m, 2h, 1d, or since a time such as 2026-01-31T12:00:00Z "
                                 "(UTC where it names no zone)")
        parser.add_argument("--timestamps", action="store_true", help="Print before each line when it was printed (UTC)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        args = parsed_args
        job = find_job(self.client, args.job)
        tasks = args.tasks or [f"{role}:{index}" for role, entry in job.roles.items() for index in range(entry["count"])]
        attempt = 0 if args.phase == "setup" else args.attempt
        show = _Printer(tasks, args.timestamps)
        wanted = {"tasks": tasks, "attempt": attempt, "lines": args.lines, "since": args.since}
        if args.follow:
            return self._follow(job, show, wanted)
        for line in self.client.log_lines(job, **wanted):
            show(line)
        return 0

    def _follow(self, job: Any, show: _Printer, wanted: dict[str, Any]) -> int:
        from cml_nova.clients import sdk

        try:
            for line in self.client.follow_log(job, patience=sdk.Patience(notify=say), **wanted):
                show(line)
        except KeyboardInterrupt as error:
            reattach(error, f"The job {job.id} goes on. `openstack ml job log show --follow {job.id}` follows it again, "
                            f"`openstack ml job cancel {job.id}` ends it.")
        return 0 if wanted["attempt"] is not None else waiting.wait(self.client, job, None)[1]


class _Printer:
    """Prints lines, with their task before them where there are several.

    :param timestamps: with their time, too.
    """

    def __init__(self, tasks: list[str], timestamps: bool) -> None:
        self._timestamps = timestamps
        width = max(map(len, tasks))
        colour = sys.stdout.isatty()
        self._prefixes = {
            task: f"\x1b[{_COLOURS[i % len(_COLOURS)]}m{task:<{width}}\x1b[0m | " if colour else f"{task:<{width}} | "
            for i, task in enumerate(tasks)} if len(tasks) > 1 else {}

    def __call__(self, line: Any) -> None:
        at = f"{line.at or '-':<24} " if self._timestamps else ""
        sys.stdout.write(f"{self._prefixes.get(line.task, '')}{at}{line.text}\n")
        sys.stdout.flush()
