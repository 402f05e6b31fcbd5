"""``ml job list``, ``show``, ``set``, ``unset``, ``cancel`` and ``delete``."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from osc_lib.cli import parseractions

from cml_nova.clients.osc import columns
from cml_nova.clients.osc.base import TERMINAL, Command, Lister, ShowOne, UsageError, find_job, say
from cml_nova.clients.osc.jobfile import at_least, moment_ago, whole

STATUSES = ("QUEUED", "BUILDING", "PREPARING", "RUNNING", "COLLECTING", "CLEANING", *TERMINAL)
#: what is shown of a job in another form than as it is
_FORMS = {
    "progress": columns.Percent, "metadata": columns.Structure, "image": columns.Structure, "framework": columns.Structure,
    "roles": columns.Roles, "command": columns.Command, "setup": columns.Command, "env": columns.Structure, "source": columns.Structure,
    "recover_on_exit_codes": columns.Structure, "ssh_authorized_keys": columns.Structure, "cost": columns.Money,
    "max_run_time": columns.Seconds, "max_wait_time": columns.Seconds, "hang_timeout": columns.Seconds,
}
#: what comes first, and what does not: what is only sent, and what the service keeps for itself
_FIRST = ("id", "name", "status", "cause", "status_reason", "exit_code", "progress", "deadline")
_HIDDEN = ("links", "location", "phase", "target", "flavor", "workers", "client_token", "secrets")


def shown(job: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Give the names and values of a job for a command that shows one."""
    document = job.to_dict(computed=False, original_names=True)
    fields = {name: document[name] for name in [*_FIRST, *document] if name not in _HIDDEN}
    return tuple(fields), tuple(_FORMS[name](value) if name in _FORMS else value for name, value in fields.items())


def accelerators(job: Any) -> int:
    """Count the accelerators that all machines of a job have."""
    roles = (job.roles or {}).values()
    return sum(role["count"] * (role["flavor"].get("accelerators") or {"count": 0})["count"] for role in roles)


def run_time(job: Any) -> float | None:
    """How long a job has run, in seconds; None before it has started."""
    if not job.started_at:
        return None
    began = datetime.fromisoformat(job.started_at.replace("Z", "+00:00"))
    ended = datetime.fromisoformat(job.finished_at.replace("Z", "+00:00")) if job.finished_at else datetime.now(UTC)
    return round((ended - began).total_seconds(), 1)


#: seconds between looks of a watch
_LOOK = 2

_Column = tuple[str, Callable[[Any], Any]]
_COLUMNS: tuple[_Column, ...] = (
    ("ID", lambda job: job.id),
    ("Name", lambda job: job.name),
    ("Status", lambda job: job.status),
    ("Cause", lambda job: job.cause),
    ("Progress", lambda job: columns.Percent(job.progress)),
    ("Nodes", lambda job: sum(role["count"] for role in (job.roles or {}).values())),
    ("Accelerators", accelerators),
    ("Run Time", lambda job: columns.Seconds(run_time(job))),
    ("Cost", lambda job: columns.Money(job.cost)),
)
_LONG: tuple[_Column, ...] = (
    ("Queue Position", lambda job: job.queue_position),
    ("Priority", lambda job: job.priority),
    ("Framework", lambda job: (job.framework or {}).get("name")),
    ("Exit Code", lambda job: job.exit_code),
    ("Attempt", lambda job: job.attempt),
    ("Restarts", lambda job: (job.error_restarts or 0) + (job.infra_restarts or 0)),
    ("Created At", lambda job: job.created_at),
    ("Started At", lambda job: job.started_at),
    ("Finished At", lambda job: job.finished_at),
    ("Metadata", lambda job: columns.Structure(job.metadata)),
    ("Project ID", lambda job: job.project_id),
    ("User ID", lambda job: job.user_id),
    ("Status Reason", lambda job: job.status_reason),
)


class ListJobs(Lister):
    """List jobs, the newest first; those that have ended only with --all or --status"""

    #: what a watch has found, for the next time that it is shown
    _found: list[Any] | None = None

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--all", action="store_true", help="Also list jobs that have ended")
        parser.add_argument("--long", action="store_true", help="List more of each job")
        parser.add_argument("--name", metavar="<name>", help="Only jobs with this name")
        parser.add_argument("--status", metavar="<status>", action="append", choices=STATUSES, type=str.upper,
                            help=f"Only jobs with this status (repeat for several): {', '.join(STATUSES)}")
        parser.add_argument("--framework", metavar="<framework>", help="Only jobs of this framework")
        parser.add_argument("--property", metavar="<key=value>", action="append", dest="properties",
                            help="Only jobs with this entry in their metadata (repeat for several)")
        parser.add_argument("--user", metavar="<user-id>", help="Only jobs of this user (ID)")
        parser.add_argument("--project", metavar="<project-id>", help="Only jobs of this project (ID); implies --all-projects (admin only)")
        parser.add_argument("--all-projects", action="store_true", help="List the jobs of all projects (admin only)")
        parser.add_argument("--changes-since", metavar="<time>", type=moment_ago,
                            help="Only jobs that have changed in the last 90s, 15m, 2h, 1d, or since a time such as 2026-01-31T12:00:00Z "
                                 "(UTC where it names no zone)")
        parser.add_argument("--watch", action="store_true", help="List again with each change, until all listed jobs have ended")
        add_paging(parser)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        if not parsed_args.watch:
            return super().run(parsed_args)
        from cml_nova.clients import sdk

        patience, before = sdk.Patience(notify=say), None
        while True:
            self._found = patience.call(lambda: self._jobs(parsed_args))
            now = [(job.id, job.status, job.progress, job.queue_position) for job in self._found]
            if now != before:
                if self.app.stdout.isatty():
                    self.app.stdout.write("\x1b[H\x1b[J")
                super().run(parsed_args)
                self.app.stdout.flush()
            if all(job.status in TERMINAL for job in self._found):
                return 0
            before = now
            time.sleep(_LOOK)

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Any]:
        jobs = self._jobs(parsed_args) if self._found is None else self._found
        wanted = _COLUMNS + (_LONG if parsed_args.long else ())
        return [name for name, _ in wanted], [[value(job) for _, value in wanted] for job in jobs]

    def _jobs(self, args: argparse.Namespace) -> list[Any]:
        everything = args.all or args.status is not None or args.changes_since is not None
        query = {
            "name": args.name, "status": args.status or (None if everything else [s for s in STATUSES if s not in TERMINAL]),
            "framework": args.framework, "metadata": args.properties, "user_id": args.user, "project_id": args.project,
            "all_projects": True if args.all_projects or args.project else None, "changes_since": args.changes_since,
            "limit": args.limit, "marker": args.marker,
        }
        found = self.client.jobs(**{key: value for key, value in query.items() if value is not None})
        jobs = list(itertools.islice(found, args.max_items))
        if not jobs and not everything:
            say("No job is under way; --all lists those that have ended, too.")
        return jobs


