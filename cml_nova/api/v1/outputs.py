"""What a job gives: log, events, metrics, nodes and tasks, artifacts. All of it stays readable when its servers are gone."""

from __future__ import annotations

import re
import threading
import time
from itertools import groupby
from typing import Any

import flask
from werkzeug.wsgi import FileWrapper

from cml_nova import exception
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import jobs as schemas
from cml_nova.api.services import services
from cml_nova.api.v1.jobs import find
from cml_nova.api.views import iso, maybe_iso, page_size, paged, seconds
from cml_nova.db import events as db_events
from cml_nova.db import jobs as db_jobs
from cml_nova.db import metrics as db_metrics
from cml_nova.db import nodes as db_nodes
from cml_nova.db.models import Job, Node, Task
from cml_nova.frameworks import get_framework
from cml_nova.states import Phase
from cml_nova.storage.base import artifact_prefix, log_key
from cml_nova.storage.times import read_times

RESOURCE = Resource("outputs", __name__)

_LOG_LIMIT = 65536
#: most bytes of a log that are given with times: empty lines would become 26 times as much
_TIMED_LIMIT = 1 << 18
#: how far before a time's offset the beginning of its line is looked for
_LONGEST_LINE = 1 << 16
_UNKNOWN_TIME = "-".ljust(len(iso(0)))
_PIECE = 1 << 16
#: seconds between looks for new text while a request waits for some
_LOOK = 0.1
_ENDED = (Phase.COLLECTING, Phase.TEARDOWN, Phase.DONE)


@RESOURCE.operation("GET", "/jobs/<job_id>/log", policy="jobs:get_log", query=schemas.LOG_QUERY, gives="text/plain")
def log(job_id: str, task: str | None, attempt: int | None, offset: int | None, tail: int | None, since: str | None,
        limit: int | None, wait: int | None, timestamps: bool | None) -> Any:
    """Read a task's log from a byte offset; X-Log-Next-Offset is where to go on, X-Log-Eof whether that is the end."""
    job = find(job_id, "jobs:get_log")
    attempt = max(1, job.attempt) if attempt is None else attempt
    key = log_key(job.id, attempt, _task(job, task))
    offset, limit = _begin(key, offset, tail, since), limit or _LOG_LIMIT
    if timestamps and limit > _TIMED_LIMIT:
        raise exception.BadRequest(f"limit: with timestamps it is at most {_TIMED_LIMIT}, not {limit}; ask for the rest from "
                                   "X-Log-Next-Offset on.", field="limit")
    until = time.monotonic() + min(wait or 0, services().conf.api.max_wait)
    pause = threading.Event()
    while True:
        # The end is looked for before the text: text that comes in between is not cut off.
        complete = _complete(job, attempt)
        data = services().storage.read(key, offset, limit)
        left = until - time.monotonic()
        if data or complete or left <= 0:
            break
        pause.wait(min(_LOOK, left))
        job = find(job_id, "jobs:get_log")
    response = flask.Response(_timed(key, offset, data) if timestamps else data, mimetype="text/plain")
    response.headers["X-Log-Offset"] = str(offset)
    response.headers["X-Log-Next-Offset"] = str(offset + len(data))
    response.headers["X-Log-Eof"] = "true" if complete and len(data) < limit else "false"
    response.headers["X-Log-Attempt"] = str(attempt)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _task(job: Job, wanted: str | None) -> str:
    """The task whose log is meant: by default the first one that is the user's.

    :raises NotFound: the job has no such task.
    """
    counts = {role: entry["count"] for role, entry in job.spec["roles"].items()}
    names = [task.name for task in get_framework(job.framework).layout(counts).tasks]
    if wanted is None:
        return names[0]
    if wanted not in names:
        raise exception.NotFound(f"task: the job has no task {wanted!r}; its tasks are {', '.join(names[:20])}.")
    return wanted


def _begin(key: str, offset: int | None, tail: int | None, since: str | None) -> int:
    """Tell at which byte of a log to begin.

    :raises BadRequest: that is said in several ways, or by a time that is none.
    """
    ways = {"offset": offset, "tail": tail, "since": since}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise exception.BadRequest(f"{given[1]}: it is in place of {given[0]}; give one of them.", field=given[1])
    if tail is not None:
        return max(0, (services().storage.size(key) or 0) - tail)
    return offset or 0 if since is None else _since(key, since)


def _since(key: str, since: str) -> int:
    """Tell at which byte the line begins that came first at a time or after it. Where no times are known, that is the first line.

    :raises BadRequest: it is no time.
    """
    if re.fullmatch(r"[0-9]{1,10}", since):
        at = time.time() - int(since)
    else:
        at = seconds("since", since, "or a number of seconds such as 600")
    storage = services().storage
    with read_times(storage, key) as times:
        if not len(times):
            return 0
        place = times.since(at)
    if place is None:
        return storage.size(key) or 0
    start = max(0, place - _LONGEST_LINE)
    before = storage.read(key, start, place - start)
    return start + max(before.rfind(b"\n"), before.rfind(b"\r")) + 1


def _timed(key: str, offset: int, data: bytes) -> bytes:
    """Put before each line of a piece, and before its beginning, when it came."""
    with read_times(services().storage, key) as times:
        moments = iter([*times.between(offset, offset + len(data)), (offset + len(data), 0)])
    begins, at = next(moments)
    stamp = _UNKNOWN_TIME
    pieces: list[bytes] = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        while begins <= offset:
            stamp = iso(at / 1000)
            begins, at = next(moments)
        pieces += f"{stamp} ".encode(), line
        offset += len(line)
    return b"".join(pieces)


