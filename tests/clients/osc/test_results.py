"""What jobs give, and what there is to make jobs of."""

from __future__ import annotations

import csv
import os
import pty
from datetime import datetime, timedelta
from pathlib import Path

from tests.harness.client import Client
from tests.harness.command import Openstack


def at(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_u26_metrics(openstack: Openstack, done: str) -> None:
    text = openstack("ml", "job", "metric", "show", done, "--name", "loss", "--task", "worker:1", "-f", "csv").out
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["Value"]) for row in rows] == [1 / (1 + step) for step in range(5)]
    assert [int(row["Step"]) for row in rows] == list(range(5))
    summary = openstack.json("ml", "job", "metric", "show", done, "--summary")
    assert [(row["Task"], row["Count"], row["First"], row["Last"]) for row in summary] == [
        (f"worker:{rank}", 5, 1.0, 0.2) for rank in range(2)]
    assert "Course" not in summary[0], "it is for eyes"


def test_u26_a_terminal_has_the_course(openstack: Openstack, done: str) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal, os.fdopen(follower, "wb", buffering=0) as stdout:
        with openstack.start("ml", "job", "metric", "show", done, "--summary", stdout=stdout) as running:
            assert running.end().code == 0
        assert terminal.read(65536).decode().count("█▄▂▁▁") == 2


def test_u28_flavors_and_frameworks(openstack: Openstack) -> None:
    flavors = {row["Name"]: row for row in openstack.json("ml", "flavor", "list")}
    assert (flavors["gpu.large"]["Accelerator"], flavors["gpu.large"]["Accelerators"]) == ("GPU", 4)
    assert flavors["gpu.large"]["Cost per Hour"] == 7200.0
    assert (flavors["cpu.small"]["Accelerator"], flavors["cpu.small"]["Cost per Hour"]) == (None, None)
    frameworks = {row["Name"]: row for row in openstack.json("ml", "framework", "list")}
    assert frameworks["custom"]["Images"] == ["plain"]
    assert "ps" in frameworks["tensorflow"]["Roles"]
    assert flavors["cpu.small"]["Quota Left"] is None, "there is no limit"


def test_u32_events(openstack: Openstack, done: str) -> None:
    events = openstack.json("ml", "job", "event", "list", done)
    assert events[0]["Message"] == "The job was created with 2 nodes."
    assert events[-1]["Message"] == "Nothing is left in the cloud."
    assert sorted(event["At"] for event in events) == [event["At"] for event in events]
    assert len(openstack.json("ml", "job", "event", "list", "--long", "--max-items", "1", done)) == 1


def test_u33_completion(openstack: Openstack) -> None:
    script = openstack("complete").out
    assert "cmds_ml='flavor framework job package" in script
    assert "--dry-run" in script.partition("cmds_ml_job_create='")[2].partition("'")[0]


def test_nodes(openstack: Openstack, done: str) -> None:
    rows = openstack.json("ml", "job", "node", "list", done, "--long")
    assert [row["Tasks"] for row in rows] == [{f"worker:{rank}": "EXITED (exit code 0)"} for rank in range(2)]
    assert {row["Status"] for row in rows} == {"DELETED"}


def test_artifacts(openstack: Openstack, done: str, tmp_path: Path) -> None:
    listed = {row["Path"]: row["Size"] for row in openstack.json("ml", "job", "artifact", "list", done)}
    assert listed == {f"output/worker-{rank}/model.txt": 15 for rank in range(2)}
    openstack("ml", "job", "artifact", "save", done, "output/worker-1/*", "--directory", str(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["output/worker-1/model.txt"]
    assert (tmp_path / "output/worker-1/model.txt").read_text() == "model of rank 1"
    missing = openstack.run("ml", "job", "artifact", "save", done, "output/none")
    assert missing.code == 1
    assert f"openstack ml job artifact list {done}" in missing.err


def test_u14_u22_how_jobs_have_ended(openstack: Openstack, ends: dict[str, str], recovered: str) -> None:
    rows = {row["ID"]: row for row in openstack.json("ml", "job", "list", "--all", "--long")}
    end = {name: rows[job_id] for name, job_id in ends.items()}
    assert {name: (row["Status"], row["Cause"]) for name, row in end.items()} == {
        "setup": ("FAILED", "SETUP_ERROR"), "slow": ("TIMED_OUT", "TIMEOUT"), "large": ("TIMED_OUT", "NO_CAPACITY"),
        "failed": ("FAILED", "USER_ERROR"), "cancelled": ("CANCELLED", None)}
    assert {name: row["Exit Code"] for name, row in end.items() if row["Exit Code"] is not None} == {"setup": 3, "failed": 7}
    assert len({row["Status Reason"] for row in end.values()}) == 5
    assert (rows[recovered]["Status"], rows[recovered]["Attempt"], rows[recovered]["Restarts"]) == ("SUCCEEDED", 2, 1)


def test_u23_deadline(openstack: Openstack, client: Client, running: str, ends: dict[str, str]) -> None:
    shown = openstack.json("ml", "job", "show", running)
    assert at(shown["deadline"]) - at(shown["started_at"]) == timedelta(seconds=shown["max_run_time"])
    slow = client.job(ends["slow"])
    assert slow["deadline"] is None, "it has ended"
    assert at(slow["finished_at"]) - at(slow["started_at"]) < timedelta(seconds=slow["max_run_time"] + 30)


def test_u27_cost(openstack: Openstack, client: Client, done: str) -> None:
    shown = openstack.json("ml", "job", "show", done)
    assert shown["cost"] == client.job(done)["cost"]
    assert shown["cost"]["amount"] > 0
    assert (shown["cost"]["currency"], shown["cost"]["per_hour"]) == ("CHF", 7200.0)
    usage = openstack.json("ml", "usage", "show")
    assert sum(day["Node Time"] for day in usage) >= sum(day["Accelerator Time"] for day in usage) > 0
    assert sum(day["Cost"] for day in usage) >= shown["cost"]["amount"]
    assert {day["Currency"] for day in usage} == {"CHF"}
    assert f"{shown['cost']['amount']:.2f} CHF" in openstack("ml", "job", "list", "--all", "--name", "done").out


def test_workers_are_for_operators(openstack: Openstack) -> None:
    refused = openstack.run("ml", "worker", "list")
    assert refused.code == 1
    assert "roles" in refused.err
    assert "http" not in refused.err
    assert openstack.json("ml", "worker", "list", cloud="local-admin")[0]["Draining"] is False


def test_a_cloud_without_the_service(openstack: Openstack, tmp_path: Path) -> None:
    elsewhere = tmp_path / "clouds.yaml"
    elsewhere.write_text(openstack.clouds.read_text().replace("  local:\n", "  local:\n    machine_learning_service_type: other\n"))
    done = openstack.run("ml", "job", "list", env={"OS_CLIENT_CONFIG_FILE": str(elsewhere)})
    assert done.code == 1
    assert "openstack catalog list" in done.err
