"""Rules of /v1/frameworks, /v1/flavors and /v1/workers."""

from cml_nova.policies import base

RULES = [
    base.operation("frameworks:list", base.PROJECT_READER, "List the frameworks and their images.", ("GET", "/v1/frameworks")),
    base.operation("flavors:list", base.PROJECT_READER, "List the flavors and their accelerators.", ("GET", "/v1/flavors")),
    base.operation("workers:list", base.SERVICE_OR_ADMIN, "List the service's worker processes.", ("GET", "/v1/workers")),
]
