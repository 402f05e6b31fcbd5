"""The schema on real databases: made by the migrations, the same as the models say, and safe to make again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from oslo_upgradecheck.upgradecheck import Code

from cml_nova.db.clock import now
from cml_nova.db.models import Base
from tests.harness.service import Database


@pytest.fixture
def config_file(database: Database, tmp_path: Path) -> Path:
    path = tmp_path / "cml_nova.conf"
    path.write_text(f"[database]\nconnection = {database.url}\n[secrets]\nkey_file = {tmp_path}/keys\n"
                    f"[storage]\npath = {tmp_path}/storage\n[cloud]\ncloud = local\n")
    return path


def run(command: str, config_file: Path, *args: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / command)
    return subprocess.run([program, "--config-file", str(config_file), *args], capture_output=True, text=True, check=False)


def manage(config_file: Path, *args: str) -> str:
    done = run("cml-nova-manage", config_file, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_migrations_make_what_the_models_say(database: Database, config_file: Path) -> None:
    manage(config_file, "db", "sync")
    engine = sa.create_engine(database.url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_sync_again_changes_nothing(config_file: Path) -> None:
    manage(config_file, "db", "sync")
    version = manage(config_file, "db", "version")
    assert version
    manage(config_file, "db", "sync")
    assert manage(config_file, "db", "version") == version


def test_upgrade_check_tells_whether_the_schema_is_there(config_file: Path) -> None:
    manage(config_file, "secrets", "create")
    assert "db sync" in check_of_database(config_file)["details"]
    manage(config_file, "db", "sync")
    assert check_of_database(config_file)["result"] == Code.SUCCESS


def check_of_database(config_file: Path) -> dict[str, Any]:
    done = run("cml-nova-status", config_file, "upgrade", "check", "--json")
    [found] = [check for check in json.loads(done.stdout)["checks"] if check["check"] == "Database"]
    return dict(found)


def test_clock_of_the_server_is_in_seconds_since_1970(database: Database) -> None:
    """And it moves within a transaction, or a lease could be taken by a clock that stands still."""
    engine = sa.create_engine(database.url)
    with engine.connect() as connection:
        first = connection.scalar(sa.select(now()))
        connection.execute(sa.text("SELECT pg_sleep(0.05)" if engine.dialect.name == "postgresql" else "SELECT SLEEP(0.05)"))
        second = connection.scalar(sa.select(now()))
    engine.dispose()
    assert abs(first - time.time()) < 5
    assert 0.04 < second - first < 5


def test_daemons_that_sync_at_the_same_time_do_not_collide(config_file: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: manage(config_file, "db", "sync"), range(2)))
    assert manage(config_file, "db", "version")
