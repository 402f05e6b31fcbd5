"""Neutron's state: the networks, ports, and security groups with their rules."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from collections.abc import Iterator

from cml_nova.localcloud import errors
from cml_nova.localcloud.scheduler import Quotas
from cml_nova.localcloud.store import Document, Store
from cml_nova.localcloud.timers import Clock
from cml_nova.localcloud.times import iso

NETWORK_NAME, EXTERNAL_NAME = "local-net", "local-external"
PROTOCOLS = ("ah", "dccp", "egp", "esp", "gre", "icmp", "icmpv6", "igmp", "ip", "ipip", "ipv6-icmp", "ospf", "rsvp", "sctp", "tcp", "udp",
             "udplite", "vrrp")
RULE_KEYS = ("direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id")


class Networks:
    """The network that all projects share, what is attached to it, and the external network.

    :param cidr: addresses of the network; loopback ones, since servers are processes on this machine.
    """

    def __init__(self, store: Store, clock: Clock, quotas: Quotas, cidr: str) -> None:
        self._store = store
        self._clock = clock
        self._quotas = quotas
        self.cidr = ipaddress.IPv4Network(cidr)
        # The last eighth is the external network's.
        self._fixed_end = self.cidr.num_addresses * 7 // 8
        # Clouds that run beside each other share the addresses of the machine: each begins somewhere else.
        self._last = secrets.randbelow(self.cidr.num_addresses)

    def bootstrap(self, admin_project: str) -> None:
        """Make the networks and their subnets, or change the subnets if the cloud had other addresses before."""
        self._bootstrap_network(admin_project, NETWORK_NAME, "local-subnet", self.cidr[2], self.cidr[self._fixed_end - 1], external=False)
        self._bootstrap_network(admin_project, EXTERNAL_NAME, "local-external-subnet", self.cidr[self._fixed_end], self.cidr[-2],
                                external=True)

    def _bootstrap_network(self, project: str, name: str, subnet_name: str, start: object, end: object, external: bool) -> None:
        with self._store as store:
            network = next(iter(store.find("network", name=name)), None)
            pools = [{"start": str(start), "end": str(end)}]
            if network and store.find("subnet", network_id=network["id"], allocation_pools=pools):
                return
            network_id = network["id"] if network else str(uuid.uuid4())
            subnets = store.find("subnet", network_id=network_id)
            subnet_id = subnets[0]["id"] if subnets else str(uuid.uuid4())
            store.put("subnet", {**self.standard(project, subnet_name, key=subnet_id), "network_id": network_id,
                                 "cidr": str(self.cidr), "ip_version": 4, "enable_dhcp": not external, "gateway_ip": str(self.cidr[1]),
                                 "allocation_pools": pools, "dns_nameservers": [], "host_routes": [], "ipv6_address_mode": None,
                                 "ipv6_ra_mode": None, "subnetpool_id": None, "service_types": []})
            store.put("network", {**self.standard(project, name, key=network_id), "status": "ACTIVE", "shared": not external,
                                  "admin_state_up": True, "subnets": [subnet_id], "router:external": external, "is_default": False,
                                  "mtu": 65536, "port_security_enabled": True, "availability_zones": ["nova"],
                                  "availability_zone_hints": [], "ipv4_address_scope": None, "ipv6_address_scope": None,
                                  "provider:network_type": "local", "provider:physical_network": None,
                                  "provider:segmentation_id": None, "qos_policy_id": None})

    def floating_pool(self) -> Iterator[str]:
        """Give the addresses of the external network, from a random one on round."""
        size = self.cidr.num_addresses - 1 - self._fixed_end
        start = secrets.randbelow(size)
        for place in range(size):
            address = self.cidr[self._fixed_end + (start + place) % size]
            if address.packed[3] not in (0, 255):
                yield str(address)

    def standard(self, project_id: str, name: str, description: str = "", key: str = "") -> Document:
        """Give what every resource of Neutron has; a new id unless one is given."""
        now = iso(self._clock())
        return {"id": key or str(uuid.uuid4()), "name": name, "description": description, "project_id": project_id, "tenant_id": project_id,
                "tags": [], "created_at": now, "updated_at": now, "revision_number": 1}

    # Ports

    def add_ports(self, project_id: str, network_id: str, groups: list[str], device_ids: list[str], name: str = "") -> list[Document]:
        """Make a port with a free address for each device; an empty device id is none.

        :raises ApiError: 404 no such network, 409 quota or no address left.
        """
        network = self._store.get("network", network_id)
        if network is None:
            raise errors.not_found(f"Network {network_id} could not be found.", "NetworkNotFound")
        self._quotas.check_network(project_id, "port", len(device_ids))
        used = self._used_addresses()
        made = []
        for device_id in device_ids:
            address = self._free_address(used)
            used.add(address)
            made.append(self._store.put("port", {
                **self.standard(project_id, name), "network_id": network_id, "status": "DOWN", "admin_state_up": True,
                "mac_address": "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3)),
                "fixed_ips": [{"subnet_id": network["subnets"][0], "ip_address": address}],
                "device_id": device_id, "device_owner": "compute:nova" if device_id else "", "security_groups": groups,
                "allowed_address_pairs": [], "extra_dhcp_opts": [], "port_security_enabled": True, "binding:vnic_type": "normal",
                "dns_name": "", "qos_policy_id": None}))
        return made

    def _used_addresses(self) -> set[str]:
        return {port["fixed_ips"][0]["ip_address"] for port in self._store.all("port")}

    def _free_address(self, used: set[str]) -> str:
        # Round and round, so that an address rests as long as it can before another server gets it.
        for _ in range(self.cidr.num_addresses):
            self._last = (self._last + 1) % self.cidr.num_addresses
            address = self.cidr[self._last]
            if 2 <= self._last < self._fixed_end and address.packed[3] not in (0, 255) and str(address) not in used:
                return str(address)
        raise errors.conflict(f"No more IP addresses available on network {NETWORK_NAME}.", "IpAddressGenerationFailure")

    def move_port(self, port_id: str) -> Document:
        """Give a port another address: something else on this machine uses its own."""
        port = self._store.get("port", port_id)
        if port is None:
            raise errors.not_found(f"Port {port_id} could not be found.", "PortNotFound")
        address = self._free_address(self._used_addresses())
        return self._store.update("port", port_id, fixed_ips=[{**port["fixed_ips"][0], "ip_address": address}])

    def remove_port(self, port_id: str) -> None:
        """Remove a port; its floating address, if it has one, stays and stands for none."""
        for floating in self._store.find("floatingip", port_id=port_id):
            self._store.update("floatingip", floating["id"], port_id=None, fixed_ip_address=None, status="DOWN")
        self._store.remove("port", port_id)

    # Security groups

    def default_group(self, project_id: str) -> Document:
        """Give the project's default security group, which comes to be when it is first needed."""
        found = self._store.find("security_group", project_id=project_id, name="default")
        if found:
            return found[0]
        group = self._add_group(project_id, "default", "Default security group")
        for version in ("IPv4", "IPv6"):
            self._add_rule(group, {"direction": "ingress", "ethertype": version, "remote_group_id": group["id"]})
        return group

    def add_group(self, project_id: str, name: str, description: str, stateful: bool = True) -> Document:
        """Make a security group, with the two rules that let everything out.

        :raises ApiError: 409 when there is one named ``default`` already, or of quota.
        """
        self.default_group(project_id)
        if name == "default":
            raise errors.conflict("Default security group already exists.", "SecurityGroupDefaultAlreadyExists")
        self._quotas.check_network(project_id, "security_group")
        return self._add_group(project_id, name, description, stateful)

    def _add_group(self, project_id: str, name: str, description: str, stateful: bool = True) -> Document:
        group = self._store.put("security_group", {**self.standard(project_id, name, description),
                                                   "stateful": stateful, "shared": False})
        for version in ("IPv4", "IPv6"):
            self._add_rule(group, {"direction": "egress", "ethertype": version})
        return group

    def remove_group(self, group: Document) -> None:
        """Remove a security group and its rules.

        :raises ApiError: 409, a port or the project needs it.
        """
        if group["name"] == "default":
            raise errors.conflict("Default security group can't be removed.", "SecurityGroupCannotRemoveDefault")
        if any(group["id"] in port["security_groups"] for port in self._store.all("port")):
            raise errors.conflict(f"Security Group {group['id']} in use.", "SecurityGroupInUse")
        for rule in self._store.all("security_group_rule"):
            if group["id"] in (rule["security_group_id"], rule["remote_group_id"]):
                self._store.remove("security_group_rule", rule["id"])
        self._store.remove("security_group", group["id"])

    def add_rule(self, group: Document, wanted: Document) -> Document:
        """Add a rule to a group.

        :raises ApiError: 409 it is there already, or of quota; 400 what it says can't be.
        """
        _check_rule(wanted)
        remote = wanted.get("remote_group_id")
        if remote and self._store.get("security_group", remote) is None:
            raise errors.not_found(f"Security group {remote} does not exist", "SecurityGroupNotFound")
        self._quotas.check_network(group["project_id"], "security_group_rule")
        return self._add_rule(group, wanted)

    def _add_rule(self, group: Document, wanted: Document) -> Document:
        values = {key: wanted.get(key) for key in RULE_KEYS}
        values["ethertype"] = values["ethertype"] or "IPv4"
        if isinstance(values["protocol"], str):
            values["protocol"] = values["protocol"].lower()
        same = self._store.find("security_group_rule", security_group_id=group["id"], **values)
        if same:
            raise errors.conflict(f"Security group rule already exists. Rule id is {same[0]['id']}.", "SecurityGroupRuleExists")
        standard = self.standard(group["project_id"], "", wanted.get("description") or "")
        del standard["name"], standard["tags"]
        return self._store.put("security_group_rule", {**standard, **values, "security_group_id": group["id"],
                                                       "remote_address_group_id": None, "normalized_cidr": values["remote_ip_prefix"],
                                                       "belongs_to_default_sg": group["name"] == "default"})


