"""What the service needs on a cloud, piece by piece: each is looked for first, and made or repaired only where it differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openstack import exceptions as sdk_exceptions
from openstack.connection import Connection

SERVICE_TYPE = "machine-learning"
INTERFACES = ("public", "internal", "admin")
#: names that operators know -> (service that holds the quota, its name in openstacksdk)
QUOTAS = {
    "instances": ("compute", "instances"), "cores": ("compute", "cores"), "ram": ("compute", "ram"),
    "ports": ("network", "ports"), "security-groups": ("network", "security_groups"),
    "security-group-rules": ("network", "security_group_rules"), "floating-ips": ("network", "floating_ips"),
}


class RegistrationError(Exception):
    """The cloud is in a state that only its operator can judge; the message says which, and the way out."""


class Ledger:
    """Does the changes, or only tells them, and keeps count.

    :param dry: tell only.
    :param say: takes each line.
    """

    def __init__(self, dry: bool, say: Callable[[str], None]) -> None:
        self.dry = dry
        self.changes = 0
        self._say = say

    def kept(self, what: str) -> None:
        self._say(f"kept      {what}")

    def checked(self, what: str) -> None:
        self._say(f"checked   {what}")

    def warn(self, what: str) -> None:
        self._say(f"warning   {what}")

    def change(self, what: str, action: Callable[[], Any]) -> Any:
        """Make a change; give what ``action`` gives, or None if nothing is to be changed."""
        self.changes += 1
        if self.dry:
            self._say(f"missing   {what}")
            return None
        made = action()
        self._say(f"made      {what}")
        return made


class Identity:
    """Roles, projects, the user, and the catalog.

    :param cloud: an administrator's connection.
    :param domain: name of the domain of user and projects.
    """

    def __init__(self, cloud: Connection, ledger: Ledger, domain: str) -> None:
        self._identity = cloud.identity
        self._ledger = ledger
        self.domain_name = domain
        domains = list(self._identity.domains(name=domain))
        if not domains:
            raise RegistrationError(f"There is no domain {domain!r}; name another one with --domain, or make it: openstack domain create.")
        self._domain = domains[0]

    def role(self, name: str, implies: Any = None) -> Any:
        """See to a role of the cloud.

        :param implies: role that a new one brings with it.
        """
        found = [role for role in self._identity.roles(name=name) if not role.domain_id]
        if found:
            self._ledger.kept(f"role {name}")
            return found[0]
        role = self._ledger.change(f"role {name}", lambda: self._identity.create_role(name=name))
        if role is not None and implies is not None:
            answer = self._identity.put(f"/roles/{role.id}/implies/{implies.id}")
            sdk_exceptions.raise_from_response(answer)
        return role

    def project(self, name: str, description: str) -> Any:
        """See to a project of the domain."""
        found = list(self._identity.projects(name=name, domain_id=self._domain.id))
        if not found:
            return self._ledger.change(f"project {name}", lambda: self._identity.create_project(
                name=name, domain_id=self._domain.id, description=description))
        if not found[0].is_enabled:
            raise RegistrationError(f"The project {name} is disabled: openstack project set --enable {found[0].id}, or name another one.")
        self._ledger.kept(f"project {name}")
        return found[0]

    def find_user(self, name: str) -> Any:
        """Find the user in the domain; None when there is none of that name anywhere.

        :raises RegistrationError: it is disabled, or there is one of that name in another domain only.
        """
        found = list(self._identity.users(name=name))
        here = [user for user in found if user.domain_id == self._domain.id]
        if found and not here:
            other = self._identity.get_domain(found[0].domain_id).name
            raise RegistrationError(f"There is a user {name} in the domain {other}, and none in {self.domain_name}. "
                                    f"Say which is meant: --domain {other}, or another name with --user.")
        if not here:
            return None
        if not here[0].is_enabled:
            raise RegistrationError(f"The user {name} is disabled: openstack user set --enable {here[0].id}, or name another with --user.")
        self._ledger.kept(f"user {name}")
        if len(found) > 1:
            self._ledger.warn(f"there are {len(found)} users {name}; the one of the domain {self.domain_name} is used")
        return here[0]

    def create_user(self, name: str, password: str) -> Any:
        """Make the user."""
        return self._ledger.change(f"user {name}", lambda: self._identity.create_user(
            name=name, domain_id=self._domain.id, password=password, description="cml_nova: trains in virtual machines"))

    def set_password(self, user: Any, password: str) -> None:
        """Give the user another password."""
        self._ledger.change(f"password of {user.name}", lambda: self._identity.update_user(user, password=password))

    def assign(self, role: Any, user: Any, project: Any, what: str) -> None:
        """See to it that the user has the role in the project; each may be None when only told."""
        if None not in (role, user, project) and self._identity.validate_user_has_project_role(project, user, role):
            self._ledger.kept(what)
        else:
            self._ledger.change(what, lambda: self._identity.assign_project_role_to_user(project, user, role))

    def warn_of_more(self, user: Any, needed: set[tuple[str, str]]) -> None:
        """Say what the user may do beyond (role id, project id) pairs."""
        for entry in self._identity.role_assignments(user_id=user.id, include_names=True):
            scope = entry.scope.get("project") or entry.scope.get("domain") or entry.scope.get("system") or {}
            if (entry.role["id"], scope.get("id")) not in needed:
                self._ledger.warn(f"user {user.name} has the role {entry.role.get('name')} on {scope.get('name', 'the system')} too, "
                                  "which the service does not need")

    def service(self, name: str) -> Any:
        """See to the service in the catalog.

        :raises RegistrationError: several are of its type.
        """
        found = list(self._identity.services(type=SERVICE_TYPE))
        if len(found) > 1:
            ids = ", ".join(f"{service.id} ({service.name})" for service in found)
            raise RegistrationError(f"The catalog has {len(found)} services of type {SERVICE_TYPE}: {ids}. "
                                    "Clients take any of them: openstack service delete those that are not meant.")
        if found:
            self._ledger.kept(f"service {found[0].name} of type {SERVICE_TYPE}")
            return found[0]
        return self._ledger.change(f"service {name} of type {SERVICE_TYPE}", lambda: self._identity.create_service(
            name=name, type=SERVICE_TYPE, description="Distributed deep-learning training"))

    def endpoint(self, service: Any, interface: str, region: str, url: str, replace: bool) -> None:
        """See to an endpoint.

        :param replace: change the URL of one that is there.
        :raises RegistrationError: there are several, or one with another URL and ``replace`` is not given.
        """
        what = f"{interface} endpoint {url} in {region}"
        found = [] if service is None else [
            endpoint for endpoint in self._identity.endpoints(service_id=service.id, interface=interface) if endpoint.region_id == region]
        if len(found) > 1:
            raise RegistrationError(f"The service {SERVICE_TYPE} has {len(found)} {interface} endpoints in {region}: "
                                    f"{', '.join(f'{entry.id} ({entry.url})' for entry in found)}. openstack endpoint delete all but one.")
        if not found:
            self._ledger.change(what, lambda: self._identity.create_endpoint(
                service_id=service.id, interface=interface, region_id=region, url=url))
        elif found[0].url == url:
            self._ledger.kept(what)
        elif replace:
            self._ledger.change(f"{what} in place of {found[0].url}", lambda: self._identity.update_endpoint(found[0], url=url))
        else:
            raise RegistrationError(f"The {interface} endpoint of {SERVICE_TYPE} in {region} is {found[0].url}, not {url}. "
                                    "Is another deployment there? If not, --replace-endpoints changes it.")

    def check_region(self, region: str) -> None:
        """:raises RegistrationError: the cloud has no such region."""
        names = sorted(entry.id for entry in self._identity.regions())
        if region not in names:
            raise RegistrationError(f"There is no region {region!r}; there are {', '.join(names) or 'none'}. Name one with --region.")


def set_quota(cloud: Connection, ledger: Ledger, project: Any, wanted: Mapping[str, int]) -> None:
    """See to quotas of a project.

    :param project: None when it is still missing.
    :param wanted: a name of ``QUOTAS`` -> limit, -1 for none.
    """
    now: dict[str, Any] = {}
    for name, value in wanted.items():
        service, attribute = QUOTAS[name]
        if project is not None and service not in now:
            now[service] = cloud.compute.get_quota_set(project.id) if service == "compute" else cloud.network.get_quota(project.id)
        if project is not None and now[service][attribute] == value:
            ledger.kept(f"quota {name}={value}")
        elif service == "compute":
            ledger.change(f"quota {name}={value}", lambda key=attribute, value=value: cloud.compute.update_quota_set(
                project.id, **{key: value}))
        else:
            ledger.change(f"quota {name}={value}", lambda key=attribute, value=value: cloud.network.update_quota(
                project.id, **{key: value}))


class Networks:
    """The network that the nodes are attached to.

    :param project: the nodes' one; None when it is still missing.
    """

    def __init__(self, cloud: Connection, ledger: Ledger, project: Any) -> None:
        self._network = cloud.network
        self._ledger = ledger
        self._project = project

    def existing(self, name_or_id: str) -> Any:
        """Find a network.

        :raises RegistrationError: there is none, or several.
        """
        found = list(self._network.networks(name=name_or_id)) or list(self._network.networks(id=name_or_id))
        if not found:
            names = sorted(network.name for network in self._network.networks())
            raise RegistrationError(f"There is no network {name_or_id!r}; there are {', '.join(names) or 'none'}. "
                                    "--create-network CIDR makes one for the nodes.")
        if len(found) > 1:
            ids = ", ".join(network.id for network in found)
            raise RegistrationError(f"There are {len(found)} networks {name_or_id!r}; name one by its id: {ids}.")
        return found[0]

    def private(self, name: str, cidr: str, external: str | None) -> Any:
        """See to a network of the nodes' project with a subnet, and a router to an external network if one is named.

        :raises RegistrationError: what is there by that name is something else.
        """
        outside = self.existing(external) if external else None
        if outside is not None and not outside.is_router_external:
            raise RegistrationError(f"The network {external} is not external; --external names the one that floating addresses come from.")
        network = self._own("network", name, self._network.networks, lambda: self._network.create_network(
            name=name, project_id=self._project.id))
        subnet = self._subnet(network, name, cidr)
        if outside is not None:
            self._router(name, outside, network, subnet)
        return network

    def _own(self, kind: str, name: str, find: Callable[..., Any], make: Callable[[], Any]) -> Any:
        found = [] if self._project is None else list(find(name=name, project_id=self._project.id))
        if len(found) > 1:
            raise RegistrationError(f"The nodes' project has {len(found)} of {kind} {name}: delete all but one of "
                                    f"{', '.join(entry.id for entry in found)}.")
        if not found:
            return self._ledger.change(f"{kind} {name}", make)
        self._ledger.kept(f"{kind} {name}")
        return found[0]

    def _subnet(self, network: Any, name: str, cidr: str) -> Any:
        found = [] if network is None else list(self._network.subnets(network_id=network.id))
        if not found:
            return self._ledger.change(f"subnet {name} {cidr}", lambda: self._network.create_subnet(
                name=name, network_id=network.id, project_id=self._project.id, ip_version=6 if ":" in cidr else 4, cidr=cidr))
        if cidr not in [subnet.cidr for subnet in found]:
            raise RegistrationError(f"The network {name} has the addresses {', '.join(subnet.cidr for subnet in found)}, not {cidr}. "
                                    f"Use it as it is with --network {name}, or give the new one another name with --network-name.")
        self._ledger.kept(f"subnet {cidr}")
        return next(subnet for subnet in found if subnet.cidr == cidr)

    def _router(self, name: str, outside: Any, network: Any, subnet: Any) -> None:
        gateway = {"network_id": outside.id}
        router = self._own("router", name, self._network.routers, lambda: self._network.create_router(
            name=name, project_id=self._project.id, external_gateway_info=gateway))
        if router is not None and (router.external_gateway_info or {}).get("network_id") != outside.id:
            self._ledger.change(f"gateway of router {name} to {outside.name}", lambda: self._network.update_router(
                router, external_gateway_info=gateway))
        ports = [] if router is None or network is None else self._network.ports(device_id=router.id, network_id=network.id)
        if any(address["subnet_id"] == subnet.id for port in ports for address in port.fixed_ips):
            self._ledger.kept(f"router {name} between {name} and {outside.name}")
        else:
            self._ledger.change(f"router {name} between {name} and {outside.name}",
                                lambda: self._network.add_interface_to_router(router, subnet_id=subnet.id))
