"""What all commands share: the client, exit codes, and how a job is found."""

from __future__ import annotations

import argparse
import difflib
import functools
import sys
from typing import Any, NoReturn

from osc_lib.command import command

#: exit codes; 0 is success. Ctrl-C gives 130, as everywhere.
FAILURE, USAGE, TIMEOUT, CANCELLED = 1, 2, 3, 4


class UsageError(Exception):
    """What the user has written (options, job file) can't be meant so; the message says where and what would do."""


class _Common:
    """What is laid over cliff's classes.

    ``exit_code`` is what the process ends with when the command itself has gone well: for commands that tell how a job has ended.
    """

    app: Any
    exit_code = 0

    @property
    def client(self) -> Any:
        """The SDK proxy of the service."""
        return self.app.client_manager.machine_learning

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.error = functools.partial(_error, parser, parser.error)
        return parser

    def run(self, parsed_args: Any) -> int:
        from openstack import exceptions

        from cml_nova.clients import sdk

        try:
            return super().run(parsed_args) or self.exit_code  # type: ignore[misc]
        except UsageError as error:
            self.app.LOG.error("%s", error)
            return USAGE
        except exceptions.HttpException as error:
            if self.app.options.debug:
                raise
            self.app.LOG.error("%s", sdk.explain(error))
            return FAILURE


class Command(_Common, command.Command):
    """A command that prints what it likes."""


class ShowOne(_Common, command.ShowOne):
    """A command that shows one object."""


class Lister(_Common, command.Lister):
    """A command that lists objects."""


def _error(parser: argparse.ArgumentParser, original: Any, message: str) -> NoReturn:
    """Add the option that was probably meant to argparse's word on one that there is not."""
    if message.startswith("unrecognized arguments:"):
        words = message.split()[2:]
        message = f"unrecognized {'argument' if len(words) == 1 else 'arguments'}: {' '.join(words)}"
        known = [option for action in parser._actions for option in action.option_strings]
        for word in words:
            near = difflib.get_close_matches(word.partition("=")[0], known, n=1) if word.startswith("--") else []
            if near:
                message += f"; did you mean {near[0]}?"
                break
    original(message)
    raise SystemExit(USAGE)  # not reached: argparse exits


def find_job(client: Any, name_or_id: str, *, exact: bool = False) -> Any:
    """Find a job by id or name.

    :param exact: several with a name are an error: for what can't be taken back. Otherwise the newest that has not ended is meant,
        else the newest.
    :raises CommandError: there is none.
    """
    from openstack import exceptions as sdk_exceptions
    from osc_lib import exceptions

    try:
        job = client.find_job(name_or_id, ignore_missing=True)
    except sdk_exceptions.DuplicateResource:
        if exact:
            raise
        jobs = list(client.jobs(name=name_or_id))
        job = next((one for one in jobs if one.status not in TERMINAL), jobs[0])
        say(f"{len(jobs)} jobs have the name {name_or_id!r}; this is {job.id}.")
    if job is None:
        raise exceptions.CommandError(
            f"No job has the name or id {name_or_id!r}. `openstack ml job list --all` lists all jobs, ended ones too.")
    return job


#: statuses in which nothing of a job is left in the cloud, and the exit code that tells of each
TERMINAL = {"SUCCEEDED": 0, "FAILED": FAILURE, "TIMED_OUT": FAILURE, "CANCELLED": CANCELLED}


def say(text: str) -> None:
    """Say something to the user without touching what a program may read."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def reattach(error: KeyboardInterrupt, text: str) -> NoReturn:
    """After Ctrl-C: say how to go on, and let the process end with 130."""
    say(f"\n{text}")
    raise error
