"""Projects do not see each other; the administrator sees all; who has no role of ours may do nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from keystoneauth1 import session as ks_session
from keystoneauth1.identity import v3

from tests.harness.client import Client
from tests.harness.nodes import WAIT, Nodes
from tests.harness.realcloud import RealCloud
from tests.harness.stack import Stack
from tests.realcloud.conftest import document

ROUTES = [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/log?task=worker:0"), ("GET", "/events"),
          ("GET", "/metrics"), ("GET", "/nodes"), ("GET", "/artifacts"), ("GET", "/artifacts/worker-0/model")]


def test_projects_are_apart(stack: Stack[RealCloud], nodes: Nodes) -> None:
    settings = stack.cloud.settings
    mine = stack.demo.submit(document(settings, workers=1, command=WAIT, **nodes.keys))
    theirs = stack.other.submit(document(settings, workers=1, command="echo theirs"))
    for stranger, job_id in ((stack.other, mine), (stack.demo, theirs)):
        assert job_id not in [job["id"] for job in stranger.jobs(limit=1000)]
        for method, path in ROUTES:
            body = {"job": {"name": "stolen"}} if method == "PATCH" else None
            answer = stranger.request(method, f"/v1/jobs/{job_id}{path}", json=body)
            assert answer.status_code == 404, f"{method} {path}: {answer.status_code} {answer.text}"
    assert {mine, theirs} <= {job["id"] for job in stack.admin.jobs(all_projects=True, limit=1000)}
    for client in (stack.demo, stack.other):
        assert client.request("GET", "/v1/jobs", params={"all_projects": True}).status_code == 403
    nodes.await_all(mine)
    assert stack.demo.job(mine)["target"] == "RUN"
    assert "waiting" in stack.admin.log_piece(mine, "worker:0")[0].decode()
    nodes.open(mine)
    stack.demo.succeed(mine)
    stack.other.succeed(theirs)
    assert stack.other.log(theirs) == "theirs\n"


@pytest.fixture
def stranger(stack: Stack[RealCloud]) -> Iterator[Client]:
    """A user of the user's project whose role there is none that the service knows."""
    cloud = stack.cloud
    identity, connection = cloud.admin.identity, cloud.connection(cloud.settings.user_cloud)
    name, password = f"cml-test-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    project = identity.get_project(connection.current_project_id)
    role = identity.create_role(name=name)
    user = identity.create_user(name=name, password=password, domain_id=project.domain_id)
    try:
        identity.assign_project_role_to_user(project, user, role)
        auth = v3.Password(auth_url=connection.config.auth["auth_url"], user_id=user.id, password=password, project_id=project.id)
        yield Client(ks_session.Session(auth), cloud.pace, stack.service.url)
    finally:
        identity.delete_user(user)
        identity.delete_role(role)


def test_token_without_a_role_of_ours_may_do_nothing(stack: Stack[RealCloud], stranger: Client) -> None:
    for method, path, body in [("GET", "/v1/jobs", None), ("POST", "/v1/jobs", {"job": document(stack.cloud.settings, command="true")}),
                               ("GET", "/v1/flavors", None), ("GET", "/v1/frameworks", None)]:
        answer = stranger.request(method, path, json=body)
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code} {answer.text}"
