"""Schemas of /v1/jobs."""

from __future__ import annotations

from cml_nova.api.schemas.common import (
    BOOLEAN,
    LINKS,
    METADATA,
    NO_CONTROL,
    NO_CONTROL_BUT_LINES,
    NO_NUL,
    PAGING,
    TIME,
    UUID,
    Schema,
    array,
    integer,
    nullable,
    record,
    request,
    text,
)
from cml_nova.db.jobs import SORT_KEYS
from cml_nova.states import STATUSES, Cause, Outcome, Phase, Target

YEAR = 366 * 86400

COMMAND: Schema = {
    "type": ["string", "array"], "minLength": 1, "maxLength": 65536, "pattern": r"\S", "not": NO_NUL,
    "minItems": 1, "maxItems": 1024, "items": {"type": "string", "maxLength": 65536, "not": NO_NUL},
    "description": "A shell command line, or a list of a program and its arguments.",
}
ENV: Schema = {
    "type": "object", "maxProperties": 256,
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,254}$",
                      "description": "Names of variables have letters, digits and '_', and don't begin with a digit"},
    "additionalProperties": {"type": "string", "maxLength": 32768, "not": NO_NUL},
}
NAME = text(255)
DESCRIPTION: Schema = {"type": "string", "maxLength": 4096, "not": NO_CONTROL_BUT_LINES}
CLIENT_TOKEN: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$",
                        "description": "1 to 64 letters, digits, '_', '.', ':' or '-'"}
PRIORITY = integer(0, 1000)
PUBLIC_KEY: Schema = {
    "type": "string", "maxLength": 16384, "not": NO_CONTROL,
    "pattern": "^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh.com|sk-ecdsa-sha2-nistp256@openssh.com)"
               " [A-Za-z0-9+/]+={0,2}( .*)?$",
    "description": "An SSH public key is the content of a .pub file, such as 'ssh-ed25519 AAAA... me@host', "
                   "without options before the type"}
#: what is said to keys that are often guessed
_HINTS: Schema = {"x-hints": dict.fromkeys(("gpus", "gpu", "accelerators"), "GPUs come with the flavor, so choose one that has them")}
ROLE_NAME = "^[a-z][a-z0-9_]{0,31}$"

JOB_REQUEST = request({
    "name": NAME,
    "description": DESCRIPTION,
    "metadata": METADATA,
    "client_token": CLIENT_TOKEN,
    "framework": request({"name": text(64), "version": text(64)}, required=("name",)),
    "image": text(255),
    "flavor": text(255),
    "workers": {"type": "integer", "minimum": 1},
    "roles": {
        "type": "object", "minProperties": 1, "maxProperties": 16,
        "propertyNames": {"pattern": ROLE_NAME, "description": "A role is a word like worker, ps or chief"},
        "additionalProperties": request(
            {"count": {"type": "integer", "minimum": 1}, "flavor": text(255), "command": COMMAND}, required=("count",), **_HINTS),
    },
    "source": request({"package": text(36, description="Id of an uploaded package.")}, required=("package",)),
    "command": COMMAND,
    "env": ENV,
    "secrets": ENV,
    "setup": COMMAND,
    "max_run_time": integer(1, YEAR),
    "max_wait_time": integer(1, YEAR),
    "max_restarts": integer(0, 100),
    "checkpoint_interval": {"type": "number", "minimum": 1, "maximum": 86400},
    "recover_on_exit_codes": array(integer(1, 255), maxItems=255, uniqueItems=True),
    "hang_timeout": integer(1, YEAR, description="Seconds without a log line or heartbeat after which processes count as hanging."),
    "priority": PRIORITY,
    "availability_zone": text(255),
    "network": text(255),
    "ssh_authorized_keys": array(PUBLIC_KEY, maxItems=32),
}, title="JobRequest", required=("name", "command"), **_HINTS)

CREATE = request({"job": JOB_REQUEST}, required=("job",))

UPDATE = request({
    "job": request({"name": NAME, "description": nullable(DESCRIPTION), "priority": PRIORITY, "metadata": METADATA}, title="JobUpdate",
                   minProperties=1),
}, required=("job",))

_ACCELERATORS = record({"kind": {"type": "string"}, "count": {"type": "integer"}})
_FLAVOR = record({"id": {"type": "string"}, "name": {"type": "string"}, "vcpus": {"type": "integer"}, "ram": {"type": "integer"},
                  "accelerators": {"anyOf": [_ACCELERATORS, {"type": "null"}]}})
