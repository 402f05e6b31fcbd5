"""Schemas of /v1/packages."""

from cml_nova.api.schemas.common import LINKS, NO_NUL, PAGING, TIME, array, record, request, text

PACKAGE = record({
    "id": {"type": "string"}, "name": {"type": "string"}, "sha256": {"type": "string"}, "size": {"type": "integer"}, "created_at": TIME,
}, title="Package")
PACKAGE_BODY = record({"package": PACKAGE})
PACKAGE_LIST = record({"packages": array(PACKAGE), "packages_links": LINKS}, required=("packages",))

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "64 lower-case hexadecimal digits"}

CREATE_QUERY = request({"name": text(255), "sha256": _SHA256})
LIST_QUERY = request({**PAGING, "name": {"type": "string", "maxLength": 255, "not": NO_NUL}, "sha256": _SHA256})
