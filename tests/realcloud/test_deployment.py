"""The deployment itself: what an operator looks at before the first job."""

from __future__ import annotations

from tests.harness.realcloud import RealCloud
from tests.harness.stack import Stack


def test_upgrade_check_finds_nothing(stack: Stack[RealCloud]) -> None:
    """But that SSH is open to all, where the environment does not say from where it has to be."""
    done = stack.service.run("cml-nova-status", "upgrade", "check")
    assert done.returncode == (0 if stack.cloud.settings.ssh_source else 1), done.stdout + done.stderr
    assert "Result: Failure" not in done.stdout


def test_account_has_no_more_than_it_needs(stack: Stack[RealCloud]) -> None:
    identity, user = stack.cloud.admin.identity, stack.cloud.service_user
    assignments = list(identity.role_assignments(user_id=user.id))
    roles = {role.id: role.name for role in identity.roles()}
    projects = {project.id: project.name for project in identity.projects()}
    assert {(roles[a.role["id"]], projects[a.scope["project"]["id"]]) for a in assignments} == {
        ("service", "service"), ("member", stack.cloud.nodes_project.name)}


def test_users_see_flavors_with_accelerators_and_images(stack: Stack[RealCloud]) -> None:
    settings = stack.cloud.settings
    flavors = {flavor["name"]: flavor for flavor in stack.demo.get("/v1/flavors")["flavors"]}
    assert settings.flavor in flavors
    images = [image["name"] for framework in stack.demo.get("/v1/frameworks")["frameworks"] for image in framework["images"]]
    assert settings.image in images
    if settings.scarce_flavor:
        assert flavors[settings.scarce_flavor]["accelerators"]["count"] == 1, flavors[settings.scarce_flavor]
