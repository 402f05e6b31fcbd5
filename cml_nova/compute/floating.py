"""Floating addresses of a job's nodes, for the workers' SSH: needed where the nodes' network is reached through a router only.

The description, which Neutron takes in the request that creates an address and filters by exactly, names deployment and job. The port
is in that request too, so none can come into being, however late, once the job's ports are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

from openstack import connection as sdk_connection

from cml_nova import exception
from cml_nova.compute import catalog, rest

_FIELDS = ["id", "port_id", "floating_ip_address", "description", "created_at"]


class FloatingAddresses:
    """The floating addresses of one deployment's jobs.

    :param network: name or id of the external network that they are taken from; None where nodes are reached by their fixed ones.
    :param pool: makes several at a time.
    """

    def __init__(self, connection: sdk_connection.Connection, deployment: str, network: str | None, pool: futures.Executor) -> None:
        self._connection = connection
        self._network = network
        self._network_id = ""
        self._prefix = f"Node of a cml_nova job; deployment={deployment}; job="
        self._pool = pool

    @property
    def wanted(self) -> bool:
        """Whether nodes get floating addresses."""
        return self._network is not None

    def ensure(self, job_id: str, group_id: str, fixed: Mapping[str, str]) -> dict[str, str]:
        """Make sure that each server has one: two requests, and one for each that is missing or is a server's no more.

        :param group_id: the job's security group, by which its ports are found.
        :param fixed: the fixed addresses by server id.
        :returns: the floating addresses by server id.
        :raises CloudQuota, NoCapacity: the project may have no more, or the network has no more; some may have been made.
        :raises CloudRefused: the external network can't be found, or is not connected to the servers' network.
        :raises CloudError: a server has no port yet, or the call failed.
        """
        ports = self._ports(job_id, group_id, fixed)
        found = self._list(job_id)
        self._each(self._delete, [str(body["id"]) for body in found if body["port_id"] not in ports.values()])
        had = {body["port_id"]: str(body["floating_ip_address"]) for body in found}
        wanting = {server_id: port_id for server_id, port_id in ports.items() if port_id not in had}
        network_id = self._external() if wanting else ""
        made = self._each(lambda server_id: self._create(job_id, network_id, wanting[server_id], fixed[server_id]), wanting)
        return {server_id: made.get(server_id) or had[port_id] for server_id, port_id in ports.items()}

    def ids(self, job_id: str) -> list[str]:
        """List the job's floating addresses: one request."""
        return sorted(str(body["id"]) for body in self._list(job_id))

    def delete(self, job_id: str) -> None:
        """Delete the job's floating addresses: one request to list them, one for each; that one is gone already is fine.

        :raises CloudError: some were not deleted; all were tried.
        """
        self._each(self._delete, self.ids(job_id))

    def all(self) -> list[tuple[str, str, str | None]]:
        """List those of all jobs of the deployment: (id, job id, time of creation as Neutron writes it)."""
        return [(str(body["id"]), str(body["description"]).removeprefix(self._prefix), body.get("created_at"))
                for body in self._query("list the floating addresses of the deployment", {})]

    def _ports(self, job_id: str, group_id: str, fixed: Mapping[str, str]) -> dict[str, str]:
        """Find the port of each server's fixed address."""
        what = f"list the ports of job {job_id}"
        bodies = rest.pages(self._connection, "network", "/ports", "ports", what,
                            {"security_groups": group_id, "fields": ["id", "device_id", "fixed_ips"]})
        ports = {str(body["device_id"]): str(body["id"]) for body in bodies
                 if fixed.get(body["device_id"]) in [ip["ip_address"] for ip in body.get("fixed_ips") or ()]}
        missing = sorted(set(fixed) - set(ports))
        if missing:
            raise exception.CloudError(f"Could not {what}: the servers {', '.join(missing)} have none with their addresses yet.")
        return ports

    def _create(self, job_id: str, network_id: str, port_id: str, fixed: str) -> str:
        what = f"create a floating address for job {job_id}"
        body = {"floatingip": {"floating_network_id": network_id, "port_id": port_id, "fixed_ip_address": fixed,
                               "description": self._prefix + job_id}}
        try:
            answer = rest.post(self._connection, "network", "/floatingips", what, body)
        except exception.NotFound as error:
            # of no router between the networks, or of a port that is gone: another look shows the latter
            kind = exception.CloudRefused if "not reachable" in error.message else exception.CloudError
            raise kind(error.message) from error
        return str(answer["floatingip"]["floating_ip_address"])

    def _delete(self, floating_id: str) -> None:
        rest.delete(self._connection, "network", f"/floatingips/{floating_id}", f"delete the floating address {floating_id}")

    def _external(self) -> str:
        if not self._network_id:
            try:
                self._network_id = catalog.find_network(self._connection, self._network or "")
            except (exception.NotFound, exception.Conflict) as error:
                raise exception.CloudRefused(f"The option floating_network in [cloud]: {error.message}") from error
        return self._network_id

    def _list(self, job_id: str) -> list[dict[str, Any]]:
        return self._query(f"list the floating addresses of job {job_id}", {"description": self._prefix + job_id})

    def _query(self, what: str, params: rest.Params) -> list[dict[str, Any]]:
        query = {**params, "project_id": rest.project_id(self._connection, what), "fields": _FIELDS}
        try:
            bodies = list(rest.pages(self._connection, "network", "/floatingips", "floatingips", what, query))
        except exception.NotFound:  # a cloud without routers
            return []
        wanted = params.get("description")
        return [body for body in bodies if str(body.get("description")).startswith(self._prefix) and wanted in (None, body["description"])]

    def _each(self, action: Any, keys: Iterable[str]) -> dict[str, Any]:
        """Do something for each key, several at a time.

        :raises CMLError: what the first failure in order was; all were tried.
        """
        running = {key: self._pool.submit(action, key) for key in keys}
        futures.wait(running.values())
        return {key: future.result() for key, future in running.items()}
