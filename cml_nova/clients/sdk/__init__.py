"""The client library of the service: a proxy of openstacksdk, ``conn.machine_learning``.

    conn = openstack.connect(cloud="mine")
    register(conn)
    for job in conn.machine_learning.jobs():
        print(job.name, job.status)

Another way to the same: ``vendor_hook: cml_nova.clients.sdk:register`` in clouds.yaml.
Works with openstacksdk from 0.101 on, and needs nothing of the service's own modules.
"""

from __future__ import annotations

from typing import Any

from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions, service_description

from cml_nova.clients.sdk.downloads import UnsafePathError
from cml_nova.clients.sdk.errors import ServiceNotFound, explain
from cml_nova.clients.sdk.logs import LogLine, LogPiece
from cml_nova.clients.sdk.packing import PackingError, digest, git_state
from cml_nova.clients.sdk.patience import Patience
from cml_nova.clients.sdk.proxy import TERMINAL, Proxy
from cml_nova.clients.sdk.tunnels import Forward, Tunnel, TunnelError, TunnelTicket

__all__ = ["SERVICE", "SERVICE_TYPE", "TERMINAL", "Forward", "LogLine", "LogPiece", "PackingError", "Patience", "Proxy", "ServiceNotFound",
           "Tunnel", "TunnelError", "TunnelTicket", "UnsafePathError", "digest", "explain", "git_state", "register"]

SERVICE_TYPE = "machine-learning"


class MachineLearning(service_description.ServiceDescription):
    """The service as openstacksdk finds it: by its type in the catalog."""

    supported_versions = {"1": Proxy}

    def __get__(self, instance: Any, owner: Any) -> Any:
        """Give a connection's proxy.

        :raises ServiceNotFound: the catalog has no such service. Some versions of openstacksdk say so here in their own words, others
            with the first request.
        :raises ConnectFailure, HttpError: (of keystoneauth1.exceptions) it is there and does not answer. To openstacksdk that is a
            service that does not support our version.
        """
        try:
            found = super().__get__(instance, owner)
        except ks_exceptions.EndpointNotFound:
            raise ServiceNotFound(SERVICE_TYPE, instance.config) from None
        except exceptions.NotSupported:
            instance.session.get(instance.endpoint_for(SERVICE_TYPE), authenticated=False)
            raise
        if instance is not None and not isinstance(found, adapter.Adapter):
            raise ServiceNotFound(SERVICE_TYPE, instance.config)
        return found


SERVICE = MachineLearning(SERVICE_TYPE)


def register(conn: Any) -> None:
    """Give a connection the attribute ``machine_learning``.

    openstacksdk makes it a property of the connection's class: a second time puts the same service there again, which changes nothing
    for connections that have it.
    """
    conn.add_service(SERVICE)