_ANY_COMMAND: Schema = {"type": ["string", "array"], "items": {"type": "string"}}
_ROLES: Schema = {"type": "object", "additionalProperties": record(
    {"count": {"type": "integer"}, "flavor": _FLAVOR, "command": nullable(_ANY_COMMAND)})}
_FRAMEWORK = record({"name": {"type": "string"}, "version": nullable({"type": "string"})})
_IMAGE = record({"id": {"type": "string"}, "name": {"type": "string"}}, required=("id", "name"), additionalProperties=True)
_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}

_MONEY: Schema = {"type": "number"}
COST = record({"amount": {"type": "number", "description": "Up to now, or in all."}, "currency": _STRING,
               "per_hour": {"type": "number", "description": "While it has all its nodes."}}, title="Cost")

JOB = record({
    "id": UUID, "name": _STRING, "description": nullable(_STRING), "metadata": {"type": "object", "additionalProperties": _STRING},
    "project_id": _STRING, "user_id": _STRING,
    "status": {"enum": list(STATUSES)}, "status_reason": nullable(_STRING), "cause": {"enum": [*map(str, Cause), None]},
    "phase": {"enum": list(map(str, Phase))}, "outcome": {"enum": [*map(str, Outcome), None]},
    "target": {"enum": list(map(str, Target))}, "progress": integer(0, 100), "priority": _NUMBER,
    "restart_of": {**nullable(_STRING), "description": "Id of the job that it goes on from."},
    "framework": _FRAMEWORK, "image": _IMAGE, "roles": _ROLES, "command": _ANY_COMMAND, "env": {"type": "object"},
    "source": nullable(record({"package": _STRING, "sha256": _STRING, "size": _NUMBER})), "setup": nullable(_ANY_COMMAND),
    "max_run_time": _NUMBER, "max_wait_time": _NUMBER, "max_restarts": _NUMBER, "recover_on_exit_codes": array(_NUMBER),
    "hang_timeout": nullable(_NUMBER), "checkpoint_interval": nullable({"type": "number"}),
    "availability_zone": nullable(_STRING), "network": nullable(_STRING), "ssh_authorized_keys": array(_STRING),
    "queue_position": {**nullable(_NUMBER), "description": "Place in the queue of all projects; 1 is the next. Null outside of it."},
    "cost": nullable(COST),
    "attempt": _NUMBER, "error_restarts": _NUMBER, "infra_restarts": _NUMBER,
    "exit_code": nullable(_NUMBER), "failed_task": nullable(_STRING),
    "created_at": TIME, "updated_at": TIME, "started_at": nullable(TIME), "finished_at": nullable(TIME),
    "deadline": {**nullable(TIME), "description": "When max_wait_time ends it in the queue, or max_run_time the training."}, "links": LINKS,
}, title="Job")

JOB_BODY = record({"job": JOB})
JOB_LIST = record({"jobs": array(JOB), "jobs_links": LINKS}, required=("jobs",))

LIST_QUERY = request({
    **PAGING,
    "sort_key": {"type": "string", "enum": list(SORT_KEYS)},
    "sort_dir": {"type": "string", "enum": ["asc", "desc"]},
    "name": {"type": "string", "maxLength": 255, "not": NO_NUL},
    "status": array({"type": "string", "enum": list(STATUSES)}),
    "framework": {"type": "string", "maxLength": 64, "not": NO_NUL},
    "metadata": array({"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,255}=[^\\x00]*$", "maxLength": 511,
                       "description": "key=value; may be given several times"}),
    "user_id": {"type": "string", "maxLength": 64, "not": NO_NUL},
    "project_id": {"type": "string", "maxLength": 64, "not": NO_NUL},
    "changes_since": TIME,
    "all_projects": BOOLEAN,
})

DOCUMENT = record({"document": {**JOB_REQUEST, "title": "JobDocument"},
                   "secrets": array(_STRING, description="Names of the secrets; their values are never shown.")})
RESTART_QUERY = request({"client_token": CLIENT_TOKEN})