def add_paging(parser: argparse.ArgumentParser) -> None:
    """Add the options that list commands have for long lists."""
    parser.add_argument("--limit", metavar="<count>", type=at_least(1), help="How many entries are fetched by one request")
    parser.add_argument("--max-items", metavar="<count>", type=at_least(1), help="How many entries are listed at most")
    parser.add_argument("--marker", metavar="<id>", help="ID of the last entry of the page before")


class ShowJob(ShowOne):
    """Show a job"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        return shown(find_job(self.client, parsed_args.job))


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the job that a command is about."""
    parser.add_argument("job", metavar="<job>", help="Name or ID of the job")


class SetJob(Command):
    """Change a job's name, description, priority or metadata"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("--no-property", action="store_true", help="Remove all entries of the metadata; with --property, set new ones")
        parser.add_argument("--property", metavar="<key=value>", action=parseractions.KeyValueAction, dest="properties",
                            help="Set an entry of the metadata (repeat for several)")
        parser.add_argument("--name", metavar="<name>", help="New name")
        parser.add_argument("--description", metavar="<text>", help="New description")
        parser.add_argument("--priority", metavar="<number>", type=whole, help="New priority; higher ones are started first")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        args = parsed_args
        changes = {key: getattr(args, key) for key in ("name", "description", "priority") if getattr(args, key) is not None}
        if not changes and not args.no_property and not args.properties:
            raise UsageError("Nothing to set: give at least one of --name, --description, --priority, --property, --no-property.")
        job = find_job(self.client, args.job)
        if args.no_property or args.properties:
            changes["metadata"] = {**({} if args.no_property else job.metadata), **(args.properties or {})}
        self.client.update_job(job, **changes)


class UnsetJob(Command):
    """Remove entries of a job's metadata"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("--property", metavar="<key>", action="append", dest="properties", required=True,
                            help="Entry of the metadata to remove (repeat for several)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        job = find_job(self.client, parsed_args.job)
        missing = [key for key in parsed_args.properties if key not in job.metadata]
        if missing:
            raise UsageError(f"The job's metadata has no {missing[0]!r}; it has {', '.join(job.metadata) or 'no entry'}.")
        self.client.update_job(job, metadata={key: value for key, value in job.metadata.items() if key not in parsed_args.properties})


class CancelJob(Command):
    """Stop jobs; what they wrote so far is kept, their machines are deleted"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("jobs", metavar="<job>", nargs="+", help="Names or IDs of the jobs")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        each(self, parsed_args.jobs, "cancel", lambda name: self.client.cancel_job(find_job(self.client, name, exact=True)))


class DeleteJob(Command):
    """Delete jobs with their logs, metrics and outputs; those that have not ended are cancelled first"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("jobs", metavar="<job>", nargs="+", help="Names or IDs of the jobs")
        parser.add_argument("--ignore-missing", action="store_true", help="A job that is not there counts as deleted")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        def delete(name: str) -> None:
            if parsed_args.ignore_missing and self.client.find_job(name, ignore_missing=True) is None:
                return
            self.client.delete_job(find_job(self.client, name, exact=True), ignore_missing=parsed_args.ignore_missing)

        each(self, parsed_args.jobs, "delete", delete)


def each(command: Any, names: list[str], verb: str, action: Callable[[str], Any]) -> None:
    """Do something to each of several jobs, whatever becomes of the others.

    :raises CommandError: it has failed for some; each failure was told.
    """
    from openstack import exceptions as sdk_exceptions
    from osc_lib import exceptions

    from cml_nova.clients import sdk

    failed = 0
    for name in names:
        try:
            action(name)
        except (sdk_exceptions.SDKException, exceptions.CommandError) as error:
            failed += 1
            command.log.error("Failed to %s the job %r: %s", verb, name, sdk.explain(error))
    if failed:
        raise exceptions.CommandError(f"{failed} of {len(names)} jobs failed to {verb}.")
