"""The message bus: one transport a process, clients and servers made from it.

oslo.messaging delivers a cast at most once: it acknowledges before it dispatches. So every cast of this service is a hint
that a periodic sweep makes good, and every call is short and may be repeated.
"""

from __future__ import annotations

import ssl
import threading
from typing import Any, Protocol

import amqp
import kombu
import kombu.exceptions
import oslo_messaging as messaging
from oslo_config import cfg
from oslo_log import log as logging
from oslo_messaging.rpc import dispatcher

from cml_nova import context as cml_context
from cml_nova import exception

LOG = logging.getLogger(__name__)

CONDUCTOR_TOPIC = "cml-conductor"
WORKER_TOPIC = "cml-worker"

#: what servers understand. A method, or an argument that may be left out, makes the minor number go up; whatever else changes would make
#: it the major one, and jobs would not outlast an upgrade of the daemons one after the other.
#: tests/unit/test_rpc.py has what each version consists of.
VERSIONS = {CONDUCTOR_TOPIC: "1.0", WORKER_TOPIC: "1.0"}
#: what clients ask for unless a call, which uses what is newer, asks for more: daemons of this release and of later ones know it
_ASKED_FOR = "1.0"

#: what a call or cast may raise when the bus is away or nobody answers; the driver lets errors of its libraries through
BUS_ERRORS = (messaging.MessagingException, kombu.exceptions.KombuError, amqp.AMQPError, OSError)

#: seconds that a broker has for each step where it is asked directly
_BROKER_TIMEOUT = 5
#: seconds that a server has to stop
_STOP_TIMEOUT = 10

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

    :raises ConfigurationError: it names none.
    """
    try:
        return messaging.get_rpc_transport(conf, allowed_remote_exmods=ALLOWED_REMOTE_MODULES)
    except (messaging.InvalidTransportURL, messaging.DriverLoadFailure) as error:
        raise exception.ConfigurationError(f"transport_url: {error}; it looks like rabbit://USER:PASSWORD@HOST:5672/") from error


def get_client(transport: messaging.Transport, topic: str, timeout: float) -> messaging.RPCClient:
    """Make a client for a topic; build it once a process and ``prepare()`` it for each call."""
    return messaging.get_rpc_client(
        transport,
        messaging.Target(topic=topic, version=_ASKED_FOR),
        timeout=timeout,
        # One retry gets over a connection that broke while idle; the default is to try for ever, and the caller would hang.
        retry=1,
        serializer=ContextSerializer(),
    )


class Endpoint(Protocol):
    """What has public methods that clients may call; ``target`` has the version of the bus that these make up."""

    target: messaging.Target


def get_server(transport: messaging.Transport, topic: str, server: str, endpoint: Endpoint) -> messaging.RPCServer:
    """Make a server that dispatches to the public methods of ``endpoint``."""
    made = messaging.get_rpc_server(
        transport,
        messaging.Target(topic=topic, server=server),
        [endpoint],
        serializer=ContextSerializer(),
        access_policy=dispatcher.DefaultRPCAccessPolicy,
    )
    # All threads share one interpreter: with the library's 64 a burst takes twice the processor time for the same work.
    transport.conf.set_default("executor_thread_pool_size", 16)
    return made


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server does not know what it was asked, being of an older release than we are."""
    return isinstance(error, messaging.RemoteError) and error.exc_type == messaging.UnsupportedVersion.__name__


def stop_server(server: messaging.RPCServer) -> None:
    """Take no more messages, and finish what was taken; but not for long: for a bus that is away, the driver would wait for ever."""
    def stop() -> None:
        server.stop()
        server.wait()

    stopping = threading.Thread(target=stop, name="stop-server", daemon=True)
    stopping.start()
    stopping.join(_STOP_TIMEOUT)
    if stopping.is_alive():
        LOG.warning("The bus does not let go of us within %s s; we go all the same", _STOP_TIMEOUT)


def broker(conf: cfg.ConfigOpts, host: messaging.TransportHost, virtual_host: str | None) -> kombu.Connection:
    """Give a direct connection, not made yet, to one RabbitMQ broker of ``transport_url``, with the driver's options."""
    options = conf.oslo_messaging_rabbit
    tls = {"ca_certs": options.ssl_ca_file or None, "certfile": options.ssl_cert_file or None,
           "keyfile": options.ssl_key_file or None, "cert_reqs": ssl.CERT_REQUIRED if options.ssl_ca_file else ssl.CERT_NONE}
    return kombu.Connection(
        hostname=host.hostname, port=host.port or 5672, userid=host.username, password=host.password,
        virtual_host=virtual_host or "/", ssl=tls if options.ssl else False, connect_timeout=_BROKER_TIMEOUT,
        transport_options={"read_timeout": _BROKER_TIMEOUT, "write_timeout": _BROKER_TIMEOUT})


def delete_queue(conf: cfg.ConfigOpts, topic: str, server: str) -> None:
    """Delete the queue of a server that is gone for good. oslo.messaging never does, and the broker would keep it for ever.

    A queue from which somebody takes messages stays; one that is gone already is fine. Nothing is done where the bus is no RabbitMQ.

    :raises BUS_ERRORS: no broker could be asked.
    """
    url = messaging.TransportURL.parse(conf)
    if url.transport not in ("rabbit", "kombu"):
        return
    for host in url.hosts:
        try:
            with broker(conf, host, url.virtual_host) as connection:
                connection.default_channel.queue_delete(f"{topic}.{server}", if_unused=True)
            return
        except amqp.PreconditionFailed:
            return  # in use
        except BUS_ERRORS:
            if host is url.hosts[-1]:
                raise
