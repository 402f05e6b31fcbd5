"""The service, deployed as an operator does it, on a real OpenStack that the environment names.

``tools/run-tests realcloud`` sets all of this. By hand: set what is needed and run pytest on this directory.

=============================  ============================================================================================
OS_CLIENT_CONFIG_FILE          clouds.yaml, where it is not in one of openstacksdk's places
CML_TEST_ADMIN_CLOUD           entry of an administrator: registers the service, sets quotas, takes the inventories
CML_TEST_USER_CLOUD            entry of a user with the role member
CML_TEST_OTHER_CLOUD           entry of such a user of another project
CML_TEST_IMAGE                 image that boots fast: python3, properties cml_framework=custom and cml_ssh_user
CML_TEST_FLAVOR                flavor for it, of which there is room for 3 servers at least
CML_TEST_NETWORK               network whose addresses are reached from here
=============================  ============================================================================================

Each of the following lets more tests run; those that lack theirs are reported as not run.

=============================  ============================================================================================
CML_TEST_SYSTEMD_IMAGE         image with systemd and cloud-init, with the same properties
CML_TEST_SYSTEMD_FLAVOR        flavor for it
CML_TEST_TRAINING_IMAGE        image with MXNet, as made by tools/build-image
CML_TEST_TRAINING_FLAVOR       flavor for it
CML_TEST_SCARCE_FLAVOR         flavor for CML_TEST_IMAGE that takes one of a resource of which the cloud has 4 ...
CML_TEST_SCARCE_LARGE_FLAVOR   ... and one that takes 2
CML_TEST_EXTERNAL_NETWORK      network from which floating addresses come that are reached from here
CML_TEST_INJECT                program that breaks the cloud and mends it: ``PROGRAM stop|start SERVICE`` with the services nova-api,
                               nova-compute, rabbitmq; ``PROGRAM expire-tokens``; for a guest ``PROGRAM WHAT SERVER-ID``: guest-kill,
                               guest-freeze and guest-thaw, guest-netdown and guest-netup
CML_TEST_CLOUD_LOGS            directory with Nova's access log, nova-api.log
=============================  ============================================================================================

And how it is gone about it:

=============================  ============================================================================================
CML_TEST_MYSQL_URL             a MariaDB whose user may create databases; without it a private one is started
CML_TEST_SSH_SOURCE            CIDR that this machine's connections to the nodes come from; without it SSH is open to all
CML_TEST_WHOLE_CLOUD           set where nobody else uses the cloud: the inventories are of all its projects, not the nodes' alone
CML_TEST_KEEP_ENDPOINT         set where the service is in use on this cloud: its endpoint stays, the tests use their own directly
=============================  ============================================================================================

The fault tests mend what they break and wait until the cloud is well again; still, use them on clouds that are for tests only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Client
from tests.harness.nodes import Nodes
from tests.harness.process import free_port
from tests.harness.realcloud import RealCloud, Settings
from tests.harness.reports import pytest_runtest_makereport  # noqa: F401 -- a hook
from tests.harness.service import Daemons
from tests.harness.stack import Stack

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))

import servers

_NOT_RUN = "NOT RUN: the environment does not give "


@pytest.fixture(scope="session")
def settings() -> Settings:
    try:
        return Settings.read(os.environ)
    except ValueError as error:
        pytest.fail(f"{error}; tests/realcloud/conftest.py says what each is", pytrace=False)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Private]:
    """The service's own RabbitMQ, which can be restarted."""
    log_dir = tmp_path_factory.mktemp("broker")
    servers.install(["CML_TEST_RABBIT_URL"], log_dir)
    broker = servers.start_rabbitmq(log_dir)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory, settings: Settings, broker: servers.Private) -> Iterator[Stack[RealCloud]]:
    """An api under uWSGI, a conductor and a worker, with the account that tools/register-service makes."""
    directory = tmp_path_factory.mktemp("stack")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with servers.all_servers(directory, ["CML_TEST_MYSQL_URL"]) as urls:
        cloud = RealCloud(settings, endpoint, directory / "account")
        try:
            service = Daemons(directory / "service", cloud, port, broker.url, urls["CML_TEST_MYSQL_URL"], conductors=1, workers=1)
            try:
                service.prepare()
                service.start()
                yield Stack.of(cloud, service, endpoint if settings.keep_endpoint else None)
            finally:
                service.stop()
        finally:
            cloud.close()


@pytest.fixture
def stack(session_stack: Stack[RealCloud]) -> Iterator[Stack[RealCloud]]:
    """Cloud and service; after the test, the oracle must find the cloud as it was before."""
    with session_stack.guarded():
        yield session_stack


@pytest.fixture
def cloud(stack: Stack[RealCloud]) -> RealCloud:
    return stack.cloud


@pytest.fixture
def client(stack: Stack[RealCloud]) -> Client:
    return stack.demo


@pytest.fixture
def nodes(stack: Stack[RealCloud]) -> Nodes:
    """The test's own way into the nodes of the user's jobs."""
    return Nodes(stack.demo, stack.cloud.ssh_user(stack.cloud.settings.image))


@pytest.fixture
def inject(settings: Settings) -> None:
    """For tests that need the fault program."""
    need(settings, "inject")


def need(settings: Settings, *names: str) -> Any:
    """Give settings that not every cloud has. The test is not run where they are missing."""
    missing = [f"CML_TEST_{name.upper()}" for name in names if not getattr(settings, name)]
    if missing:
        pytest.skip(_NOT_RUN + ", ".join(missing))
    return tuple(getattr(settings, name) for name in names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guests that are emulated take their time; the deadlines of the tests themselves come long before this one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not run."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _NOT_RUN in reason:
            terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}", red=True, bold=True)


def document(settings: Settings, **changes: Any) -> dict[str, Any]:
    """Give the document of a job with two nodes of the image that boots fast."""
    return {"name": "test", "image": settings.image, "flavor": settings.flavor, "workers": 2, **changes}
