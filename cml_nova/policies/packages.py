"""Rules of /v1/packages."""

from cml_nova.policies import base

RULES = [
    base.operation("packages:create", base.PROJECT_MEMBER, "Upload a training package.", ("POST", "/v1/packages")),
    base.operation("packages:list", base.PROJECT_READER, "List the project's packages.", ("GET", "/v1/packages")),
    base.operation("packages:get", base.PROJECT_READER, "Show a package.", ("GET", "/v1/packages/{package_id}")),
    base.operation("packages:delete", base.PROJECT_MEMBER, "Delete a package.", ("DELETE", "/v1/packages/{package_id}")),
]
