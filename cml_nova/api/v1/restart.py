"""/v1/jobs/{id}/document and /restart: what was asked for, and to have it done again from where it ended."""

from __future__ import annotations

from typing import Any

from cml_nova import exception
from cml_nova.api import auth
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import jobs as schemas
from cml_nova.api.services import services
from cml_nova.api.v1.jobs import find, submit
from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job
from cml_nova.states import Outcome, Phase

RESOURCE = Resource("restart", __name__)


@RESOURCE.operation("GET", "/jobs/<job_id>/document", policy="jobs:get", response=schemas.DOCUMENT)
def document(job_id: str) -> Any:
    """Show the document that a job was made of, as it was given, with what has been changed since."""
    job = _whole(find(job_id, "jobs:get"))
    return {"document": _document(job), "secrets": sorted(services().vault.open(job.sealed)["secrets"])}


@RESOURCE.operation("POST", "/jobs/<job_id>/restart", policy="jobs:restart", status=202, query=schemas.RESTART_QUERY,
                    response=schemas.JOB_BODY)
def restart(job_id: str, client_token: str | None) -> Any:
    """Make a new job from the document of one that has ended, secrets included, which goes on from its last checkpoint.

    One that has succeeded is begun from the beginning: there is nothing to go on with.
    """
    old = _whole(find(job_id, "jobs:restart"))
    if old.phase != Phase.DONE:
        raise exception.Conflict(f"The job {job_id} has not ended yet; cancel it, wait until it is done, and restart it then.")
    if old.project_id != auth.current().project_id:
        raise exception.Conflict(f"The job {job_id} is another project's; restart it with a token of that project.")
    given = _document(old) | {"secrets": services().vault.open(old.sealed)["secrets"]}
    if client_token:
        given["client_token"] = client_token
    checkpoint = None if old.outcome == Outcome.SUCCEEDED else old.runtime.get("checkpoint")
    begins = "from its last checkpoint" if checkpoint else "from the beginning"
    return submit(given, f"The job was created with {{}} nodes to do {job_id} again, {begins}.",
                  {"job": old.id, "checkpoint": checkpoint})


def _whole(job: Job) -> Job:
    """Read a job again, with what showing it does not need."""
    with services().db.read() as session:
        found = db_jobs.get(session, job.id, with_sealed=True)
    if found is None:
        raise exception.NotFound(f"There is no job {job.id!r} any more.")
    return found


def _document(job: Job) -> dict[str, Any]:
    """Give what was asked for. What PATCH may have changed is in the columns.

    :raises Conflict: the job is older than the record of that.
    """
    if job.document is None:
        raise exception.Conflict(f"The document of the job {job.id} was not kept: it was made by an older release of the service.")
    now = {"name": job.name, "description": job.description, "metadata": job.meta, "priority": job.priority}
    # What was never said, and is as without being said, stays unsaid.
    unsaid: dict[str, Any] = {"description": None, "metadata": {}, "priority": 0}
    return {**job.document, **{key: value for key, value in now.items() if key in job.document or value != unsaid[key]}}