def _check_rule(rule: Document) -> None:
    if rule.get("direction") not in ("ingress", "egress"):
        raise errors.bad_request(f"Invalid input for direction. Reason: {rule.get('direction')} is not in valid_values.",
                                 "HTTPBadRequest")
    if rule.get("ethertype") not in (None, "IPv4", "IPv6"):
        raise errors.bad_request(f"Security group rule for ethertype '{rule['ethertype']}' not supported. "
                                 "Allowed values are ['IPv4', 'IPv6'].", "SecurityGroupRuleInvalidEtherType")
    if rule.get("remote_ip_prefix") and rule.get("remote_group_id"):
        raise errors.bad_request("Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
                                 "SecurityGroupMultipleRemoteEntites")
    if str(rule.get("protocol") or "tcp").lower() not in PROTOCOLS and not str(rule["protocol"]).isdecimal():
        raise errors.bad_request(f"Security group rule protocol {rule['protocol']} not supported. Only protocol values "
                                 f"{[None, *PROTOCOLS]} and integer representations [0 to 255] are supported.",
                                 "SecurityGroupRuleInvalidProtocol")
    _check_ports(rule)
    prefix = rule.get("remote_ip_prefix")
    if prefix:
        try:
            version = ipaddress.ip_network(prefix, strict=False).version
        except ValueError:
            raise errors.bad_request(f"Invalid CIDR {prefix} given as IP prefix.", "InvalidCIDR") from None
        if f"IPv{version}" != (rule.get("ethertype") or "IPv4"):
            raise errors.bad_request(f"Conflicting value ethertype {rule.get('ethertype') or 'IPv4'} for CIDR {prefix}",
                                     "SecurityGroupRuleParameterConflict")


def _check_ports(rule: Document) -> None:
    low, high = rule.get("port_range_min"), rule.get("port_range_max")
    if (low is not None or high is not None) and not rule.get("protocol"):
        raise errors.bad_request("Must also specify protocol if port range is given.", "SecurityGroupProtocolRequiredWithPorts")
    if str(rule.get("protocol")).lower() in ("tcp", "udp", "6", "17") and (low is not None or high is not None):
        for port in (low, high):
            if port is not None and not 0 <= int(port) <= 65535:
                raise errors.bad_request(f"Invalid value for port {port}", "SecurityGroupInvalidPortValue")
        if low is None or high is None or not 1 <= int(low) <= int(high) <= 65535:
            raise errors.bad_request("For TCP/UDP protocols, port_range_min must be <= port_range_max", "SecurityGroupInvalidPortRange")
