"""The security group of a job: open among its own machines, SSH from the workers only.

Neutron can't tag a group in the request that creates it, so the name carries the job and the description, which Neutron filters
by exactly, the deployment. Another project's group of that name and description is never seen: the project is part of each query.
"""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

from openstack import connection as sdk_connection

from cml_nova import exception
from cml_nova.compute import rest


class _Rule(NamedTuple):
    """An ingress rule, without what Neutron adds."""

    ethertype: str
    protocol: str | None = None
    port: int | None = None
    remote_group_id: str | None = None
    remote_ip_prefix: str | None = None

    def body(self, group_id: str) -> dict[str, Any]:
        return {"security_group_id": group_id, "direction": "ingress", "ethertype": self.ethertype, "protocol": self.protocol,
                "port_range_min": self.port, "port_range_max": self.port, "remote_group_id": self.remote_group_id,
                "remote_ip_prefix": self.remote_ip_prefix}


class SecurityGroups:
    """The groups of one deployment's jobs.

    :param deployment: the deployment's name.
    :param ssh_source: CIDR that may reach the SSH port.
    """

    def __init__(self, connection: sdk_connection.Connection, deployment: str, ssh_source: str) -> None:
        self._connection = connection
        self._prefix = f"cml-{deployment}-"
        self._description = f"Nodes of a cml_nova job; deployment={deployment}"
        self._ssh_source = ipaddress.ip_network(ssh_source, strict=False)

    def ensure(self, job_id: str, ssh_port: int) -> str:
        """Make sure that the job has a group with all its rules; a crash at any place before is made good.

        :returns: its id; of several, which only a race can make, the lowest.
        :raises CloudError: see ``rest``; CloudQuota when the project may have no more groups.
        """
        found = self._find(job_id)
        group = min(found, key=lambda body: str(body["id"])) if found else self._create(job_id)
        group_id = str(group["id"])
        have = {_rule(body) for body in group.get("security_group_rules") or [] if body.get("direction") == "ingress"}
        missing = [rule.body(group_id) for rule in self._wanted(group_id, ssh_port) if rule not in have]
        if missing:
            self._add_rules(missing)
        return group_id

    def ids(self, job_id: str) -> list[str]:
        """List the job's groups."""
        return sorted(str(body["id"]) for body in self._find(job_id))

    def delete(self, group_id: str) -> None:
        """Delete a group; that it is gone already is fine.

        :raises CloudError: a port still uses it, or the call failed.
        """
        rest.delete(self._connection, "network", f"/security-groups/{group_id}", f"delete the security group {group_id}")

    def all(self) -> list[tuple[str, str, str | None]]:
        """List the groups of all jobs of the deployment: (id, job id, time of creation as Neutron writes it)."""
        bodies = self._list("list the security groups of the deployment", {})
        return [(str(body["id"]), str(body["name"]).removeprefix(self._prefix), body.get("created_at"))
                for body in bodies if str(body["name"]).startswith(self._prefix)]

    def _find(self, job_id: str) -> list[dict[str, Any]]:
        return self._list(f"list the security groups of job {job_id}", {"name": self._prefix + job_id})

    def _list(self, what: str, params: rest.Params) -> list[dict[str, Any]]:
        query = {**params, "description": self._description, "project_id": rest.project_id(self._connection, what)}
        bodies = rest.pages(self._connection, "network", "/security-groups", "security_groups", what, query)
        # A cloud that doesn't know one of the filters would otherwise hand strangers' groups over to deletion.
        return [body for body in bodies
                if body.get("description") == self._description and all(body.get(key) == value for key, value in params.items())]

    def _create(self, job_id: str) -> dict[str, Any]:
        body = {"security_group": {"name": self._prefix + job_id, "description": self._description}}
        what = f"create the security group of job {job_id}"
        answer = rest.post(self._connection, "network", "/security-groups", what, body)
        return dict(answer["security_group"])

    def _wanted(self, group_id: str, ssh_port: int) -> list[_Rule]:
        source = self._ssh_source
        return [
            _Rule("IPv4", remote_group_id=group_id),
            _Rule("IPv6", remote_group_id=group_id),
            _Rule(f"IPv{source.version}", protocol="tcp", port=ssh_port, remote_ip_prefix=str(source)),
        ]

    def _add_rules(self, rules: list[dict[str, Any]]) -> None:
        """Add rules in one request; where someone else has just added one of them, one by one."""
        what = "add rules to a security group"
        try:
            rest.post(self._connection, "network", "/security-group-rules", what, {"security_group_rules": rules})
            return
        except exception.CloudQuota:
            raise
        except exception.CloudError as error:
            if error.detail.get("status") != 409:
                raise
        for rule in rules:
            try:
                rest.post(self._connection, "network", "/security-group-rules", what, {"security_group_rule": rule})
            except exception.CloudQuota:
                raise
            except exception.CloudError as error:
                if error.detail.get("status") != 409:
                    raise


def _rule(body: dict[str, Any]) -> _Rule:
    prefix = body.get("remote_ip_prefix")
    protocol, low, high = body.get("protocol"), body.get("port_range_min"), body.get("port_range_max")
    return _Rule(
        ethertype=str(body.get("ethertype")), protocol=protocol, port=low if low == high else -1,
        remote_group_id=body.get("remote_group_id"), remote_ip_prefix=str(ipaddress.ip_network(prefix, strict=False)) if prefix else None)
