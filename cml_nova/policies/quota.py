"""Rules of /v1/quota."""

from cml_nova.policies import base

RULES = [
    base.operation("quota:get", base.PROJECT_READER, "Show a project's limits and what it has.",
                   ("GET", "/v1/quota"), ("GET", "/v1/quota/{project_id}")),
    base.operation("quota:update", base.ADMIN, "Change a project's limits.", ("PUT", "/v1/quota"), ("PUT", "/v1/quota/{project_id}")),
]
