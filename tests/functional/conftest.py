"""The stack that functional tests share: one cloud and one service for the whole session.

``CML_TEST_STACK=daemons`` runs the same tests over a real bus and database: the service's daemons as processes of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.reports import pytest_runtest_makereport  # noqa: F401 -- a hook
from tests.harness.stack import Stack, make_stack
from tests.harness.training import Gate


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with make_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def stack(session_stack: Stack) -> Iterator[Stack]:
    """The shared stack; after the test, nothing that it started may be left."""
    with session_stack.guarded():
        yield session_stack


@pytest.fixture
def cloud(stack: Stack) -> LocalCloud:
    return stack.cloud


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.demo


@pytest.fixture
def gate(stack: Stack) -> Iterator[Gate]:
    """Where this test's scripts wait; closed before the stack is looked over."""
    with Gate() as gate:
        yield gate


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another stack, run again what that stack makes a difference to: the tests that use the stack."""
    if os.environ.get("CML_TEST_STACK", "standalone") == "standalone":
        return
    others = [item for item in items if "session_stack" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
