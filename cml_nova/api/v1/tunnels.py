"""/v1/jobs/{id}/tunnels: a way to a node of a running job, which the workers' tunnels give to whoever shows the token."""

from __future__ import annotations

from typing import Any

from cml_nova import exception
from cml_nova.api import auth
from cml_nova.api.jobspec import parse_public_key
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import tunnels as schemas
from cml_nova.api.services import services
from cml_nova.api.v1.jobs import find
from cml_nova.api.views import iso
from cml_nova.db import access
from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job
from cml_nova.frameworks import get_framework
from cml_nova.tickets import VALID_FOR, Ticket

RESOURCE = Resource("tunnels", __name__)


@RESOURCE.operation("POST", "/jobs/<job_id>/tunnels", policy="jobs:open_tunnel", status=201, body=schemas.CREATE, response=schemas.TUNNEL)
def create(job_id: str, body: dict[str, Any]) -> Any:
    """Give a token that opens a tunnel to a node: to a port of it, or to its SSH server for a public key.

    It is shown to ``url``, as "Authorization: Bearer", in the request for a websocket, within a minute.
    """
    job, wanted = find(job_id, "jobs:open_tunnel"), body["tunnel"]
    url = services().conf.tunnel.public_url
    if not url:
        raise exception.NotConfigured("This deployment has no tunnels to nodes; an operator sets [tunnel] public_url and port for that.")
    if ("port" in wanted) == ("public_key" in wanted):
        raise exception.BadRequest("tunnel.port: give either that, or public_key for the node's SSH server.", field="tunnel.port")
    rank, task = _place(job, wanted)
    key = parse_public_key("tunnel.public_key", wanted["public_key"]) if "public_key" in wanted else None
    with services().db.read() as session:
        found = access.find(session, job.id, rank)
        refused = access.refusal(*found) if found else f"There is no job {job.id} any more."
        expires_at = db_jobs.server_time(session) + VALID_FOR
        host_key = found[0].keys["host"] if found else None
    if refused:
        raise exception.Conflict(refused)
    context = auth.current()
    ticket = Ticket(job.id, rank, wanted.get("port"), key, str(context.user_id), context.request_id, expires_at)
    return {"tunnel": {
        "url": url, "token": ticket.seal(services().vault), "expires_at": iso(expires_at), "node": rank, "task": task,
        "port": ticket.port, "user": job.spec["image"].get("ssh_user") or services().conf.remote.user, "host_key": host_key,
    }}, 201


def _place(job: Job, wanted: dict[str, Any]) -> tuple[int, str | None]:
    """Find the node that is meant, and the task if one was named: by default the first one.

    :raises NotFound: the job has no such node or task.
    """
    layout = get_framework(job.framework).layout({role: entry["count"] for role, entry in job.spec["roles"].items()})
    if "node" in wanted and "task" in wanted:
        raise exception.BadRequest("tunnel.node: it is in place of task; give one of them.", field="tunnel.node")
    if "node" in wanted:
        if wanted["node"] >= len(layout.nodes):
            raise exception.NotFound(f"tunnel.node: the job has no node {wanted['node']}; its nodes are 0 to {len(layout.nodes) - 1}.")
        return wanted["node"], None
    ranks = {task.name: task.node for task in layout.tasks}
    task = wanted.get("task", layout.tasks[0].name)
    if task not in ranks:
        raise exception.NotFound(f"tunnel.task: the job has no task {task!r}; its tasks are {', '.join(list(ranks)[:20])}.")
    return ranks[task], task
