"""Schemas of /v1/jobs/{id}/tunnels."""

from __future__ import annotations

from cml_nova.api.schemas.common import TIME, integer, nullable, record, request
from cml_nova.api.schemas.jobs import NAMED_TASK, PUBLIC_KEY

CREATE = request({"tunnel": request({
    "task": NAMED_TASK,
    "node": integer(0, 2**31 - 1, description="Rank of a node, in place of a task."),
    "port": integer(1, 65535, description="A TCP port that something on the node listens on."),
    "public_key": PUBLIC_KEY,
}, title="TunnelRequest")}, required=("tunnel",))

TUNNEL = record({"tunnel": record({
    "url": {"type": "string", "description": "Of a websocket; each binary message is a piece of the stream, a text 'eof' its end."},
    "token": {"type": "string", "description": "For the header Authorization: Bearer."},
    "expires_at": TIME, "node": {"type": "integer"}, "task": nullable({"type": "string"}), "port": nullable({"type": "integer"}),
    "user": {"type": "string", "description": "Login name on the node."},
    "host_key": {"type": "string", "description": "The node's SSH host key, the only one to be trusted."},
}, title="Tunnel")})
