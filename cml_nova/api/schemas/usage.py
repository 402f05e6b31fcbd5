"""Schemas of /v1/usage."""

from cml_nova.api.schemas.common import BOOLEAN, NO_NUL, array, nullable, record, request

_DAY = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "description": "A day (UTC) like 2026-01-31"}
_NUMBER = {"type": "number"}

USAGE_QUERY = request({
    "start": _DAY, "end": _DAY, "all_projects": BOOLEAN, "project_id": {"type": "string", "maxLength": 64, "not": NO_NUL},
})

USAGE = record({"usage": array(record({
    "project_id": {"type": "string"}, "date": {"type": "string", "format": "date"}, "jobs": {"type": "integer"},
    "node_seconds": _NUMBER, "accelerator_seconds": _NUMBER, "cost": nullable(_NUMBER), "currency": nullable({"type": "string"}),
}, title="UsageOfDay"))})
