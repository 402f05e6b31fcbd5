"""The message bus: one transport a process, clients and servers made from it.

oslo.messaging delivers a cast at most once: it acknowledges before it dispatches. So every cast of this service is a hint
that a periodic sweep makes good, and every call is short and may be repeated.
"""

from __future__ import annotations

from typing import Any

import amqp
import kombu.exceptions
import oslo_messaging as messaging
from oslo_config import cfg
from oslo_messaging.rpc import dispatcher

from cml_nova import context as cml_context

CONDUCTOR_TOPIC = "cml-conductor"
WORKER_TOPIC = "cml-worker"

#: what a call or cast may raise when the bus is away or nobody answers; the driver lets errors of its libraries through
BUS_ERRORS = (messaging.MessagingException, kombu.exceptions.KombuError, amqp.AMQPError, OSError)

#: errors that cross the bus as themselves instead of as a generic RemoteError
ALLOWED_REMOTE_MODULES = ["cml_nova.exception"]


class ContextSerializer(messaging.NoOpSerializer):
    """Carries the request context along with each message."""

    def serialize_context(self, context: cml_context.RequestContext | dict[str, Any]) -> dict[str, Any]:
        if isinstance(context, dict):
            return context
        # The token stays where it came in: no daemon acts for a user after the request.
        return {k: v for k, v in context.to_dict().items() if k != "auth_token"}

    def deserialize_context(self, context: dict[str, Any]) -> cml_context.RequestContext:
        return cml_context.RequestContext.from_dict(context)


def get_transport(conf: cfg.ConfigOpts) -> messaging.Transport:
    """Make the RPC transport that ``transport_url`` names.

    ``conf`` must be the global ``cfg.CONF`` in production: oslo.messaging registers some options nowhere else.
    """
    return messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_MODULES)


def get_client(transport: messaging.Transport, topic: str, timeout: float) -> messaging.RPCClient:
    """Make a client for a topic; build it once a process and ``prepare()`` it for each call."""
    return messaging.get_rpc_client(
        transport,
        messaging.Target(topic=topic, version="1.0"),
        timeout=timeout,
        # One retry gets over a connection that broke while idle; the default is to try for ever, and the caller would hang.
        retry=1,
        serializer=ContextSerializer(),
    )


def get_server(transport: messaging.Transport, topic: str, server: str, endpoint: object) -> messaging.RPCServer:
    """Make a server that dispatches to the public methods of ``endpoint``."""
    return messaging.get_rpc_server(
        transport,
        messaging.Target(topic=topic, server=server),
        [endpoint],
        serializer=ContextSerializer(),
        access_policy=dispatcher.DefaultRPCAccessPolicy,
    )
