"""The proxy: each method is a request or a few, named after what it does."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from openstack import exceptions, proxy

from cml_nova.clients.sdk import downloads, logs, packing, tunnels
from cml_nova.clients.sdk.patience import Patience
from cml_nova.clients.sdk.resources import (
    Artifact,
    Checkpoint,
    Event,
    Flavor,
    Framework,
    Job,
    Node,
    Package,
    Plan,
    Quota,
    Series,
    Usage,
    Worker,
)

#: statuses that a job keeps
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")
#: seconds that an answer may take, and that to a package, which is looked through first
_ANSWER, _ANSWER_TO_PACKAGE = 60, 600
#: seconds that a piece of a log may take beyond what was asked to wait
_ANSWER_TO_WAIT = 20


class Proxy(proxy.Proxy):
    """``conn.machine_learning``. Where a method takes a job or a package, an id will do.

    All methods raise ``openstack.exceptions.HttpException`` (or one of its kinds, such as ``ResourceNotFound``) for what the service
    refuses; ``cml_nova.clients.sdk.explain`` puts it in the service's words.
    """

    api_version = "1"

    def request(self, url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request; one that gets no answer fails after a minute, or after what clouds.yaml says (api_timeout).

        By default openstacksdk would wait for ever, and a host that has vanished does not say so.
        """
        if getattr(self.session, "timeout", None) is None:
            kwargs.setdefault("timeout", _ANSWER)
        return super().request(url, method, *args, **kwargs)

    # jobs

    def jobs(self, **query: Any) -> Iterator[Job]:
        """List jobs, the newest first.

        :param query: name, status (one or a list), framework, metadata (list of "key=value"), changes_since, sort_key, sort_dir,
            limit (items of one request), marker; for operators all_projects, project_id, user_id.
        """
        return self._list(Job, **query)

    def create_job(self, **attrs: Any) -> Job:
        """Create a job from the keys of a job document.

        Without a client_token it gets one, so that a request that has to be repeated makes no second job.
        """
        attrs.setdefault("client_token", str(uuid.uuid4()))
        return self._create(Job, **attrs)

    def plan_job(self, **attrs: Any) -> Plan:
        """Say what ``create_job`` would do with the same keys, and create nothing.

        What it would refuse is refused here, in the same words.
        """
        response = self.post("/jobs/plan", json={"job": attrs})
        exceptions.raise_from_response(response)
        return self._existing(Plan, response.json()["plan"])

    def get_job(self, job: str | Job) -> Job:
        """Give a job as it is now."""
        return self._get(Job, _id(job), skip_cache=True)

    def find_job(self, name_or_id: str, ignore_missing: bool = True) -> Job | None:
        """Find a job by its id or its name.

        :raises ResourceNotFound: there is none; with ``ignore_missing``, None is given instead.
        :raises DuplicateResource: several have the name.
        """
        # Not openstacksdk's way, which puts the name into a path.
        if _is_uuid(name_or_id):
            with contextlib.suppress(exceptions.ResourceNotFound):
                return self.get_job(name_or_id)
        found = list(self.jobs(name=name_or_id))
        if len(found) > 1:
            ids = ", ".join(f"{job.id} ({job.status})" for job in found[:5])
            raise exceptions.DuplicateResource(f"{len(found)} jobs have the name {name_or_id!r}; give an id, such as {ids}.")
        if not found and not ignore_missing:
            raise exceptions.ResourceNotFound(f"There is no job with the id or the name {name_or_id!r} in this project.")
        return found[0] if found else None

    def update_job(self, job: str | Job, **attrs: Any) -> Job:
        """Change what may be changed of a job: name, description, priority, metadata (as a whole)."""
        return self._update(Job, _id(job), **attrs)

    def delete_job(self, job: str | Job, ignore_missing: bool = True) -> None:
        """Delete a job with all that it left.

        One that has not ended is cancelled first, and goes when nothing of it is left in the cloud.
        """
        self._delete(Job, _id(job), ignore_missing=ignore_missing)

    def cancel_job(self, job: str | Job) -> Job:
        """Cancel a job: it is stopped, what it wrote so far is kept.

        :raises ConflictException: it has ended.
        """
        response = self.post(f"/jobs/{_id(job)}/cancel")
        exceptions.raise_from_response(response)
        return self._existing(Job, response.json()["job"])

    def restart_job(self, job: str | Job) -> Job:
        """Make a new job of one that has ended: from the same document, going on from its last checkpoint, or anew if it had succeeded.

        :raises ConflictException: it has not ended.
        """
        # so that a request that has to be repeated makes no second job
        response = self.post(f"/jobs/{_id(job)}/restart", params={"client_token": str(uuid.uuid4())})
        exceptions.raise_from_response(response)
        return self._existing(Job, response.json()["job"])

    def job_document(self, job: str | Job) -> dict[str, Any]:
        """Give {"document": what the job was made of, with what was changed since; "secrets": the names of its secrets}."""
        response = self.get(f"/jobs/{_id(job)}/document")
        exceptions.raise_from_response(response)
        answer: dict[str, Any] = response.json()
        return answer

    def wait_for_job(
        self, job: str | Job, callback: Callable[[Job], None] | None = None, timeout: float | None = None,
        statuses: Sequence[str] = TERMINAL, interval: float = 2, patience: Patience | None = None,
    ) -> Job:
        """Wait until a job has one of these statuses, or has ended; give it as it is then.

        Whether that is what was hoped for is in its status. Interrupting the wait does nothing to the job.

        :param callback: called with the job each time that it was looked at.
        :param timeout: seconds; None for as long as it takes.
        :param interval: seconds between looks.
        :param patience: for how long the service may be away meanwhile.
        :raises ResourceTimeout: the time is over.
        """
        patience = patience or Patience()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            now = patience.call(lambda: self.get_job(job))
            if callback is not None:
                callback(now)
            if now.status in statuses or now.status in TERMINAL:
                return now
            left = interval if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise exceptions.ResourceTimeout(f"The job {now.id} is {now.status} after {timeout:g} s, not yet {' or '.join(statuses)}.")
            time.sleep(min(interval, left))

    # what jobs have and give

    def job_nodes(self, job: str | Job) -> Iterator[Node]:
        """List a job's nodes with the tasks of the newest attempt."""
        return self._list(Node, paginated=False, job_id=_id(job))

    def job_events(self, job: str | Job, **query: Any) -> Iterator[Event]:
        """List what happened to a job, oldest first.

        :param query: limit (items of one request), marker (id of the last event that is known).
        """
        return self._list(Event, job_id=_id(job), **query)

    def job_metrics(self, job: str | Job, **query: Any) -> Iterator[Series]:
        """List the values that a job's tasks reported.

        :param query: name, task, since (a time in ISO 8601).
        """
        return self._list(Series, paginated=False, job_id=_id(job), **query)

    def job_checkpoint(self, job: str | Job) -> Checkpoint | None:
        """Say what was saved last of a job's checkpoints; None if nothing was."""
        response = self.get(f"/jobs/{_id(job)}/checkpoint")
        exceptions.raise_from_response(response)
        found = response.json()["checkpoint"]
        return None if found is None else self._existing(Checkpoint, found)

    def job_artifacts(self, job: str | Job) -> Iterator[Artifact]:
        """List the files that a job brought back."""
        return self._list(Artifact, paginated=False, job_id=_id(job))

    def download_artifact(self, job: str | Job, path: str, file: str | os.PathLike[str],
                          callback: Callable[[int, int], None] | None = None, patience: Patience | None = None) -> Path:
        """Write an artifact into a file, which appears when it is complete; an older one of the name is replaced. Gives the file.

        A connection that breaks is made again, and the transfer goes on where it was.

        :param path: as ``job_artifacts`` gives it.
        :param callback: called with (bytes that are there, bytes in all).
        :param patience: for how long the service may be away meanwhile.
        """
        return downloads.download(self, _id(job), path, file, patience or Patience(), callback)

    def download_artifacts(self, job: str | Job, directory: str | os.PathLike[str], artifacts: Iterable[Artifact] | None = None,
                           patience: Patience | None = None) -> Iterator[Path]:
        """Write artifacts below a directory, each under its path; give each file when it is there.

        :param artifacts: which of ``job_artifacts``; by default all.
        :raises UnsafePathError: one would be outside of the directory; it is not written.
        """
        for artifact in self.job_artifacts(job) if artifacts is None else artifacts:
            target = downloads.place(directory, artifact.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield self.download_artifact(job, artifact.path, target, patience=patience)

    def job_log(self, job: str | Job, task: str | None = None, attempt: int | None = None, offset: int = 0, limit: int | None = None,
                wait: int = 0, tail: int | None = None, since: str | float | None = None, timestamps: bool = False) -> logs.LogPiece:
        """Read a piece of a task's log.

        :param task: such as "worker:0"; by default the first one.
        :param attempt: 0 is the log of the setup command; by default the newest one.
        :param offset: in bytes, where to begin.
        :param limit: most bytes.
        :param wait: seconds to wait for text where there is none.
        :param tail: in place of ``offset``, how many bytes before the end of what is there to begin.
        :param since: in place of ``offset``, a time in ISO 8601, or how many seconds ago: begin with the line that came then or later.
        :param timestamps: give the times of the lines, too.
        """
        query = {"task": task, "attempt": attempt, "offset": offset if tail is None and since is None else None, "limit": limit,
                 "wait": wait or None, "tail": tail, "since": since if since is None or isinstance(since, str) else round(since),
                 "timestamps": "true" if timestamps else None}
        response = self.get(f"/jobs/{_id(job)}/log", params={key: value for key, value in query.items() if value is not None},
                            skip_cache=True, timeout=_ANSWER_TO_WAIT + wait, connect_retries=0)
        exceptions.raise_from_response(response)
        # Counted, not believed: a connection that breaks in the middle of a piece goes unnoticed with some versions of urllib3.
        data, times = logs.split(response.content) if timestamps else (response.content, ())
        next_offset = int(response.headers["X-Log-Offset"]) + len(data)
        whole = next_offset == int(response.headers["X-Log-Next-Offset"])
        return logs.LogPiece(data, next_offset, whole and response.headers["X-Log-Eof"] == "true",
                             int(response.headers["X-Log-Attempt"]), not whole or len(data) == limit, times)

    def follow_log(self, job: str | Job, tasks: Sequence[str] | None = None, attempt: int | None = None,
                   patience: Patience | None = None, lines: int | None = None,
                   since: str | float | None = None) -> Iterator[logs.LogLine]:
        """Give the lines of a job's logs as they come, each once and in order per task, until there will be no more.

        What has come of several tasks meanwhile is in the order of its times.

        It goes on where it was after the service, Keystone or the network was away, and after the token has expired.

        :param tasks: whose logs; by default those of all roles that the job counts, which leaves out what a framework starts beside them.
        :param attempt: only this one (0 for the setup command); by default the newest one and those that follow it.
        :param patience: for how long the service may be away.
        :param lines: begin with the last so many lines of what each log has now, as far as they are in its last MiB; by default with
            the first one.
        :param since: begin with what came at a time (in ISO 8601) or later, or in the last so many seconds.
        """
        patience = patience or Patience()
        return logs.follow(self, _id(job), self._tasks(job, tasks, patience), attempt, patience, lines, since)

    def log_lines(self, job: str | Job, tasks: Sequence[str] | None = None, attempt: int | None = None,
                  patience: Patience | None = None, lines: int | None = None,
                  since: str | float | None = None) -> Iterator[logs.LogLine]:
        """Give the lines that a job's logs have now, in the order of their times; see ``follow_log``.

        :param attempt: by default the newest one.
        """
        patience = patience or Patience()
        return logs.read(self, _id(job), self._tasks(job, tasks, patience), attempt, patience, lines, since)

    def _tasks(self, job: str | Job, tasks: Sequence[str] | None, patience: Patience) -> Sequence[str]:
        """Give the tasks that are asked for, or those of all roles that a job counts."""
        if tasks is not None:
            return tasks
        roles = patience.call(lambda: self.get_job(job)).roles
        return [f"{role}:{index}" for role, entry in roles.items() for index in range(entry["count"])]

    # ways to what runs

    def create_job_tunnel(self, job: str | Job, port: int | None = None, public_key: str | None = None, task: str | None = None,
                          node: int | None = None) -> tunnels.TunnelTicket:
        """Get what opens a tunnel to a node of a running job, within a minute: to a port of it, or to its SSH server.

        :param port: on which something on the node listens.
        :param public_key: in place of a port: a line of a file like id_ed25519.pub, which may log in for two minutes from the opening on.
        :param task: whose node is meant, such as "worker:1"; by default the first one's.
        :param node: rank of the node, in place of a task.
        :raises ConflictException: the job has no such node now.
        """
        given = {"port": port, "public_key": public_key, "task": task, "node": node}
        wanted = {key: value for key, value in given.items() if value is not None}
        response = self.post(f"/jobs/{_id(job)}/tunnels", json={"tunnel": wanted}, log=False)  # the answer has a secret
        exceptions.raise_from_response(response)
        answer = response.json()["tunnel"]
        return tunnels.TunnelTicket(**{name: answer[name] for name in tunnels.TunnelTicket.__dataclass_fields__})

    def open_tunnel(self, ticket: tunnels.TunnelTicket) -> tunnels.Tunnel:
        """Open a tunnel.

        :raises TunnelError: that can't be done; says why.
        """
        return tunnels.Tunnel(ticket, getattr(self.session, "verify", True))

    def forward_port(self, job: str | Job, port: int, local_port: int = 0, task: str | None = None, node: int | None = None,
                     notify: Callable[[str], None] | None = None) -> tunnels.Forward:
        """Have a port of this machine lead to a port of a node: ``with ml.forward_port(job, 6006) as forward: ... forward.address``.

        :param local_port: 0 for any that is free.
        :param notify: called with a sentence for each connection that could not be made.
        :raises ConflictException: the job has no such node now.
        :raises OSError: the local port can't be had.
        """
        def ask() -> tunnels.TunnelTicket:
            return self.create_job_tunnel(job, port=port, task=task, node=node)

        ask()
        return tunnels.Forward(ask, self.open_tunnel, local_port, notify or (lambda text: None))

    # packages

    def packages(self, **query: Any) -> Iterator[Package]:
        """List the project's packages, the newest first.

        :param query: name, sha256, limit (items of one request), marker.
        """
        return self._list(Package, **query)

    def get_package(self, package: str | Package) -> Package:
        """Give a package."""
        return self._get(Package, _id(package))

    def delete_package(self, package: str | Package, ignore_missing: bool = True) -> None:
        """Delete a package.

        :raises ConflictException: a job that has not ended needs it.
        """
        self._delete(Package, _id(package), ignore_missing=ignore_missing)

    def upload_package(self, directory: str | os.PathLike[str], name: str | None = None,
                       max_bytes: int = packing.MAX_BYTES) -> Package:
        """Pack a directory and upload it, unless the project has the same content already; see ``packing.pack``.

        :param name: by default the directory's.
        :param max_bytes: largest total size of the files.
        :raises PackingError: the directory can't be packed; says why.
        """
        with tempfile.TemporaryFile() as file:
            packed = packing.pack(directory, file, max_bytes)
            for package in self.packages(sha256=packed.sha256):
                return package
            response = self.post("/packages", params={"name": name or packed.name, "sha256": packed.sha256}, data=packing.Body(file),
                                 headers={"Content-Type": "application/gzip"}, timeout=_ANSWER_TO_PACKAGE)
        exceptions.raise_from_response(response)
        return self._existing(Package, response.json()["package"])

    # what there is

    def frameworks(self) -> Iterator[Framework]:
        """List the frameworks, with their roles and images."""
        return self._list(Framework, paginated=False)

    def flavors(self) -> Iterator[Flavor]:
        """List the flavors, with their accelerators."""
        return self._list(Flavor, paginated=False)

    def workers(self) -> Iterator[Worker]:
        """List the worker processes; for operators."""
        return self._list(Worker, paginated=False)

    # what a project may have, and had

    def get_quota(self, project: str | None = None) -> Quota:
        """Give the limits of a project, and what is in use of them.

        :param project: id; by default the connection's project. Those of others are for operators.
        """
        response = self.get(_quota_path(project))
        exceptions.raise_from_response(response)
        return self._existing(Quota, response.json()["quota"])

    def update_quota(self, project: str | None = None, **limits: int | None) -> Quota:
        """Change limits of a project; for operators.

        :param project: id; by default the connection's project.
        :param limits: of jobs, nodes, accelerators: a number, -1 for no limit, None for the deployment's own limit.
        """
        response = self.put(_quota_path(project), json={"quota": {"limits": limits}})
        exceptions.raise_from_response(response)
        return self._existing(Quota, response.json()["quota"])

    def usage(self, start: str | None = None, end: str | None = None, project: str | None = None,
              all_projects: bool = False) -> Iterator[Usage]:
        """List what projects had, day by day (UTC).

        :param start: first day, such as "2026-01-31"; by default the last 30 days are given.
        :param end: last day; by default today.
        :param project: id of another project than the connection's; for operators.
        :param all_projects: those of all; for operators.
        """
        everywhere = True if all_projects or project else None
        query = {"start": start, "end": end, "project_id": project, "all_projects": everywhere}
        return self._list(Usage, paginated=False, **{key: value for key, value in query.items() if value is not None})

    def _existing(self, kind: Any, document: dict[str, Any]) -> Any:
        """Make a resource of what the service has answered."""
        return kind.existing(**document)


def _quota_path(project: str | None) -> str:
    return "/quota" if project is None else f"/quota/{quote(project, safe='')}"


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _id(value: Any) -> str:
    """Give the id of a resource that is given as such or by its id."""
    return str(getattr(value, "id", value))
