"""/v1/jobs: say what is to be trained, see how it goes, change one's mind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from oslo_db import exception as db_exception
from oslo_utils import uuidutils
from sqlalchemy.orm import Session

from cml_nova import exception
from cml_nova.api import auth, cost, jobspec, lookups, quota
from cml_nova.api.plan import forecast
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import jobs as schemas
from cml_nova.api.services import services
from cml_nova.api.views import iso, links, maybe_iso, page_size, paged, seconds
from cml_nova.db import events
from cml_nova.db import jobs as db_jobs
from cml_nova.db import packages as db_packages
from cml_nova.db.models import Job, Node, Package
from cml_nova.remote.keys import generate_keypair
from cml_nova.states import Phase, Target, status_of
from cml_nova.storage.base import job_prefix

RESOURCE = Resource("jobs", __name__)

#: keys of the specification that are shown as they are
_SHOWN = ("framework", "roles", "command", "env", "source", "setup", "max_run_time", "max_wait_time", "max_restarts",
          "recover_on_exit_codes", "hang_timeout", "checkpoint_interval", "availability_zone", "network", "ssh_authorized_keys")


def find(job_id: str, policy: str) -> Job:
    """Find a job for whoever asks; the policy is asked again, with the job's owner.

    :raises NotFound: there is none, or it is another project's, which looks the same.
    """
    everywhere = auth.allowed("jobs:list:all_projects")
    job = None
    if uuidutils.is_uuid_like(job_id):
        with services().db.read() as session:
            job = db_jobs.get(session, job_id, None if everywhere else auth.current().project_id)
    if job is None:
        raise exception.NotFound(f"There is no job {job_id[:80]!r} in this project; GET /v1/jobs lists what there is.")
    auth.authorize(policy, {"project_id": job.project_id, "user_id": job.user_id})
    return job


def views(session: Session, jobs: Sequence[Any]) -> list[dict[str, Any]]:
    """Represent jobs, given as such or as rows of a list. Their keys and secrets are never part of that."""
    places = db_jobs.queue_positions(session, [job.id for job in jobs if job.phase == Phase.QUEUED])
    costs = cost.of_jobs(session, jobs)
    return [_view(job) | {"queue_position": places.get(job.id), "cost": costs.get(job.id)} for job in jobs]


def _answer(job: Job) -> dict[str, Any]:
    with services().db.read() as session:
        return {"job": views(session, [job])[0]}


def _view(job: Any) -> dict[str, Any]:
    return {
        "id": job.id, "name": job.name, "description": job.description, "metadata": job.meta,
        "project_id": job.project_id, "user_id": job.user_id,
        "status": status_of(job.phase, job.outcome), "status_reason": job.status_reason, "cause": job.cause,
        "phase": job.phase, "outcome": job.outcome, "target": job.target, "progress": job.progress, "priority": job.priority,
        "restart_of": job.spec.get("restart", {}).get("job"),
        "image": {"id": job.spec["image"]["id"], "name": job.spec["image"]["name"]},
        **{key: job.spec.get(key) for key in _SHOWN},
        "attempt": job.attempt, "error_restarts": job.error_restarts, "infra_restarts": job.infra_restarts,
        "exit_code": job.exit_code, "failed_task": job.failed_task,
        "created_at": iso(job.created_at), "updated_at": iso(job.updated_at),
        "started_at": maybe_iso(job.started_at), "finished_at": maybe_iso(job.finished_at), "deadline": maybe_iso(_deadline(job)),
        "links": links(f"/v1/jobs/{job.id}"),
    }


def _deadline(job: Any) -> float | None:
    """Say when a job will be ended if nothing else ends it: its wait in the queue, or its run. None in between, and afterwards."""
    if job.outcome is not None:
        return None
    if job.phase == Phase.QUEUED:
        return float((job.waiting_since or job.created_at) + job.spec["max_wait_time"])
    return None if job.started_at is None else float(job.started_at + job.spec["max_run_time"])


@RESOURCE.operation("POST", "/jobs", policy="jobs:create", status=202, body=schemas.CREATE, response=schemas.JOB_BODY)
def create(body: dict[str, Any]) -> Any:
    """Create a job.

    The answer comes as soon as the job is written down; what becomes of it shows in its status. A second request with the same
    client_token gives the first one's job (200).
    """
    return submit(body["job"], "The job was created with {} nodes.")


def submit(document: dict[str, Any], told: str, restart: Mapping[str, Any] | None = None) -> Any:
    """Write a new job down and give the answer that says so; or the earlier one's with the same client_token.

    :param told: its first event; ``{}`` stands for the number of nodes.
    :param restart: ``job``, the id of the one that it goes on from, and its ``checkpoint``, if there is one.
    :raises QuotaExceeded: the project would have too much.
    """
    earlier = _repeated(document)
    if earlier is not None:
        return _answer(earlier), 200
    draft = _draft(document)
    if restart:
        draft = replace(draft, spec={**draft.spec, "restart": restart})
    job, nodes = _rows(document, draft)
    limits = quota.limits(job.project_id)
    try:
        with services().db.write() as session:
            quota.check(session, job.project_id, quota.needs(draft.flavors), limits)
            db_jobs.create(session, job, nodes)
            events.add(session, job.id, "created", told.format(len(nodes)), {"request_id": job.request_id})
            [answer] = views(session, [job])
    except (db_exception.DBDuplicateEntry, exception.QuotaExceeded):
        # The same request at the same time may have been first.
        earlier = _repeated(document)
        if earlier is None:
            raise
        return _answer(earlier), 200
    except db_exception.DBReferenceError:
        raise exception.BadRequest("source.package: the package was deleted meanwhile; upload it again.", field="source.package") from None
    services().conductor.job_wake(auth.current(), job.id)
    return {"job": answer}, 202, {"Location": answer["links"][0]["href"]}


@RESOURCE.operation("POST", "/jobs/plan", policy="jobs:plan", body=schemas.CREATE, response=schemas.PLAN)
def plan(body: dict[str, Any]) -> Any:
    """Say what creating this job would do, and create nothing."""
    draft, flavors = _draft(body["job"]), lookups.recalling(lambda catalog: catalog.flavors())
    spec, layout = draft.spec, draft.layout
    nodes = [
        {"rank": rank, "role": slot.role, "index": slot.index, "flavor": draft.flavor_of(rank)["name"],
         "tasks": [task.name for task in layout.tasks if task.node == rank]}
        for rank, slot in enumerate(layout.nodes)
    ]
    return {"plan": {
        "framework": spec["framework"], "image": {"id": spec["image"]["id"], "name": spec["image"]["name"]},
        "roles": spec["roles"], "network": spec["network"], "nodes": nodes, "totals": jobspec.totals(draft),
        "limits": {"max_nodes": services().conf.api.max_nodes,
                   **{key: spec[key] for key in ("max_run_time", "max_wait_time", "max_restarts")}},
        **forecast(draft, body["job"].get("priority", 0), flavors),
    }}


@RESOURCE.operation("GET", "/jobs", policy="jobs:list", query=schemas.LIST_QUERY, response=schemas.JOB_LIST)
def index(limit: int | None, marker: str | None, sort_key: str | None, sort_dir: str | None, all_projects: bool | None,
          project_id: str | None, **filters: Any) -> Any:
    """List jobs, the newest first unless asked for another order."""
    if all_projects:
        auth.authorize("jobs:list:all_projects")
    elif project_id is not None:
        raise exception.BadRequest("project_id: it needs all_projects=true, which operators may use.", field="project_id")
    wanted = db_jobs.Page(page_size(limit), marker, sort_key or "created_at", (sort_dir or "desc") == "desc")
    with services().db.read() as session:
        rows = db_jobs.page(session, _filters(project_id if all_projects else auth.current().project_id, filters), wanted)
        jobs = views(session, rows)
    return paged("jobs", jobs, wanted.limit)


@RESOURCE.operation("GET", "/jobs/<job_id>", policy="jobs:get", response=schemas.JOB_BODY)
def show(job_id: str) -> Any:
    """Show a job."""
    return _answer(find(job_id, "jobs:get"))


@RESOURCE.operation("PATCH", "/jobs/<job_id>", policy="jobs:update", body=schemas.UPDATE, response=schemas.JOB_BODY)
def update(job_id: str, body: dict[str, Any]) -> Any:
    """Change a job's name, description, priority or metadata (as a whole)."""
    find(job_id, "jobs:update")
    values = {"meta" if key == "metadata" else key: value for key, value in body["job"].items()}
    with services().db.write() as session:
        db_jobs.change(session, job_id, values)
    return _answer(find(job_id, "jobs:update"))


