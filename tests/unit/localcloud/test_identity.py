from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from cml_nova.localcloud.accounts import ACCOUNTS, write_clouds_yaml

from .conftest import PASSWORDS, Client, Site, password_auth


def test_discovery_needs_no_token(site: Site) -> None:
    http = site.app.test_client()
    for path, status in (("/identity/", 300), ("/identity/v3/", 200), ("/compute/", 200), ("/compute/v2.1/", 200), ("/image/", 300),
                         ("/network/", 200), ("/network/v2.0/", 200)):
        assert http.get(path).status_code == status, path
    assert http.get("/compute/v2.1").json["version"]["version"] == "2.96"


def test_token_says_who_where_and_the_catalog(demo: Client) -> None:
    token = demo.get("identity/v3/auth/catalog")
    assert {service["type"] for service in token["catalog"]} == {"identity", "compute", "image", "network"}
    answer = demo.request("GET", "identity/v3/auth/tokens", headers={"X-Subject-Token": demo.token})
    assert answer.headers["X-Subject-Token"] == demo.token
    token = answer.json["token"]
    assert token["user"]["name"] == "demo"
    assert {role["name"] for role in token["roles"]} == {"member", "reader"}  # member implies reader


def test_machine_learning_endpoint() -> None:
    demo = Site(ml_endpoint="http://127.0.0.1:9/").client()
    urls = {service["type"]: service["endpoints"][0]["url"] for service in demo.get("identity/v3/auth/catalog")["catalog"]}
    assert urls["machine-learning"] == "http://127.0.0.1:9/"


@pytest.mark.parametrize(("body", "missing"), [({}, "auth"), ({"auth": {"identity": {"methods": ["totp"]}}}, "totp")])
def test_malformed_credentials(site: Site, body: dict, missing: str) -> None:
    answer = site.app.test_client().post("/identity/v3/auth/tokens", json=body)
    assert answer.status_code == 400
    assert answer.json["error"]["message"].startswith(f"Expecting to find {missing} in ")


@pytest.mark.parametrize("auth", [
    password_auth("demo", "wrong"), password_auth("nobody", "x"), password_auth("demo", PASSWORDS["demo"], "service"),
    {"auth": {"identity": {"methods": ["token"], "token": {"id": "local-made-up"}}}},
])
def test_refused_credentials(site: Site, auth: dict) -> None:
    answer = site.app.test_client().post("/identity/v3/auth/tokens", json=auth)
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == 401
    assert answer.json["error"]["title"] == "Unauthorized"
    assert "WWW-Authenticate" in answer.headers


def test_token_for_a_token_lives_no_longer(site: Site, demo: Client) -> None:
    site.after(3000)
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": demo.token}}, "scope": {"project": {"id": demo.project}}}}
    answer = demo.request("POST", "identity/v3/auth/tokens", body)
    assert answer.status_code == 201
    again = answer.headers["X-Subject-Token"]
    site.after(601)
    assert demo.request("GET", "compute/v2.1/servers", headers={"X-Auth-Token": again}).status_code == 401


def test_expired_and_revoked_tokens_are_refused_by_every_service(site: Site) -> None:
    demo, other = site.client(), site.client("local-other")
    paths = ("identity/v3/auth/projects", "compute/v2.1/servers", "image/v2/images", "network/v2.0/networks")
    for path in paths:
        assert demo.request("GET", path).status_code == 200
    assert demo.request("DELETE", "identity/v3/auth/tokens", headers={"X-Subject-Token": demo.token}).status_code == 204
    for path in paths:
        assert demo.request("GET", path).status_code == 401, path
    site.after(3601)
    assert other.request("GET", paths[1]).status_code == 401


def test_who_may_validate_tokens(site: Site, demo: Client) -> None:
    subject = {"X-Subject-Token": demo.token}
    assert site.client("local-service").request("GET", "identity/v3/auth/tokens", headers=subject).status_code == 200
    assert site.client("local-other").request("GET", "identity/v3/auth/tokens", headers=subject).status_code == 403
    gone = {"X-Subject-Token": "local-gone"}
    assert site.client("local-service").request("GET", "identity/v3/auth/tokens", headers=gone).status_code == 404


def test_lists_are_for_admins(site: Site, demo: Client) -> None:
    admin = site.client("local-admin")
    for name in ("projects", "users", "roles", "services", "endpoints", "domains"):
        assert demo.request("GET", f"identity/v3/{name}").status_code == 403, name
        assert admin.get(f"identity/v3/{name}")[name], name
    assert [project["name"] for project in demo.get(f"identity/v3/users/{demo.user}/projects")["projects"]] == ["demo"]
    assert "password" not in admin.get(f"identity/v3/users/{demo.user}")["user"]


def test_clouds_yaml_is_private_and_keeps_its_passwords(tmp_path: Path) -> None:
    path = tmp_path / "clouds.yaml"
    passwords = write_clouds_yaml(path, "http://127.0.0.1:1/identity/v3")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_clouds_yaml(path, "http://127.0.0.1:2/identity/v3") == passwords
    clouds = yaml.safe_load(path.read_text())["clouds"]
    assert set(clouds) == set(ACCOUNTS)
    assert clouds["local"]["auth"]["auth_url"] == "http://127.0.0.1:2/identity/v3"
    assert len(set(passwords.values())) == len(passwords)


def test_state_survives_a_restart(tmp_path: Path) -> None:
    demo = Site(tmp_path / "state").client()
    site = Site(tmp_path / "state")
    answer = site.app.test_client().get("/compute/v2.1/servers", headers={"X-Auth-Token": demo.token})
    assert answer.status_code == 200
    assert site.client().project == demo.project
