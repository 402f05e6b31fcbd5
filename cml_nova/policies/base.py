"""Rules that the others are made of: who may read, who may write, in which project.

Keystone's roles imply each other (admin, manager, member, reader) where the cloud was bootstrapped the usual way; the stronger
roles are spelled out all the same, so that a cloud without implied roles behaves alike.
"""

from oslo_policy import policy

PREFIX = "cml:"

ADMIN = "rule:cml:admin"
SERVICE_OR_ADMIN = "rule:cml:service_or_admin"
PROJECT_MEMBER = "rule:cml:project_member_or_admin"
PROJECT_READER = "rule:cml:project_reader_or_admin"

_OWN = "project_id:%(project_id)s"

RULES = [
    policy.RuleDefault("cml:admin", "role:admin", "Operators of the cloud.", scope_types=["project"]),
    policy.RuleDefault("cml:service_or_admin", f"role:service or {ADMIN}", "Other services of the cloud, and operators.",
                       scope_types=["project"]),
    policy.RuleDefault("cml:project_member_or_admin", f"{ADMIN} or ((role:member or role:manager) and {_OWN})",
                       "Members and managers of the project that owns the resource, and operators.", scope_types=["project"]),
    policy.RuleDefault("cml:project_reader_or_admin", f"{ADMIN} or ((role:reader or role:member or role:manager) and {_OWN})",
                       "Everybody with a role in the project that owns the resource, and operators.", scope_types=["project"]),
]


def operation(name: str, check: str, description: str, *operations: tuple[str, str]) -> policy.DocumentedRuleDefault:
    """Make the rule of an API operation.

    :param operations: (HTTP method, path) of each route that it guards.
    """
    return policy.DocumentedRuleDefault(
        PREFIX + name, check, description, [{"method": method, "path": path} for method, path in operations], scope_types=["project"])
