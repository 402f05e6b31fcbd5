"""Schemas of /v1/frameworks, /v1/flavors and /v1/workers."""

from cml_nova.api.schemas.common import TIME, array, nullable, record

_STRING = {"type": "string"}
_NUMBER = {"type": "integer"}

FRAMEWORK = record({
    "name": _STRING,
    "roles": array(record({"name": _STRING, "min": _NUMBER, "max": nullable(_NUMBER)})),
    "images": array(record({"id": _STRING, "name": _STRING, "version": nullable(_STRING)})),
}, title="Framework")
FRAMEWORKS = record({"frameworks": array(FRAMEWORK)})

FLAVOR = record({
    "id": _STRING, "name": _STRING, "vcpus": _NUMBER, "ram": _NUMBER, "disk": _NUMBER,
    "cost_per_hour": {**nullable({"type": "number"}), "description": "In the currency of the deployment; null without a price."},
    "accelerators": {"anyOf": [record({"kind": _STRING, "count": _NUMBER}), {"type": "null"}]},
    "nodes_in_use": {**_NUMBER, "description": "Nodes of it that jobs have now, those of all projects."},
    "jobs_waiting": {**_NUMBER, "description": "Jobs of all projects that the cloud has no room for, and that want it."},
    "quota_left": {**nullable(_NUMBER), "description": "Nodes of it that one more job of the project may have; null without a limit."},
}, title="Flavor")
FLAVORS = record({"flavors": array(FLAVOR)})

WORKER = record({
    "id": _STRING, "host": _STRING, "capacity": _NUMBER, "draining": {"type": "boolean"}, "started_at": TIME, "seen_at": TIME,
}, title="Worker")
WORKERS = record({"workers": array(WORKER)})
