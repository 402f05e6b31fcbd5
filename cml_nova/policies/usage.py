"""Rules of /v1/usage."""

from cml_nova.policies import base

RULES = [
    base.operation("usage:list", base.PROJECT_READER, "See what the project had, day by day, and its cost.", ("GET", "/v1/usage")),
    base.operation("usage:list:all_projects", base.ADMIN, "See the same of all projects.", ("GET", "/v1/usage?all_projects=true")),
]