def _complete(job: Job, attempt: int) -> bool:
    """Whether all text of an attempt has arrived: its processes have ended and the worker has gone on to what comes after."""
    return job.phase in _ENDED or attempt < job.attempt or (attempt == 0 and job.attempt > 0)


@RESOURCE.operation("GET", "/jobs/<job_id>/events", policy="jobs:get_events", query=schemas.EVENTS_QUERY, response=schemas.EVENTS)
def events(job_id: str, limit: int | None, marker: int | None) -> Any:
    """List what happened to a job, oldest first."""
    find(job_id, "jobs:get_events")
    size = page_size(limit)
    with services().db.read() as session:
        rows = db_events.page(session, job_id, size, marker)
    return paged("events", [
        {"id": row.id, "at": iso(row.at), "kind": row.kind, "message": row.message, "detail": row.detail} for row in rows], size)


@RESOURCE.operation("GET", "/jobs/<job_id>/metrics", policy="jobs:get_metrics", query=schemas.METRICS_QUERY, response=schemas.METRICS)
def metrics(job_id: str, name: str | None, task: str | None, since: str | None) -> Any:
    """Give the values that the training reported, as series over time."""
    find(job_id, "jobs:get_metrics")
    with services().db.read() as session:
        points = db_metrics.select_points(
            session, job_id, name=name, task=task, since=None if since is None else seconds("since", since))
    series = [
        {"name": key[0], "task": key[1],
         "data": [{"x": iso(p.at), "y": p.value, "step": p.step} for p in group]}
        for key, group in groupby(points, key=lambda p: (p.name, p.task))
    ]
    return {"series": series, "settings": {}}


@RESOURCE.operation("GET", "/jobs/<job_id>/nodes", policy="jobs:get_nodes", response=schemas.NODES)
def nodes(job_id: str) -> Any:
    """List a job's nodes with the tasks of the newest attempt."""
    job = find(job_id, "jobs:get_nodes")
    with services().db.read() as session:
        rows = db_nodes.nodes_of(session, job_id)
        tasks = db_nodes.tasks_of(session, job_id, job.attempt)
    return {"nodes": [_node(row, [task for task in tasks if task.node_rank == row.rank]) for row in rows]}


def _node(node: Node, tasks: list[Task]) -> dict[str, Any]:
    # A server that is gone, or not there yet, has no path that could be lost.
    since = node.unreachable_since if node.status == "ACTIVE" else None
    return {
        "rank": node.rank, "role": node.role, "index": node.role_index, "status": node.status if since is None else "UNREACHABLE",
        "address": node.address, "server_id": node.server_id, "fault": node.fault, "unreachable_since": maybe_iso(since),
        "tasks": [{
            "name": task.name, "attempt": task.attempt, "state": task.state, "exit_code": task.exit_code, "signal": task.signal,
            "started_at": maybe_iso(task.started_at), "ended_at": maybe_iso(task.ended_at),
        } for task in tasks],
    }


@RESOURCE.operation("GET", "/jobs/<job_id>/checkpoint", policy="jobs:get_artifacts", response=schemas.CHECKPOINT)
def checkpoint(job_id: str) -> Any:
    """Say what was saved last of the job's checkpoints while it ran: what its next attempt would go on from."""
    find(job_id, "jobs:get_artifacts")
    with services().db.read() as session:
        known = db_jobs.checkpoint(session, job_id)
    if known is None:
        return {"checkpoint": None}
    return {"checkpoint": {"attempt": known["attempt"], "saved_at": iso(known["saved_at"]), "files": known["files"],
                           "bytes": known["bytes"]}}


@RESOURCE.operation("GET", "/jobs/<job_id>/artifacts", policy="jobs:get_artifacts", response=schemas.ARTIFACTS)
def artifacts(job_id: str) -> Any:
    """List the files that the training wrote to its output directory."""
    find(job_id, "jobs:get_artifacts")
    prefix = artifact_prefix(job_id)
    return {"artifacts": [
        {"path": entry.key.removeprefix(f"{prefix}/"), "size": entry.size, "updated_at": iso(entry.modified_at)}
        for entry in services().storage.list(prefix)]}


@RESOURCE.operation("GET", "/jobs/<job_id>/artifacts/<path:path>", policy="jobs:get_artifacts", gives="application/octet-stream")
def artifact(job_id: str, path: str) -> Any:
    """Download such a file, or a range of its bytes."""
    find(job_id, "jobs:get_artifacts")
    key = f"{artifact_prefix(job_id)}/{path}"
    try:
        entry, file = services().storage.stat(key), services().storage.open(key)
    except (FileNotFoundError, ValueError):
        entry = None
    if entry is None:
        raise exception.NotFound(f"The job has no artifact {path[:200]!r}; GET /v1/jobs/{job_id}/artifacts lists what there is.")
    response = flask.Response(FileWrapper(file, _PIECE), mimetype="application/octet-stream")
    response.content_length = entry.size
    # Another attempt may bring another file of the same name: who goes on with a download says which one it began with.
    response.set_etag(f"{entry.size:x}-{int(entry.modified_at * 1000):x}")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.set("Content-Disposition", "attachment", filename=path.rpartition("/")[2])
    return response.make_conditional(flask.request, accept_ranges=True, complete_length=entry.size)
