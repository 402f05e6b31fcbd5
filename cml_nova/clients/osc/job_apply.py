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

#: keys that can be changed while a job runs, and what they are where they are not said
IN_PLACE: dict[str, Any] = {"description": None, "metadata": {}, "priority": 0}
#: keys that are no property of the job, or can't be compared
_APART = ("name", "client_token", "secrets")


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
            raise UsageError(f"apply finds the job by its name: give it one, in {draft.file} or on the command line.")
        job = next(iter(self.client.jobs(name=name, limit=1)), None)
        if job is None:
            return created(self, document.submit(self.client, draft), parsed_args)
        document.plan(self.client, draft)
        changes = differences(self.client.job_document(job)["document"], wanted(draft, job))
        for key, (before, after) in changes.items():
            say(f"{key}: {json.dumps(before)} -> {json.dumps(after)} ({'in place' if key in IN_PLACE else 'needs a new job'})")
        if not changes:
            say(f"No changes: the job {job.id} is {job.status}.")
            return shown(job)
        return self._change(job, changes, draft, parsed_args)

    def _change(self, job: Any, changes: Mapping[str, Any], draft: document.Document, args: argparse.Namespace) -> Any:
        if all(key in IN_PLACE for key in changes):
            return shown(self.client.update_job(job, **{key: after or IN_PLACE[key] for key, (_, after) in changes.items()}))
        if job.status not in TERMINAL:
            if not args.restart:
                raise exceptions.CommandError(
                    f"The job {job.id} is {job.status}. With --restart it is cancelled, and a new one is created in its stead.")
            self.client.cancel_job(job)
        return created(self, document.submit(self.client, draft), args)


def wanted(draft: document.Document, job: Any) -> dict[str, Any]:
    """Give the content of a document as the service would have it; a directory with the code that the job has is the job's package.

    :raises UsageError: the directory can't be packed.
    """
    from cml_nova.clients import sdk

    content, directory = dict(draft.content), document.directory_of(draft)
    if directory is None:
        return content
    try:
        digest = sdk.digest(directory)
    except sdk.PackingError as error:
        raise UsageError(f"{draft.origin('source')}: {error}") from None
    if job.source and job.source["sha256"] == digest:
        content["source"] = {"package": job.source["package"]}
    content["metadata"] = {**sdk.git_state(directory), **content.get("metadata", {})}
    return content


def differences(has: Mapping[str, Any], wants: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Tell what one document says otherwise than another: values before and after, by key. What is empty is as if it were not said."""
    keys = [key for key in {**has, **wants} if key not in _APART]
    return {key: (has.get(key), wants.get(key)) for key in keys if (has.get(key) or None) != (wants.get(key) or None)}
