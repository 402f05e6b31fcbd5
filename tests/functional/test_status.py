"""cml-nova-status upgrade check, against a cloud: what is fine, and what is said of each thing that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_upgradecheck.upgradecheck import Code

from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.service import Standalone

GOOD = {"Message bus": Code.WARNING}  # in memory


class Operator:
    """Somebody who checks a configuration that differs from a good one here and there."""

    def __init__(self, cloud: LocalCloud, service: Standalone, directory: Path) -> None:
        self.cloud = cloud
        self._files = [service.config_file, directory / "more.conf"]

    def check(self, **options: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Run the checks; give them by name. The exit code is that of the worst."""
        text = "".join(f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()) for group, values in options.items())
        self._files[1].write_text(text)
        self._files[1].chmod(0o600)
        command = [str(Path(sys.executable).parent / "cml-nova-status"), *(f"--config-file={path}" for path in self._files)]
        done = subprocess.run([*command, "upgrade", "check", "--json"], capture_output=True, text=True, check=False)
        assert done.stdout.startswith("{"), done.stderr
        checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
        assert done.returncode == max(check["result"] for check in checks.values())
        return checks

    def credentials(self, name: str) -> dict[str, str]:
        return self.cloud.credentials(name)


@pytest.fixture(scope="module")
def module_operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("status")
    port = free_port()
    cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}")
    try:
        cloud.start()
        service = Standalone(directory / "service", cloud, port, {"cloud": {"ssh_source_cidr": "127.0.0.0/8"}})
        service.manage("db", "sync")
        service.manage("secrets", "create")
        yield Operator(cloud, service, directory)
    finally:
        cloud.stop()


@pytest.fixture
def operator(module_operator: Operator) -> Iterator[Operator]:
    yield module_operator
    module_operator.cloud.heal()


def test_all_is_well(operator: Operator) -> None:
    checks = operator.check()
    assert {name: check["result"] for name, check in checks.items()} == {name: GOOD.get(name, Code.SUCCESS) for name in checks}
    assert "plain (custom" in checks["Cloud: images"]["details"]


@pytest.mark.parametrize(("instances", "words"), [(0, "left: 0 servers"), (4, "max_nodes")])
def test_quota_that_leaves_too_little(operator: Operator, instances: int, words: str) -> None:
    before = operator.cloud.quota_now("service")["instances"]
    operator.cloud.quota("service", instances=instances)
    try:
        check = operator.check()["Cloud: quota"]
    finally:
        operator.cloud.quota("service", instances=before)
    assert check["result"] == Code.WARNING
    assert words in check["details"]
    assert "--quota" in check["details"]


def test_a_wrong_password_stops_what_needs_the_account(operator: Operator) -> None:
    checks = operator.check(cloud={"password": "wrong"})
    assert checks["Cloud: account"]["result"] == Code.FAILURE
    rest = [check for name, check in checks.items() if name.startswith("Cloud: ") and name != "Cloud: account"]
    assert len(rest) == 6
    assert all(check["result"] == Code.WARNING and "not looked at" in check["details"] for check in rest)
    assert "wrong" not in json.dumps(checks)


def test_keystone_away(operator: Operator) -> None:
    checks = operator.check(cloud={"auth_url": f"http://127.0.0.1:{free_port()}/v3"})
    assert checks["Cloud: account"]["result"] == Code.FAILURE


def test_a_cloud_that_no_clouds_yaml_has(operator: Operator) -> None:
    check = operator.check(cloud={"cloud": "nowhere"})["Cloud: account"]
    assert check["result"] == Code.FAILURE
    assert "nowhere" in check["details"]


def test_an_account_that_may_not_check_tokens(operator: Operator) -> None:
    check = operator.check(keystone_authtoken=operator.credentials("local"))["Cloud: check of tokens"]
    assert check["result"] == Code.FAILURE
    assert check["details"]


@pytest.mark.parametrize(("group", "name"), [("cloud", "Cloud: account"), ("keystone_authtoken", "Cloud: check of tokens")])
def test_an_administrator_as_the_services_account(operator: Operator, group: str, name: str) -> None:
    check = operator.check(**{group: operator.credentials("local-admin")})[name]
    assert check["result"] == Code.WARNING
    assert "is enough" in check["details"]


def test_a_network_that_is_not_there(operator: Operator) -> None:
    check = operator.check(cloud={"network": "locla-net"})["Cloud: network"]
    assert check["result"] == Code.FAILURE
    assert "local-net" in check["details"], "the nearest name helps"


def test_floating_addresses_of_a_network_that_has_none(operator: Operator) -> None:
    check = operator.check(cloud={"floating_network": "local-net"})["Cloud: network"]
    assert check["result"] == Code.FAILURE
    assert "not external" in check["details"]


def test_a_region_without_the_services(operator: Operator) -> None:
    check = operator.check(cloud={"region_name": "elsewhere"})["Cloud: endpoints"]
    assert check["result"] == Code.FAILURE
    assert "region_name" in check["details"]


def test_a_bus_that_does_not_answer(operator: Operator) -> None:
    check = operator.check(DEFAULT={"transport_url": f"rabbit://cml:secret@127.0.0.1:{free_port()}/"})["Message bus"]
    assert check["result"] == Code.FAILURE
    assert "transport_url" in check["details"]
    assert "secret" not in check["details"]


@pytest.mark.parametrize(("url", "result", "words"), [
    ("wss://cloud.example/ml-tunnel", Code.SUCCESS, ""),
    ("ws://localhost:8773", Code.SUCCESS, ""),
    ("ws://192.0.2.7:8773", Code.WARNING, "TLS"),
    ("https://cloud.example/ml-tunnel", Code.FAILURE, "wss://"),
    ("wss:cloud.example", Code.FAILURE, "wss://"),
])
def test_where_users_are_told_to_find_tunnels(operator: Operator, url: str, result: Code, words: str) -> None:
    check = operator.check(tunnel={"public_url": url})["Tunnels"]
    assert check["result"] == result
    assert words in (check["details"] or "")
