"""Real servers for the service's daemons. Their URLs come from the environment; ``tools/run-tests services`` sees to that."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness.service import Daemons, Database
from tests.harness.stack import Stack, make_stack
from tests.harness.training import Gate

SERVERS = {"mariadb": "CML_TEST_MYSQL_URL", "postgresql": "CML_TEST_POSTGRES_URL"}


def url(variable: str) -> str:
    assert os.environ.get(variable), f"{variable} is not set: run these tests by tools/run-tests services, or name a server's URL"
    return os.environ[variable]


@pytest.fixture(scope="session", params=list(SERVERS))
def server_url(request: pytest.FixtureRequest) -> str:
    """A database server: the tests that use it run once with each."""
    return url(SERVERS[request.param])


@pytest.fixture
def database(server_url: str) -> Iterator[Database]:
    """An empty database of its own."""
    database = Database(server_url)
    database.create()
    yield database
    database.drop()


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[Stack]:
    environ = {"CML_TEST_RABBIT_URL": url("CML_TEST_RABBIT_URL"), "CML_TEST_DATABASE_URL": server_url}
    with make_stack(tmp_path_factory.mktemp("stack"), environ=environ, shape="daemons") as stack:
        yield stack


@pytest.fixture
def stack(session_stack: Stack) -> Iterator[Stack]:
    """A cloud and the service as daemons of their own; after the test, nothing that it started may be left."""
    with session_stack.guarded():
        yield session_stack


@pytest.fixture
def daemons(stack: Stack) -> Daemons:
    assert isinstance(stack.service, Daemons)
    return stack.service


@pytest.fixture
def gate(stack: Stack) -> Iterator[Gate]:
    with Gate() as gate:
        yield gate
