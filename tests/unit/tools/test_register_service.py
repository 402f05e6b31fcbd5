"""tools/register-service against a cloud in memory: it makes what is missing, then nothing, and does not guess."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "lib"))

import register_service
from registration import Identity, Ledger, Networks, RegistrationError, set_quota

URL = "http://api.test:9517"


class Thing(SimpleNamespace):
    """A resource as openstacksdk gives it."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class FakeIdentity:
    """The part of openstacksdk's identity proxy that is used, over lists."""

    def __init__(self) -> None:
        self.things: dict[str, list[Thing]] = {"domain": [Thing(id="default", name="Default"), Thing(id="ldap", name="Ldap")]}
        self.assigned: set[tuple[str, str, str]] = set()
        self.implied: list[str] = []

    def __getattr__(self, name: str) -> Any:
        verb, _, kind = name.partition("_")
        if verb == "create":
            return lambda **values: self._create(kind, values)
        if verb == "update":
            return lambda thing, **values: thing.__dict__.update(values)
        if name.endswith("s"):
            return lambda **wanted: [thing for thing in self.things.get(name[:-1], []) if wanted.items() <= vars(thing).items()]
        raise AttributeError(name)

    def _create(self, kind: str, values: dict[str, Any]) -> Thing:
        defaults = {"domain_id": None} if kind == "role" else {}
        thing = Thing(**{"id": f"{kind}-{len(self.things.get(kind, []))}", "is_enabled": True, **defaults, **values})
        self.things.setdefault(kind, []).append(thing)
        return thing

    def get_domain(self, domain_id: str) -> Thing:
        return next(domain for domain in self.things["domain"] if domain.id == domain_id)

    def put(self, path: str) -> SimpleNamespace:
        self.implied.append(path)
        return SimpleNamespace(status_code=201)

    def validate_user_has_project_role(self, project: Thing, user: Thing, role: Thing) -> bool:
        return (project.id, user.id, role.id) in self.assigned

    def assign_project_role_to_user(self, project: Thing, user: Thing, role: Thing) -> None:
        self.assigned.add((project.id, user.id, role.id))


class Desk:
    """Somebody who registers the service."""

    def __init__(self) -> None:
        self.keystone = FakeIdentity()
        self.lines: list[str] = []

    def run(self, *, dry: bool = False, domain: str = "Default", url: str = URL, replace: bool = False) -> int:
        """See to everything in Keystone; give the number of changes."""
        self.lines = []
        ledger = Ledger(dry, self.lines.append)
        identity = Identity(SimpleNamespace(identity=self.keystone), ledger, domain)  # type: ignore[arg-type]
        member = identity.role("member", implies=identity.role("reader"))
        project = identity.project("cml-nodes", "Virtual machines")
        user = identity.find_user("cml_nova") or identity.create_user("cml_nova", "password")
        identity.assign(member, user, project, "role member of cml_nova in cml-nodes")
        identity.endpoint(identity.service("cml_nova"), "public", "RegionOne", url, replace)
        return ledger.changes


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_second_run_changes_nothing(desk: Desk) -> None:
    assert desk.run() == 7
    assert desk.run() == 0
    assert all(line.startswith("kept") for line in desk.lines)
    assert desk.keystone.implied == ["/roles/role-1/implies/role-0"]


def test_a_look_changes_nothing(desk: Desk) -> None:
    assert desk.run(dry=True) == 7
    assert all(line.startswith("missing") for line in desk.lines)
    assert list(desk.keystone.things) == ["domain"]
    assert not desk.keystone.assigned


def test_what_is_gone_is_made_again(desk: Desk) -> None:
    desk.run()
    desk.keystone.assigned.clear()
    desk.keystone.things["endpoint"].clear()
    assert desk.run() == 2
    assert desk.run() == 0


def test_an_endpoint_with_another_url_is_not_taken_over_unasked(desk: Desk) -> None:
    desk.run()
    with pytest.raises(RegistrationError, match=f"is {URL}, not http://other.test.*--replace-endpoints"):
        desk.run(url="http://other.test")
    assert desk.keystone.things["endpoint"][0].url == URL
    assert desk.run(url="http://other.test", replace=True) == 1
    assert [endpoint.url for endpoint in desk.keystone.things["endpoint"]] == ["http://other.test"]


