"""``ml job apply``: make what a job file says come true, and do nothing where it is true."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from osc_lib import exceptions

from cml_nova.clients.osc import document, waiting
from cml_nova.clients.osc.base import TERMINAL, ShowOne, UsageError, say
from cml_nova.clients.osc.job import shown
from cml_nova.clients.osc.job_create import created

#: keys that can be changed while a job runs
IN_PLACE = ("description", "metadata", "priority")
#: keys that the service has no other default for, with what a job has that does not say them
_DEFAULTS: dict[str, Any] = {
    "description": None, "metadata": {}, "priority": 0, "env": {}, "source": None, "setup": None, "recover_on_exit_codes": [],
    "hang_timeout": None, "availability_zone": None, "ssh_authorized_keys": [],
}


class ApplyJob(ShowOne):
    """Create a job, or change the newest one of the name: in place where that can be, with --restart by a new job in its stead"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        document.add_options(parser)
        waiting.add_options(parser)
        parser.add_argument("--restart", action="store_true",
                            help="Where something has changed that can't be changed in place, cancel the job and create a new one")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        draft = document.build(parsed_args)
        name = draft.content.get("name")
        if not isinstance(name, str):
            raise UsageError("apply finds the job by its name: give it one, in the job file or on the command line.")
        directory = document.take_directory(draft)
        plan = document.plan(self.client, draft)
        if directory is not None:
            document.upload(self.client, draft, directory)
        job = next(iter(self.client.jobs(name=name, limit=1)), None)
        if job is None:
            return created(self, document.submit(self.client, draft), parsed_args)
        changes = differences(job.to_dict(computed=False, original_names=True), draft.content, plan)
        for key, (before, after) in changes.items():
            say(f"{key}: {json.dumps(before)} -> {json.dumps(after)} ({'in place' if key in IN_PLACE else 'needs a new job'})")
        if not changes:
            say(f"No changes: the job {job.id} is {job.status}.")
            return shown(job)
        return self._change(job, changes, draft, parsed_args)

    def _change(self, job: Any, changes: Mapping[str, Any], draft: document.Document, args: argparse.Namespace) -> Any:
        if all(key in IN_PLACE for key in changes):
            return shown(self.client.update_job(job, **{key: after for key, (_, after) in changes.items()}))
        if job.status not in TERMINAL:
            if not args.restart:
                raise exceptions.CommandError(
                    f"The job {job.id} is {job.status}. With --restart it is cancelled, and a new one is created in its stead.")
            self.client.cancel_job(job)
        return created(self, document.submit(self.client, draft), args)


def differences(job: Mapping[str, Any], content: Mapping[str, Any], plan: Any) -> dict[str, tuple[Any, Any]]:
    """Tell what a document says otherwise than a job: values before and after, by key. Secrets can't be compared.

    :param job: as the service shows it.
    :param content: the document.
    :param plan: what the service has made of it.
    """
    wanted = {**_DEFAULTS, **{key: content[key] for key in (*_DEFAULTS, "command", "checkpoint_interval") if key in content}}
    wanted |= {"framework": plan.framework, "image": plan.image, "roles": _roles(plan.roles), "network": plan.network}
    wanted |= {key: plan.limits[key] for key in ("max_run_time", "max_wait_time", "max_restarts")}
    wanted["source"] = _package(wanted["source"])
    has = {**job, "roles": _roles(job["roles"]), "source": _package(job["source"])}
    return {key: (has[key], value) for key, value in wanted.items() if has[key] != value}


def _roles(roles: Mapping[str, Any]) -> dict[str, Any]:
    """What of roles can be said: their flavors may have other prices by now."""
    return {name: {"count": role["count"], "flavor": role["flavor"]["name"], "command": role["command"]} for name, role in roles.items()}


def _package(source: Mapping[str, Any] | None) -> str | None:
    return None if source is None else source["package"]
