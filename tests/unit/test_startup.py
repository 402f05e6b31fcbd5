"""What does not let a daemon start is said with the option's name, the cause and a way out, and without what is secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception, rpc, startup
from cml_nova.compute.session import service_connection
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault, create_key_file
from cml_nova.storage import get_storage

PASSWORD = "hunter2"

#: what a daemon makes from its configuration
MAKERS: dict[str, Callable[[cfg.ConfigOpts], Any]] = {
    "account": service_connection, "bus": rpc.get_transport, "database": Database, "keys": Vault.from_conf, "storage": get_storage,
    "tables": lambda conf: migration.check(Database(conf)),
}


def configured(directory: Path, text: str) -> cfg.ConfigOpts:
    """Read a configuration, with DIR for the directory."""
    path = directory / "cml_nova.conf"
    path.write_text(text.replace("DIR", str(directory)))
    made = cfg.ConfigOpts()
    cml_conf.read(made, ["--config-file", str(path)], "cml-nova-daemon")
    return made


@pytest.mark.parametrize(("what", "text", "words"), [
    ("account", "", ["[cloud]", "auth_type", "tools/register-service"]),
    ("account", f"[cloud]\nauth_type = password\npassword = {PASSWORD}", ["[cloud] auth_type = password", "auth_url"]),
    ("account", "[cloud]\nauth_type = pasword", ["[cloud] auth_type = pasword", "could not be found"]),
    ("bus", f"[DEFAULT]\ntransport_url = cml:{PASSWORD}@broker", ["transport_url", "rabbit://USER"]),
    ("bus", f"[DEFAULT]\ntransport_url = rabit://cml:{PASSWORD}@broker", ["transport_url", "rabit", "rabbit://USER"]),
    ("database", "", ["[database] connection is not set", "mysql+pymysql://"]),
    ("database", f"[database]\nconnection = cml:{PASSWORD}@db/cml_nova", ["[database] connection", "it is no URL", "mysql+pymysql://"]),
    ("database", f"[database]\nconnection = oracle9://cml:{PASSWORD}@db/cml_nova", ["[database] connection", "oracle9"]),
    ("database", "[database]\nconnection = sqlite:///DIR/none/db", ["[database] connection", "unable to open"]),
    ("tables", "[database]\nconnection = sqlite:///DIR/db", ["[database] connection", "no tables", "cml-nova-manage db sync"]),
    ("keys", "[secrets]\nkey_file = DIR/none", ["[secrets] key_file", "DIR/none", "cml-nova-manage secrets create"]),
    ("keys", "[secrets]\nkey_file = DIR", ["[secrets] key_file", "can't be read"]),
    ("keys", "[secrets]\nkey_file = DIR/cml_nova.conf", ["[secrets] key_file", "DIR/cml_nova.conf", "Fernet keys, one a line"]),
    ("storage", "[storage]\npath = DIR/cml_nova.conf/below", ["[storage] path", "DIR/cml_nova.conf/below", "the service's user"]),
    ("storage", "[storage]\ndriver = tape", ["[storage] driver", "tape"]),
])
def test_what_is_wrong_is_said(tmp_path: Path, what: str, text: str, words: list[str]) -> None:
    with pytest.raises(exception.ConfigurationError) as refusal:
        MAKERS[what](configured(tmp_path, text))
    message = refusal.value.message
    assert [word for word in words if word.replace("DIR", str(tmp_path)) not in message] == [], message
    assert PASSWORD not in message and "\n" not in message


def test_an_option_without_a_good_value_is_found_before_anybody_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(cfg.Error, match=r"lease_time.*cml_nova\.conf.*soon"):
        configured(tmp_path, "[conductor]\nlease_time = soon")


def test_tables_of_an_older_release_are_too_few_and_those_of_a_newer_one_will_do(tmp_path: Path) -> None:
    db = Database(configured(tmp_path, "[database]\nconnection = sqlite:///DIR/db"))
    migration.sync(db)
    migration.check(db)
    for revision, older in (("0001", True), ("9999", False)):
        with db.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        if older:
            with pytest.raises(exception.ConfigurationError, match=r"older release.*db sync"):
                migration.check(db)
        else:
            migration.check(db)


def test_a_database_that_goes_away_after_it_was_connected_to_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(configured(tmp_path, "[database]\nconnection = sqlite:///DIR/db"))
    migration.sync(db)
    answers = [exception.DatabaseUnavailable("The service can't reach its database at this time; try again later."), migration.latest()]

    def version(_: Database) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pauses: list[float] = []
    monkeypatch.setattr(migration, "version", version)
    monkeypatch.setattr(migration.check.retry, "sleep", pauses.append)
    migration.check(db)
    assert (answers, pauses) == ([], [1])


def test_a_key_file_can_not_be_made_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(exception.ConfigurationError, match=r"\[secrets\] key_file .*none/keys can't be made: No such file"):
        create_key_file(tmp_path / "none" / "keys")


@pytest.mark.parametrize("error", [exception.ConfigurationError("it is so\nand so"), cfg.Error("it is so")])
def test_a_program_that_can_not_start_says_so_in_one_line(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    with pytest.raises(SystemExit) as end, startup.explained("cml-nova-daemon", 22):
        raise error
    assert end.value.code == 22
    assert capsys.readouterr() == ("", "cml-nova-daemon can't start: it is so\n")


def test_faults_of_the_program_itself_keep_their_trace() -> None:
    with pytest.raises(ZeroDivisionError), startup.explained("cml-nova-daemon"):
        raise ZeroDivisionError
