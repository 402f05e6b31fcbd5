"""Trains an example on the embedded service and cloud, from nothing to a model that predicts.

Runs inside the virtual environment that tools/quickstart has prepared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import bootstrap
import openstack
import quickstart_options
from daemons import DaemonError, Daemons
from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ks_exceptions
from watching import Job, Screen, Watch

GOOD = 0.9  # the accuracy that the examples must reach
PHASES = {"QUEUED": "queued", "PROVISIONING": "servers boot", "BOOTSTRAPPING": "code and ranks", "RUNNING": "training",
          "COLLECTING": "outputs come in", "TEARDOWN": "servers go"}


class QuickstartError(Exception):
    """Something is not as it should be; the message says what."""


class Timeline:
    """What took how long, in the order in which it was done."""

    def __init__(self) -> None:
        self._began = float(os.environ.get("CML_QUICKSTART_BEGAN", time.time()))
        self._entries: list[tuple[str, float]] = [("virtual environment", time.time() - self._began)]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.add(name, time.monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        self._entries.append((name, seconds))

    def total(self) -> float:
        return time.time() - self._began

    def __str__(self) -> str:
        entries = [*self._entries, ("in all", self.total())]
        return "\n".join(f"  {seconds:7.1f} s  {name}" for name, seconds in entries)


class Cloud:
    """The stand-in cloud as its users see it, through the clouds.yaml that it has written."""

    def __init__(self, clouds_file: Path) -> None:
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(clouds_file)
        self._user = openstack.connect(cloud="local")
        self._admin = openstack.connect(cloud="local-admin")
        self.api = adapter.Adapter(self._user.session, service_type="machine-learning", raise_exc=True)

    def servers(self) -> list[str]:
        """List the servers of all projects, as the administrator."""
        return [f"{server.name} ({server.id}, {server.status})" for server in self._admin.compute.servers(all_projects=True)]


class Quickstart:
    """One run. :param options: as quickstart_options gives them."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.directory = options.state_dir / "quickstart"
        self.venv = bootstrap.Venv(options.state_dir / "venv")
        self.daemons = Daemons(self.directory, options.state_dir, self.venv.command)
        self.example = bootstrap.REPOSITORY / "examples" / f"{options.framework}-digits"
        self.timeline = Timeline()
        self.screen = Screen()

    def run(self) -> None:
        """Do everything, and stop everything that was started.

        :raises QuickstartError: something went wrong, or the result is not good enough.
        """
        with self.daemons.locked():
            if self.options.down:
                stopped = self.daemons.stop()
                print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")
                return
            with self.timeline.phase("framework image"):
                self._build_image()
            kept = self.daemons.running()
            keep = bool(kept) or self.options.keep
            with self.timeline.phase("service and cloud start"):
                ports = kept or self._start()
            try:
                cloud = Cloud(self.daemons.clouds_file)
                if not kept:
                    self._cancel_old(cloud)
                self._train(cloud)
            except ks_exceptions.ClientException:
                self.daemons.check()  # a daemon that has died is a better word than a refused connection
                raise
            except KeyboardInterrupt:
                keep = bool(kept)  # what was started for this run goes with it
                raise
            finally:
                if keep:
                    self.daemons.keep()
                    self._say_how_to_go_on(ports["standalone"])
                else:
                    self.daemons.stop()

    def _build_image(self) -> None:
        command = [self.venv.command("cml-nova-localcloud"), "image", "build", self.options.framework,
                   "--state-dir", str(self.options.state_dir)]
        if bootstrap.call(command):
            raise QuickstartError(f"The image {self.options.framework!r} could not be built; the lines above say why.")

    def _start(self) -> dict[str, int]:
        self.screen.line("Starting the local cloud and the service")
        self.daemons.start(self.options.port, self.options.cloud_port, self.options.network)
        return {"standalone": self.options.port, "localcloud": self.options.cloud_port}

    def _cancel_old(self, cloud: Cloud) -> None:
        """Cancel what a run before left unfinished: the service would go on with it."""
        for job in cloud.api.get("/v1/jobs").json()["jobs"]:
            if job["phase"] != "DONE":
                self.screen.line(f"Cancelling job {job['id']}, which an earlier run has left unfinished")
                cloud.api.post(f"/v1/jobs/{job['id']}/cancel")

    def _train(self, cloud: Cloud) -> None:
        """Submit the example, watch it, check its model, and make sure that nothing is left."""
        job_id = self._submit(cloud)
        watch = Watch(cloud.api, job_id, self.screen)
        try:
            job = watch.run(self.daemons.check)
        except KeyboardInterrupt:
            self._cancel(cloud, job_id, watch)
            raise
        self._add_phases(cloud, job)
        if job["status"] != "SUCCEEDED":
            raise QuickstartError(self._explain(cloud, job))
        accuracy = self._reported_accuracy(cloud, job_id)
        with self.timeline.phase("model fetched and tried"):
            model = self._fetch_model(cloud, job_id)
            predicted = self._predict(model)
        left = cloud.servers()
        print(f"\nFinal test accuracy, as the training reported it: {accuracy:.4f}")
        print(f"Exported model: {model}")
        print(f"It was loaded back and classified {predicted['images']} test images; accuracy {predicted['accuracy']:.4f}")
        print(f"Time line:\n{self.timeline}")
        print(f"servers left in the cloud: {len(left)}", flush=True)
        if left:
            raise QuickstartError("Servers were left in the cloud: " + "; ".join(left))
        for what, value in (("reported", accuracy), ("loaded model's", predicted["accuracy"])):
            if value <= GOOD:
                raise QuickstartError(f"The {what} accuracy is {value}, which is not above {GOOD}.")

    def _submit(self, cloud: Cloud) -> str:
        with self.timeline.phase("package and submit"):
            name = "job-ps.json" if self.options.strategy == "ps" else "job.json"
            document = json.loads((self.example / name).read_text())
            if "roles" in document:
                document["roles"]["worker"]["count"] = self.options.workers
            else:
                document["workers"] = self.options.workers
            body = pack(self.example)
            query = {"name": self.example.name, "sha256": hashlib.sha256(body).hexdigest()}
            package = cloud.api.post("/v1/packages", params=query, data=body, headers={"Content-Type": "application/gzip"}).json()
            document["source"] = {"package": package["package"]["id"]}
            job: Job = cloud.api.post("/v1/jobs", json={"job": document}).json()["job"]
        self.screen.line(f"Submitted {job['name']} as job {job['id']} after {self.timeline.total():.1f} s")
        return str(job["id"])

    def _cancel(self, cloud: Cloud, job_id: str, watch: Watch) -> None:
        self.screen.line("-- interrupted: the job is cancelled; a second Ctrl-C does not wait for its end")
        cloud.api.post(f"/v1/jobs/{job_id}/cancel")
        watch.run(self.daemons.check, seconds=120)
        self.screen.line(f"servers left in the cloud: {len(cloud.servers())}")

    def _add_phases(self, cloud: Cloud, job: Job) -> None:
        """Enter the job's phases into the time line, by the times that the service gives."""
        entered = [("QUEUED", job["created_at"])]
        for event in cloud.api.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["events"]:
            if event["kind"] == "phase" and "phase" in event["detail"]:
                entered.append((event["detail"]["phase"], event["at"]))
        for (phase, begin), (_, end) in zip(entered, [*entered[1:], ("DONE", job["finished_at"])], strict=True):
            if phase in PHASES:
                self.timeline.add(PHASES[phase], (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())

    def _explain(self, cloud: Cloud, job: Job) -> str:
        """Say why a job has not succeeded; of a failed program its reason has the last lines of the log."""
        return (f"The job ended as {job['status']} ({job['cause']}): {job['status_reason']}\n"
                f"servers left in the cloud: {len(cloud.servers())}")

    def _reported_accuracy(self, cloud: Cloud, job_id: str) -> float:
        series = cloud.api.get(f"/v1/jobs/{job_id}/metrics", params={"name": "test_accuracy"}).json()["series"]
        if not series:
            raise QuickstartError("The training has reported no test accuracy.")
        return float(max(series[0]["data"], key=lambda point: point["step"])["y"])

    def _fetch_model(self, cloud: Cloud, job_id: str) -> Path:
        """Download what the job exported as its model; give the directory."""
        target = self.directory / "models" / job_id
        shutil.rmtree(target, ignore_errors=True)
        found = False
        for artifact in cloud.api.get(f"/v1/jobs/{job_id}/artifacts").json()["artifacts"]:
            kind, _, rest = artifact["path"].partition("/")
            node, _, path = rest.partition("/")
            if kind == "output" and path.startswith("model/"):
                file = target / path
                if not file.resolve().is_relative_to(target.resolve()):
                    raise QuickstartError(f"{node} has made an output with the path {path!r}.")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(cloud.api.get(f"/v1/jobs/{job_id}/artifacts/{artifact['path']}", headers={"Accept": "*/*"}).content)
                found = True
        if not found:
            raise QuickstartError("The job has exported no model.")
        return target / "model"

    def _predict(self, model: Path) -> dict[str, Any]:
        """Load the model in a process of its own, with the framework that made it."""
        python = self.options.state_dir / "images" / self.options.framework / "bin" / "python3"
        done = subprocess.run([python, "predict.py", model], cwd=self.example, capture_output=True, text=True, check=False,
                              env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONDONTWRITEBYTECODE": "1"})
        if done.returncode:
            raise QuickstartError(f"The model in {model} can't be loaded back:\n{done.stderr[-4000:]}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def _say_how_to_go_on(self, port: int) -> None:
        option = "" if self.options.state_dir == bootstrap.default_state_dir() else f" --state-dir {self.options.state_dir}"
        print(f"""
The service and the cloud go on running. To talk to them:
  export OS_CLIENT_CONFIG_FILE={self.daemons.clouds_file} OS_CLOUD=local
  export PATH={self.venv.path / 'bin'}:$PATH
  openstack ml job list --all; openstack server list; openstack image list; openstack flavor list
  TOKEN=$(openstack token issue -f value -c id)
  curl -s -H "X-Auth-Token: $TOKEN" http://127.0.0.1:{port}/v1/jobs
Their logs: {self.daemons.logs['standalone']} and {self.daemons.logs['localcloud']}
To stop them: tools/quickstart --down{option}""")


def pack(directory: Path) -> bytes:
    """Pack a directory's files as a .tar.gz: the same files always give the same bytes."""
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in member.name:
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as compressed, tarfile.open(fileobj=compressed, mode="w") as archive:
        for path in sorted(directory.iterdir()):
            archive.add(path, path.name, filter=plain)
    return buffer.getvalue()


def main(argv: list[str]) -> int:
    options = quickstart_options.parse(argv)
    run = Quickstart(options)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of more connections at a time than it keeps
    try:
        run.run()
    except KeyboardInterrupt:
        print("quickstart: interrupted", file=sys.stderr)
        raise
    except (QuickstartError, DaemonError, TimeoutError, ks_exceptions.ClientException) as error:
        run.screen.clear()
        print(f"\nquickstart: {error}", file=sys.stderr)
        for name, path in run.daemons.logs.items() if run.daemons.used else ():
            print(f"The log of the {name} daemon is {path}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    bootstrap.run_tool("quickstart", main, sys.argv[1:])
