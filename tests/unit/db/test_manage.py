"""cml-nova-manage and cml-nova-status, as operators call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Code
from sqlalchemy import select

from cml_nova import exception, policy
from cml_nova.cmd import manage, manage_orphans, status
from cml_nova.compute import remains
from cml_nova.compute.fleet import Resource
from cml_nova.db import events, leases, migration
from cml_nova.db.engine import Database
from cml_nova.db.models import Job
from cml_nova.secrets import Vault, create_key_file
from cml_nova.states import Phase, Target
from tests.unit.api.conftest import make_conf


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    made = make_conf(tmp_path, auth_strategy="keystone")
    made.set_override("key_file", str(tmp_path / "fernet.keys"), "secrets")
    made.set_override("cloud", "local", "cloud")
    made.set_override("ssh_source_cidr", "192.0.2.0/24", "cloud")
    return made


def test_db_commands(conf: cfg.ConfigOpts, capsys: pytest.CaptureFixture[str]) -> None:
    manage.COMMANDS["db version"](conf)
    out, err = capsys.readouterr()
    assert out == "none\n"
    assert "db sync" in err
    manage.COMMANDS["db sync"](conf)
    manage.COMMANDS["db version"](conf)
    assert capsys.readouterr() == (f"{migration.latest()}\n", "")


def test_secrets_create_leaves_keys_alone(conf: cfg.ConfigOpts, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(conf.secrets.key_file)
    manage.COMMANDS["secrets create"](conf)
    key = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    manage.COMMANDS["secrets create"](conf)
    assert path.read_text() == key
    assert "left alone" in capsys.readouterr().out


def test_api_document(conf: cfg.ConfigOpts, capsys: pytest.CaptureFixture[str]) -> None:
    manage.COMMANDS["api document"](conf)
    assert json.loads(capsys.readouterr().out)["openapi"] == "3.1.0"


def test_all_is_well(conf: cfg.ConfigOpts) -> None:
    migration.sync(Database(conf))
    create_key_file(Path(conf.secrets.key_file))
    checks = status.Checks(conf)
    for check in (checks.configuration, checks.database, checks.policy_file, checks.key_file, checks.storage):
        assert check().code == Code.SUCCESS, check.__name__
    assert not list(Path(conf.storage.path).rglob("probe"))


def test_what_is_wrong_is_said(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    checks = status.Checks(conf)
    assert "db sync" in checks.database().details
    assert "secrets create" in checks.key_file().details
    create_key_file(Path(conf.secrets.key_file))
    Path(conf.secrets.key_file).chmod(0o644)
    assert "chmod" in checks.key_file().details
    conf.set_override("auth_strategy", "none", "api")
    assert "auth_strategy" in checks.configuration().details
    conf.set_override("auth_strategy", "keystone", "api")
    conf.clear_override("cloud", "cloud")
    assert "[cloud]" in checks.configuration().details
    assert checks.configuration().code == Code.FAILURE


def test_configuration_that_everybody_reads(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    path = tmp_path / "cml_nova.conf"
    path.write_text("[database]\nconnection = mysql+pymysql://cml:password@db/cml_nova\n")
    conf(["--config-file", str(path)], default_config_dirs=[])
    path.chmod(0o644)
    result = status.Checks(conf).configuration()
    assert result.code == Code.FAILURE
    assert f"chmod o= {path}" in result.details
    path.chmod(0o640)
    assert status.Checks(conf).configuration().code == Code.SUCCESS


def test_ssh_from_everywhere(conf: cfg.ConfigOpts) -> None:
    conf.clear_override("ssh_source_cidr", "cloud")
    result = status.Checks(conf).configuration()
    assert result.code == Code.WARNING
    assert "ssh_source_cidr" in result.details


def test_a_host_without_a_database(conf: cfg.ConfigOpts) -> None:
    conf.set_override("connection", None, "database")
    result = status.Checks(conf).database()
    assert result.code == Code.WARNING
    assert "workers" in result.details


def test_keys_that_do_not_open_what_is_sealed(conf: cfg.ConfigOpts) -> None:
    db = Database(conf)
    migration.sync(db)
    create_key_file(Path(conf.secrets.key_file))
    with db.write() as session:
        for name, vault in (("ours", Vault.from_conf(conf)), ("lost", Vault([Fernet.generate_key().decode()]))):
            session.add(Job(
                id=name, project_id="red", user_id="ann", name=name, spec={}, keys={}, sealed=vault.seal({}), phase=Phase.QUEUED,
                target=Target.RUN, created_at=0, updated_at=0, phase_started_at=0))
    result = status.Checks(conf).database()
    assert result.code == Code.FAILURE
    assert "1 of the last 2 jobs" in result.details


@pytest.mark.parametrize(("text", "code", "words"), [
    ('"cml:jobs:create": "role:boss"', Code.SUCCESS, ""),
    ('"cml:jobs:craete": "role:boss"', Code.WARNING, "cml:jobs:craete"),
    ('"cml:jobs:create": "rule:nope"', Code.FAILURE, "do not exist"),
    ('"cml:jobs:create": [', Code.FAILURE, "policy_file"),
])
def test_policy_file(conf: cfg.ConfigOpts, tmp_path: Path, text: str, code: Code, words: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    policy.make_enforcer(conf)  # registers the option
    conf.set_override("policy_file", str(tmp_path / "policy.yaml"), "oslo_policy")
    result = status.Checks(conf).policy_file()
    assert result.code == code
    assert words in (result.details or "")


def test_a_database_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cml_nova.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/nowhere/db.sqlite\n")
    done = subprocess.run([sys.executable, "-m", "cml_nova.cmd.manage", "--config-file", str(path), "db", "sync"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "[database] connection" in line
    assert "unable to open" in line


class Cloud:
    """Stands where a Fleet stands."""

    def __init__(self, *found: Resource) -> None:
        self.found = list(found)
        self.cleared: list[str] = []

    def inventory(self) -> list[Resource]:
        return self.found

    def clear(self, fleet: object, job_id: str) -> bool:
        self.cleared.append(job_id)
        return True


def make_job(conf: cfg.ConfigOpts, job_id: str, **columns: Any) -> Database:
    db = Database(conf)
    migration.sync(db)
    with db.write() as session:
        session.add(Job(**{"id": job_id, "project_id": "p", "user_id": "u", "name": "job", "phase": "RUNNING", "target": "RUN", "spec": {},
                           "keys": {}, "sealed": "", "created_at": 1.0, "updated_at": 1.0, "phase_started_at": 1.0, **columns}))
    return db


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    cloud = Cloud()
    monkeypatch.setattr(manage_orphans, "_fleet", lambda conf: cloud)
    monkeypatch.setattr(remains, "clear", cloud.clear)
    return cloud


def test_orphans_are_listed_for_people_and_for_programs(conf: cfg.ConfigOpts, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    make_job(conf, "alive")
    make_job(conf, "done", phase="DONE", outcome="SUCCEEDED")
    cloud.found = [Resource("server", "s1", "alive", 1.0)]
    assert manage.COMMANDS["orphans list"](conf, format="json") == 0
    assert json.loads(capsys.readouterr().out) == []
    cloud.found += [Resource("port", "p1", "done", None), Resource("group", "g1", "never-was", 5.0), Resource("server", "s2", "", 5.0)]
    assert manage.COMMANDS["orphans list"](conf, format="json") == 1
    assert [(r["kind"], r["id"], r["job_id"]) for r in json.loads(capsys.readouterr().out)] == [
        ("server", "s2", None), ("port", "p1", "done"), ("group", "g1", "never-was")]
    assert manage.COMMANDS["orphans list"](conf, format="table") == 1
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_orphans_are_reaped_but_for_those_that_name_no_job(
        conf: cfg.ConfigOpts, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    make_job(conf, "alive")
    cloud.found = [Resource(kind, kind, job, None) for job in ("alive", "gone") for kind in ("server", "group")]
    assert manage.COMMANDS["orphans reap"](conf, job=None) == 0
    assert cloud.cleared == ["gone"]
    cloud.found.append(Resource("server", "stray", "", None))
    assert manage.COMMANDS["orphans reap"](conf, job=None) == 1
    assert "stray" in capsys.readouterr().err


def test_what_a_living_job_has_is_not_reaped(conf: cfg.ConfigOpts, cloud: Cloud) -> None:
    make_job(conf, "alive")
    with pytest.raises(exception.Conflict, match="job reset alive"):
        manage.COMMANDS["orphans reap"](conf, job="alive")
    assert cloud.cleared == []
    assert manage.COMMANDS["orphans reap"](conf, job="gone") == 0
    assert cloud.cleared == ["gone"]


def test_a_job_that_is_reset_is_cleaned_up_by_whoever_comes_next(conf: cfg.ConfigOpts, capsys: pytest.CaptureFixture[str]) -> None:
    db = make_job(conf, "j", worker_id="w1", generation=7, lease_expires_at=10**12, cause="INFRA_LOST", status_reason="Lost node 1.")
    assert manage.COMMANDS["job reset"](conf, job="j") == 0
    with db.write() as session:
        with pytest.raises(exception.LeaseLost):
            leases.write(session, "j", 7, {})
        assert leases.claimable(session, 10) == ["j"]
        job = session.scalars(select(Job)).one()
        assert (job.phase, job.target, job.outcome, job.cause, job.generation) == ("TEARDOWN", "DELETE", "FAILED", "PLATFORM", 8)
        assert "cml-nova-manage job reset j" in str(job.status_reason)
        assert [event.kind for event in events.page(session, "j", 10)] == ["reset"]
    assert "FAILED" in capsys.readouterr().out


def test_a_reset_does_not_change_a_known_outcome(conf: cfg.ConfigOpts) -> None:
    db = make_job(conf, "j", phase="TEARDOWN", outcome="SUCCEEDED", worker_id="w1", generation=1, lease_expires_at=10**12)
    manage.COMMANDS["job reset"](conf, job="j")
    with db.read() as session:
        job = session.scalars(select(Job)).one()
        assert (job.phase, job.outcome, job.cause, job.status_reason, job.phase_started_at) == ("TEARDOWN", "SUCCEEDED", None, None, 1.0)


def test_only_a_job_that_has_not_ended_can_be_reset(conf: cfg.ConfigOpts) -> None:
    make_job(conf, "j", phase="DONE", outcome="SUCCEEDED")
    with pytest.raises(exception.Conflict, match="has ended with SUCCEEDED"):
        manage.COMMANDS["job reset"](conf, job="j")
    with pytest.raises(exception.NotFound):
        manage.COMMANDS["job reset"](conf, job="nobody")


def test_commands_are_read_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "cml_nova.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/db.sqlite\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cml_nova.cmd.manage", "--config-file", str(path), *words],
                              capture_output=True, text=True, check=False)

    assert run("db", "sync").returncode == 0
    done = run("job", "reset", "nobody")
    assert (done.returncode, done.stderr) == (1, "cml-nova-manage: There is no job nobody.\n")
    for wrong, said in ((("job", "reset"), "ID"), (("orphans", "eat"), "reap"), ((), "orphans")):
        done = run(*wrong)
        assert done.returncode == 2
        assert said in done.stderr