@pytest.mark.parametrize(("kind", "values", "words"), [
    ("service", {"type": "machine-learning", "name": "other"}, "2 services.*openstack service delete"),
    ("endpoint", {"service_id": "service-0", "interface": "public", "region_id": "RegionOne", "url": "http://other.test"},
     "2 public endpoints"),
])
def test_what_is_there_twice_is_for_the_operator(desk: Desk, kind: str, values: dict[str, Any], words: str) -> None:
    desk.run()
    desk.keystone._create(kind, values)
    with pytest.raises(RegistrationError, match=words):
        desk.run()


def test_a_user_of_another_domain_is_not_ours(desk: Desk) -> None:
    desk.keystone._create("user", {"name": "cml_nova", "domain_id": "ldap"})
    with pytest.raises(RegistrationError, match="--domain Ldap"):
        desk.run()


def test_users_of_that_name_in_two_domains(desk: Desk) -> None:
    desk.run()
    desk.keystone._create("user", {"name": "cml_nova", "domain_id": "ldap"})
    assert desk.run() == 0
    assert any(line.startswith("warning") and "2 users" in line for line in desk.lines)


def test_who_is_disabled_stays_so(desk: Desk) -> None:
    desk.run()
    desk.keystone.things["user"][0].is_enabled = False
    with pytest.raises(RegistrationError, match="openstack user set --enable"):
        desk.run()


def test_no_such_domain(desk: Desk) -> None:
    with pytest.raises(RegistrationError, match="--domain"):
        desk.run(domain="Nowhere")


def test_quota_is_changed_where_it_differs() -> None:
    quota = Thing(instances=10, cores=20)
    changed: dict[str, int] = {}
    compute = SimpleNamespace(get_quota_set=lambda project_id: quota, update_quota_set=lambda project_id, **values: changed.update(values))
    ledger = Ledger(False, lambda line: None)
    set_quota(SimpleNamespace(compute=compute), ledger, Thing(id="p"), {"instances": 10, "cores": 64})  # type: ignore[arg-type]
    assert changed == {"cores": 64}
    assert ledger.changes == 1


def test_networks_of_the_same_name_are_told_apart_by_id() -> None:
    twins = [Thing(id="1", name="nodes"), Thing(id="2", name="nodes")]
    network = SimpleNamespace(networks=lambda **wanted: [twin for twin in twins if wanted.items() <= vars(twin).items()])
    networks = Networks(SimpleNamespace(network=network), Ledger(False, lambda line: None), None)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="by its id: 1, 2"):
        networks.existing("nodes")
    assert networks.existing("2") is twins[1]
    with pytest.raises(RegistrationError, match="there are nodes"):
        networks.existing("ndoes")


@pytest.mark.parametrize("text", ["instances", "instances=", "instances=-2", "gpus=4", "instances=1,,cores=2", "cores=1e3"])
def test_quota_that_makes_no_sense(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=NUMBER"):
        register_service._quota(text)


def test_quota_as_it_is_given() -> None:
    assert register_service._quota("instances=-1,security-groups=8") == {"instances": -1, "security-groups": 8}


def test_a_new_password_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "password"
    made = register_service.Password(path)
    assert made.is_new
    made.store()
    assert path.stat().st_mode & 0o777 == 0o600
    again = register_service.Password(path)
    assert not again.is_new
    assert again.text == made.text
    assert len(again.text) >= 40


@pytest.mark.parametrize(("text", "mode", "words"), [
    ("", 0o600, "must hold one line"), ("two\nlines\n", 0o600, "must hold one line"), ("with $dollar\n", 0o600, "must hold one line"),
    ("secret\n", 0o644, "chmod 600"),
])
def test_a_password_file_that_is_no_good(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(RegistrationError, match=words) as caught:
        register_service.Password(path)
    assert "secret" not in str(caught.value)


def test_the_configuration_is_its_owners_alone_but_for_a_group_that_was_let_in(tmp_path: Path) -> None:
    path = tmp_path / "conf.d" / "cloud.conf"
    register_service._write_private(path, "one")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o664)
    register_service._write_private(path, "two")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["cloud.conf"]
    assert path.read_text() == "two"
