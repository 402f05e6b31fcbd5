"""cml-nova-manage and cml-nova-status, as operators call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Code

from cml_nova import policy
from cml_nova.cmd import manage, status
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import create_key_file
from tests.unit.api.conftest import make_conf


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    made = make_conf(tmp_path, auth_strategy="keystone")
    made.set_override("key_file", str(tmp_path / "fernet.keys"), "secrets")
    made.set_override("cloud", "local", "cloud")
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
