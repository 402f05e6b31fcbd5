"""Tunnels to nodes: the word of the database on who may be let through, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from cml_nova.db import access
from cml_nova.db.jobs import server_time
from cml_nova.db.models import Job, Node


def let_through(session: Session, ticket: dict[str, Any]) -> dict[str, Any]:
    """Give what a worker needs to reach the node of a ticket, and note in the job's events that it was given.

    :param ticket: fields of ``tickets.Ticket``.
    :returns: ``refused`` (why), or ``node`` (server_id, address), ``runtime``, ``image``, ``keys`` and ``sealed`` of the job.
    """
    if server_time(session) > ticket["expires_at"]:
        return {"refused": "The token has expired; ask for a new one."}
    found = access.find(session, ticket["job_id"], ticket["rank"])
    if found is None:
        return {"refused": f"There is no job {ticket['job_id']} any more."}
    job, node = found
    refused = access.refusal(job, node)
    if refused:
        return {"refused": refused}
    what = "its SSH server" if ticket["port"] is None else f"its port {ticket['port']}"
    access.note(session, job.id, f"The user {ticket['user_id']} opened a tunnel to node {node.rank}, {what}.",
                {"user_id": ticket["user_id"], "node": node.rank, "port": ticket["port"]})
    return {"node": {"server_id": node.server_id, "address": node.address}, "runtime": {"floating": job.runtime.get("floating", {})},
            "image": job.spec["image"], "keys": job.keys, "sealed": job.sealed}


def over(session: Session, nodes: Sequence[tuple[str, int, str]]) -> list[str | None]:
    """Say of servers that were nodes (job, rank, server) why a tunnel to them is over; None where it is not."""
    found = access.standing(session, {(job_id, rank) for job_id, rank, _ in nodes})
    return [_over(found.get((job_id, rank)), job_id, rank, server_id) for job_id, rank, server_id in nodes]


def _over(found: tuple[Job, Node] | None, job_id: str, rank: int, server_id: str) -> str | None:
    if found is None:
        return f"The job {job_id} was deleted."
    job, node = found
    if node.server_id != server_id:
        return f"Node {rank} of the job {job_id} was replaced."
    return access.refusal(job, node)
