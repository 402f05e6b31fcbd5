"""Neutron's state: the external network and the floating addresses of it."""

from __future__ import annotations

from typing import Any

from cml_nova.localcloud import errors
from cml_nova.localcloud.hypervisor import AddressInUse, Hypervisor
from cml_nova.localcloud.networks import EXTERNAL_NAME, Networks
from cml_nova.localcloud.scheduler import Quotas
from cml_nova.localcloud.store import Document, Store


class FloatingAddresses:
    """Floating addresses of all projects. Every network counts as connected to the external one."""

    def __init__(self, store: Store, networks: Networks, quotas: Quotas, hypervisor: Hypervisor) -> None:
        self._store = store
        self._networks = networks
        self._quotas = quotas
        self._hypervisor = hypervisor

    def recover(self) -> None:
        """Serve those of the process of before again."""
        for floating in self._store.all("floatingip"):
            self._hypervisor.forward(floating["floating_ip_address"], lambda key=floating["id"]: self._server(key))  # type: ignore[misc]

    def create(self, project_id: str, wanted: Document) -> Document:
        """Make one, for a port or none.

        :raises ApiError: 404 network or port, 400 no external network or no such address of the port, 409 quota, no address left, or the
            port has one.
        """
        if not wanted.get("floating_network_id"):
            raise errors.bad_request("Failed to parse request. Required attribute 'floating_network_id' not specified", "HTTPBadRequest")
        network_id = str(wanted["floating_network_id"])
        network = self._store.get("network", network_id)
        if network is None:
            raise errors.not_found(f"Network {network_id} could not be found.", "NetworkNotFound")
        if not network["router:external"]:
            raise errors.bad_request(f"Bad floatingip request: Network {network_id} is not a valid external network.")
        with self._store as store:
            association = self._association(wanted.get("port_id"), wanted.get("fixed_ip_address"))
            self._quotas.check_network(project_id, "floatingip")
            made = self._networks.standard(project_id, "", str(wanted.get("description") or ""))
            del made["name"]
            made |= {"floating_network_id": network_id, "router_id": None, "port_details": None, "dns_domain": "", "dns_name": "",
                     **association}
            made["floating_ip_address"] = self._listen(made["id"])
            return store.put("floatingip", made)

    def _listen(self, key: str) -> str:
        used = {floating["floating_ip_address"] for floating in self._store.all("floatingip")}
        for address in self._networks.floating_pool():
            if address in used:
                continue
            try:
                self._hypervisor.forward(address, lambda: self._server(key))
            except AddressInUse:
                continue
            return address
        raise errors.conflict(f"No more IP addresses available on network {EXTERNAL_NAME}.", "IpAddressGenerationFailure")

    def _association(self, port_id: str | None, fixed: str | None) -> dict[str, Any]:
        if not port_id:
            return {"port_id": None, "fixed_ip_address": None, "status": "DOWN"}
        port = self._store.get("port", port_id)
        if port is None:
            raise errors.not_found(f"Port {port_id} could not be found.", "PortNotFound")
        own = str(port["fixed_ips"][0]["ip_address"])
        if fixed not in (None, own):
            raise errors.bad_request(f"Bad floatingip request: Port {port_id} does not have fixed ip {fixed}.")
        for other in self._store.find("floatingip", port_id=port_id):
            raise errors.conflict(f"Cannot associate floating IP with port {port_id} using fixed IP {own}, as that fixed IP already has a "
                                  f"floating IP on external network {other['floating_network_id']}.", "FloatingIPPortAlreadyAssociated")
        return {"port_id": port_id, "fixed_ip_address": own, "status": "ACTIVE"}

    def associate(self, floating: Document, port_id: str | None, fixed: str | None) -> dict[str, Any]:
        """Give what changes in a floating address that is to stand for a port, or for none.

        :raises ApiError: as ``create``.
        """
        return {} if port_id and port_id == floating["port_id"] else self._association(port_id, fixed)

    def remove(self, floating: Document) -> None:
        """Give one back."""
        self._hypervisor.unforward(floating["floating_ip_address"])
        self._store.remove("floatingip", floating["id"])

    def _server(self, key: str) -> str | None:
        """Tell which server a floating address stands for now."""
        floating = self._store.get("floatingip", key)
        port = self._store.get("port", floating["port_id"]) if floating and floating["port_id"] else None
        return str(port["device_id"]) if port and port["device_id"] else None
