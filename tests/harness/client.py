"""A client of the service's HTTP API for tests: thin, so that a test still shows what goes over the wire."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from keystoneauth1 import session as ks_session
from requests import Response

from tests.harness.base import Pace
from tests.harness.waiting import until

SERVICE_TYPE = "machine-learning"
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")
Job = dict[str, Any]


class Client:
    """A user of one project, who finds the service in the catalog.

    :param pace: how long and how often is waited; the timeouts of all methods, in seconds, are stretched by it.
    :param endpoint: the service's URL, where it is not the one in the catalog.
    """

    def __init__(self, session: ks_session.Session, pace: Pace = Pace(), endpoint: str | None = None) -> None:  # noqa: B008
        self._session = session
        self._endpoint = {"endpoint_override": endpoint} if endpoint else {}
        self._pace = pace

    def request(self, method: str, path: str, **kwargs: Any) -> Response:
        """Send a request; whatever the answer, give it back."""
        return self._session.request(path, method, endpoint_filter={"service_type": SERVICE_TYPE}, raise_exc=False, **self._endpoint,
                                     **kwargs)

    def get(self, path: str, **params: Any) -> Any:
        """GET a document. :raises AssertionError: the answer is no success."""
        response = self.request("GET", path, params=params)
        assert response.ok, f"GET {path} {params}: {response.status_code} {response.text}"
        return response.json()

    def upload(self, files: Mapping[str, str | bytes]) -> str:
        """Upload a package that has these files; give its id."""
        body = pack(files)
        params = {"name": "test", "sha256": hashlib.sha256(body).hexdigest()}
        response = self.request("POST", "/v1/packages", params=params, data=body, headers={"Content-Type": "application/gzip"})
        assert response.status_code in (200, 201), f"{response.status_code} {response.text}"
        return str(response.json()["package"]["id"])

    def submit(self, document: Mapping[str, Any], files: Mapping[str, str | bytes] | None = None) -> str:
        """Submit a job, its files packed and uploaded before; give its id."""
        body = dict(document)
        if files is not None:
            body["source"] = {"package": self.upload(files)}
        response = self.request("POST", "/v1/jobs", json={"job": body})
        assert response.status_code in (200, 202), f"{response.status_code} {response.text}"
        return str(response.json()["job"]["id"])

    def job(self, job_id: str) -> Job:
        job: Job = self.get(f"/v1/jobs/{job_id}")["job"]
        return job

    def jobs(self, **filters: Any) -> list[Job]:
        jobs: list[Job] = self.get("/v1/jobs", **filters)["jobs"]
        return jobs

    def wait(self, job_id: str, predicate: Callable[[Job], bool], timeout: float = 60) -> Job:
        """Wait until a job is as it should be. :raises AssertionError: it ended otherwise, or the time is over; with its events."""
        timeout *= self._pace.patience
        deadline = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if predicate(job):
                return job
            over = job["status"] in TERMINAL
            if over or time.monotonic() > deadline:
                raise AssertionError(f"the job {'ended otherwise' if over else f'is not as expected after {timeout} s'}: "
                                     f"{summary(job)}\nevents:\n{self.story(job_id)}")
            time.sleep(self._pace.interval)

    def wait_status(self, job_id: str, *statuses: str, timeout: float = 60) -> Job:
        return self.wait(job_id, lambda job: job["status"] in statuses, timeout)

    def finish(self, job_id: str, timeout: float = 90) -> Job:
        """Wait until a job is over."""
        return self.wait_status(job_id, *TERMINAL, timeout=timeout)

    def succeed(self, job_id: str, timeout: float = 90) -> Job:
        """Wait until a job is over. :raises AssertionError: it did not succeed."""
        job = self.finish(job_id, timeout)
        assert job["status"] == "SUCCEEDED", f"{summary(job)}\nevents:\n{self.story(job_id)}"
        return job

    def cancel(self, job_id: str) -> None:
        response = self.request("POST", f"/v1/jobs/{job_id}/cancel")
        assert response.status_code == 202, f"{response.status_code} {response.text}"

    def delete(self, job_id: str) -> Response:
        return self.request("DELETE", f"/v1/jobs/{job_id}")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.get(f"/v1/jobs/{job_id}/events", limit=1000)["events"]
        return events

    def story(self, job_id: str) -> str:
        """Give a job's events as text."""
        return "\n".join(f"  {e['at']} {e['kind']}: {e['message']} {e['detail'] or ''}" for e in self.events(job_id))

    def nodes(self, job_id: str) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.get(f"/v1/jobs/{job_id}/nodes")["nodes"]
        return nodes

    def log_piece(self, job_id: str, task: str, offset: int = 0, **params: Any) -> tuple[bytes, int, bool]:
        """Read a piece of a log; give it, the next offset, and whether the log ends there."""
        response = self.request("GET", f"/v1/jobs/{job_id}/log", params={"task": task, "offset": offset, **params})
        assert response.ok, f"log of {task}: {response.status_code} {response.text}"
        return response.content, int(response.headers["X-Log-Next-Offset"]), response.headers["X-Log-Eof"] == "true"

    def log_size(self, job_id: str, task: str = "worker:0") -> int:
        """Tell how many bytes of a (small) log are there now."""
        return self.log_piece(job_id, task, limit=1 << 20)[1]

    def log(self, job_id: str, task: str = "worker:0", attempt: int | None = None, timeout: float = 30) -> str:
        """Read a log from the start to its end, which must come within the time."""
        params = {} if attempt is None else {"attempt": attempt}
        pieces: list[bytes] = []
        offset = 0

        def ended() -> bool:
            nonlocal offset
            data, offset, eof = self.log_piece(job_id, task, offset, wait=1, **params)
            pieces.append(data)
            return eof

        until(ended, timeout * self._pace.patience, f"end of the log of {task}")
        return b"".join(pieces).decode()

    def metrics(self, job_id: str, **params: Any) -> list[dict[str, Any]]:
        series: list[dict[str, Any]] = self.get(f"/v1/jobs/{job_id}/metrics", **params)["series"]
        return series

    def artifacts(self, job_id: str) -> dict[str, int]:
        """Give the sizes of a job's artifacts in bytes, by path."""
        return {a["path"]: a["size"] for a in self.get(f"/v1/jobs/{job_id}/artifacts")["artifacts"]}

    def artifact(self, job_id: str, path: str) -> bytes:
        response = self.request("GET", f"/v1/jobs/{job_id}/artifacts/{path}")
        assert response.ok, f"{path}: {response.status_code} {response.text}"
        return bytes(response.content)


def pack(files: Mapping[str, str | bytes]) -> bytes:
    """Pack files into a .tar.gz, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def summary(job: Job) -> str:
    """Give a job in a line."""
    names = ("id", "name", "status", "phase", "outcome", "cause", "exit_code", "failed_task", "attempt", "status_reason")
    return ", ".join(f"{name}={job.get(name)!r}" for name in names)
