"""Schemas of /v1/quota."""

from cml_nova.api.schemas.common import nullable, record, request
from cml_nova.db.quotas import RESOURCES

_COUNT = {"type": "integer"}
_LIMIT = nullable({"type": "integer", "minimum": -1, "maximum": 2**31 - 1, "description": "-1 for no limit, null for the configured one."})

QUOTA = record({"quota": record({
    "project_id": {"type": "string"},
    "limits": record({name: {**_COUNT, "description": "-1 for no limit."} for name in RESOURCES}),
    "in_use": record(dict.fromkeys(RESOURCES, _COUNT)),
}, title="Quota")})

UPDATE = request({"quota": request({"limits": request(dict.fromkeys(RESOURCES, _LIMIT), minProperties=1)}, required=("limits",),
                                   title="QuotaUpdate")}, required=("quota",))