PLAN = record({"plan": record({
    "framework": _FRAMEWORK, "image": _IMAGE, "roles": _ROLES, "network": nullable(_STRING),
    "nodes": array(record({"rank": _NUMBER, "role": _STRING, "index": _NUMBER, "flavor": _STRING, "tasks": array(_STRING)})),
    "totals": record({"nodes": _NUMBER, "tasks": _NUMBER, "vcpus": _NUMBER, "ram": _NUMBER, "accelerators": array(_ACCELERATORS)}),
    "limits": record({"max_nodes": _NUMBER, "max_run_time": _NUMBER, "max_wait_time": _NUMBER, "max_restarts": _NUMBER}),
    "feasible": {"type": "boolean", "description": "Whether creating it would succeed now."},
    "reasons": array(_STRING, description="Why it would be refused, or would have to wait."),
    "starts": {"enum": ["now", "queued", None], "description": "Null where it would be refused."},
    "queue_position": _NUMBER, "accelerators": _NUMBER, "cost_per_hour": nullable(_MONEY),
    "max_cost": {**nullable(_MONEY), "description": "If it runs once for max_run_time."}, "currency": nullable(_STRING),
    "offers": array(record({"flavor": _STRING, "available": {"type": "boolean"}, "reason": nullable(_STRING),
                            "cost_per_hour": {**nullable(_MONEY), "description": "Of the whole job."}}),
                    description="Other flavors with enough accelerators, the available and cheap ones first."),
}, title="Plan")})

TASK_NAME = "^[a-z][a-z0-9_]{0,31}:[0-9]{1,9}$"
NAMED_TASK: Schema = {"type": "string", "pattern": TASK_NAME, "description": "A task is named like worker:0"}

LOG_QUERY = request({
    "task": NAMED_TASK,
    "attempt": integer(0, 2**31 - 1, description="0 is the log of the setup command; by default the newest attempt."),
    "offset": integer(0, 2**62),
    "tail": integer(1, 2**20, description="Begin so many bytes before the end of what is there; in place of offset."),
    "since": {"type": "string", "maxLength": 64, "description": "Begin with the line that came first at this time or after it, or went "
              "on then; a time in ISO 8601, or a number of seconds before now. In place of offset."},
    "limit": integer(1, 2**20),
    "wait": {"type": "integer", "minimum": 0, "description": "Seconds to wait for text where there is none beyond offset yet."},
    "timestamps": {**BOOLEAN, "description": "Put before each line, and before what the answer begins with, when it came: 24 characters "
                   "of ISO 8601 (UTC; '-' and blanks where that is not known) and a blank. Offsets, and limit, at most 262144 then, don't "
                   "count them."},
})

EVENT = record({"id": _NUMBER, "at": TIME, "kind": _STRING, "message": _STRING, "detail": {"type": "object"}}, title="Event")
EVENTS = record({"events": array(EVENT), "events_links": LINKS}, required=("events",))
EVENTS_QUERY = request({"limit": PAGING["limit"], "marker": integer(0, 2**62, description="Id of the last event of the page before.")})

SERIES = record({"name": _STRING, "task": _STRING, "data": array(record({
    "x": TIME, "y": {"type": ["number", "null"]}, "step": nullable(_NUMBER)}))}, title="Series")
METRICS = record({"series": array(SERIES), "settings": {"type": "object"}})
METRICS_QUERY = request({"name": {"type": "string", "maxLength": 128, "not": NO_NUL}, "task": NAMED_TASK, "since": TIME})

TASK = record({
    "name": _STRING, "attempt": _NUMBER, "state": _STRING, "exit_code": nullable(_NUMBER), "signal": nullable(_NUMBER),
    "started_at": nullable(TIME), "ended_at": nullable(TIME),
}, title="Task")
NODE = record({
    "rank": _NUMBER, "role": _STRING, "index": _NUMBER, "status": _STRING, "address": nullable(_STRING), "server_id": nullable(_STRING),
    "fault": nullable(_STRING), "unreachable_since": nullable(TIME), "tasks": array(TASK),
}, title="Node")
NODES = record({"nodes": array(NODE)})

CHECKPOINT = record({"checkpoint": nullable(record(
    {"attempt": _NUMBER, "saved_at": TIME, "files": _NUMBER, "bytes": _NUMBER}, title="Checkpoint"))})
ARTIFACTS = record({"artifacts": array(record({"path": _STRING, "size": _NUMBER, "updated_at": TIME}, title="Artifact"))})