@RESOURCE.operation("POST", "/jobs/<job_id>/cancel", policy="jobs:cancel", status=202, response=schemas.JOB_BODY)
def cancel(job_id: str) -> Any:
    """Cancel a job: stop it, keep what it wrote so far, delete its servers."""
    if _end(job_id, "jobs:cancel", forget=False).phase == Phase.DONE:
        raise exception.Conflict(f"The job {job_id} has ended already; there is nothing to cancel.")
    return _answer(find(job_id, "jobs:cancel")), 202


@RESOURCE.operation("DELETE", "/jobs/<job_id>", policy="jobs:delete", status=204)
def delete(job_id: str) -> Any:
    """Delete a job with its log, metrics and outputs (204); one that has not ended is cancelled first and goes then (202)."""
    if _end(job_id, "jobs:delete", forget=True).phase != Phase.DONE:
        return "", 202
    services().storage.delete(job_prefix(job_id))
    with services().db.write() as session:
        db_jobs.remove(session, job_id)
    return "", 204


def _end(job_id: str, policy: str, *, forget: bool) -> Job:
    """Ask for the end of a job unless it is there; give the job as it is then."""
    if find(job_id, policy).phase != Phase.DONE:
        with services().db.write() as session:
            news = db_jobs.request_end(session, job_id, forget=forget)
            if news:
                user = auth.current().user_id
                wish = "be deleted" if forget else "be cancelled"
                events.add(session, job_id, "cancel", f"The user {user} asked for the job to {wish}.", {"user_id": user})
        # Hinted at even where it was asked for before: that hint may have been lost.
        services().conductor.job_wake(auth.current(), job_id)
    return find(job_id, policy)


def _filters(project_id: str | None, given: Mapping[str, Any]) -> db_jobs.Filters:
    since = given["changes_since"]
    return db_jobs.Filters(
        project_id=project_id, user_id=given["user_id"], name=given["name"], framework=given["framework"], statuses=given["status"] or (),
        metadata=dict(item.split("=", 1) for item in given["metadata"] or ()),
        changed_since=None if since is None else seconds("changes_since", since))


def _draft(document: dict[str, Any]) -> jobspec.Draft:
    def find_package(package_id: str) -> Package | None:
        with services().db.read() as session:
            return db_packages.get(session, package_id, auth.current().project_id)

    return lookups.recalling(lambda catalog: jobspec.draft(document, services().conf, catalog, find_package))


def _repeated(document: dict[str, Any]) -> Job | None:
    """Give the job that an earlier request with the same client_token made.

    :raises Conflict: that request said something else.
    """
    token = document.get("client_token")
    if token is None:
        return None
    with services().db.read() as session:
        job = db_jobs.get_by_client_token(session, auth.current().project_id, token)
    if job is not None:
        same = job.request_digest == _digest(document)
        if not same or services().vault.open(job.sealed)["secrets"] != document.get("secrets", {}):
            raise exception.Conflict(f"client_token: {token!r} was used for another job, {job.id}; use a new one.", field="client_token")
    return job


def _digest(document: dict[str, Any]) -> str:
    """Digest of a request; without the secrets, since a weak one could be guessed from it."""
    kept = {key: value for key, value in document.items() if key != "secrets"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _rows(document: dict[str, Any], draft: jobspec.Draft) -> tuple[Job, list[Node]]:
    context = auth.current()
    ssh_private, ssh_public = generate_keypair()
    host_private, host_public = generate_keypair()
    sealed = services().vault.seal({"ssh": ssh_private, "host": host_private, "secrets": document.get("secrets", {})})
    source = draft.spec["source"]
    job = Job(
        id=uuidutils.generate_uuid(), project_id=context.project_id, user_id=context.user_id, request_id=context.request_id,
        name=document["name"], description=document.get("description"), meta=document.get("metadata", {}),
        client_token=document.get("client_token"), request_digest=_digest(document), framework=draft.framework.name,
        package_id=None if source is None else source["package"], spec=draft.spec,
        document={key: value for key, value in document.items() if key not in ("secrets", "client_token")},
        keys={"ssh": ssh_public, "host": host_public}, sealed=sealed, priority=document.get("priority", 0),
        phase=Phase.QUEUED, target=Target.RUN, progress=0, attempt=0, error_restarts=0, infra_restarts=0, forget=False)
    nodes = [
        Node(rank=rank, role=slot.role, role_index=slot.index, flavor_id=draft.flavor_of(rank)["id"],
             accelerators=jobspec.accelerators_of(draft.flavor_of(rank)), price=cost.price(draft.flavor_of(rank)),
             status="PLANNED")
        for rank, slot in enumerate(draft.layout.nodes)
    ]
    return job, nodes
