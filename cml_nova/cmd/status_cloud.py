"""Checks of ``cml-nova-status upgrade check`` that ask the cloud, with the accounts that the service uses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import loading as ks_loading
from keystonemiddleware import opts as middleware_opts
from oslo_config import cfg
from oslo_upgradecheck.upgradecheck import Code, Result

from cml_nova import exception
from cml_nova.api.microversion import SERVICE_TYPE
from cml_nova.compute import rest
from cml_nova.compute.catalog import Catalog, find_network
from cml_nova.compute.fleet import Fleet
from cml_nova.compute.session import service_connection

_CLOUD_ERRORS = (exception.CMLError, ks_exceptions.ClientException)
_TOKENS = "keystone_authtoken"


def _check(run: Callable[[CloudChecks], Result]) -> Callable[[CloudChecks], Result]:
    """Make an error of the cloud a failure; leave out what needs the account of [cloud] when that does not work."""

    @functools.wraps(run)
    def guarded(self: CloudChecks) -> Result:
        if self.broken:
            return Result(Code.WARNING, "not looked at, since the account of [cloud] does not work")
        try:
            return run(self)
        except _CLOUD_ERRORS as error:
            return Result(Code.FAILURE, f"{error}")

    return guarded


class CloudChecks:
    """Each method is a check; ``account`` has to be the first."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.broken = False
        self._conf = conf
        self._connection: Any = None

    @_check
    def account(self) -> Result:
        """The account that owns the nodes gets a token, and has no more power than it needs."""
        self.broken = True
        self._connection = service_connection(self._conf)
        session = self._connection.session
        access = session.auth.get_access(session)
        self.broken = False
        if access.project_id is None:
            self.broken = True
            return Result(Code.FAILURE, "the account of [cloud] has no project: set project_name and project_domain_name")
        if "admin" in access.role_names:
            return Result(Code.WARNING, f"the account of [cloud] is an administrator's; the role member on {access.project_name} is "
                                        "enough: tools/register-service makes such an account")
        return Result(Code.SUCCESS, f"{access.username} in {access.project_name}: {', '.join(sorted(access.role_names))}")

    @_check
    def tokens(self) -> Result:
        """The account that checks users' tokens may do so."""
        for group, options in middleware_opts.list_auth_token_opts():
            self._conf.register_opts(options, group)
        options = self._conf[_TOKENS]
        ks_loading.register_auth_conf_options(self._conf, _TOKENS)
        auth = ks_loading.load_auth_from_conf_options(self._conf, _TOKENS)
        if auth is None:
            return Result(Code.FAILURE, "[keystone_authtoken] names no account: set auth_type and what it needs; "
                                        "tools/register-service writes it")
        session = ks_loading.session.Session().load_from_options(
            auth=auth, insecure=options.insecure, cacert=options.cafile, cert=options.certfile, key=options.keyfile, timeout=60)
        roles = auth.get_access(session).role_names
        session.get("/auth/tokens", headers={"X-Subject-Token": self._connection.session.get_token()}, endpoint_filter={
            "service_type": "identity", "interface": options.interface, "region_name": options.region_name, "version": (3, 0)})
        if not {"service", "admin"} & set(roles):
            return Result(Code.FAILURE, f"the account of [keystone_authtoken] has the roles {', '.join(sorted(roles))} and may not check "
                                        "others' tokens: give it the role service on its project (tools/register-service does)")
        if "admin" in roles:
            return Result(Code.WARNING, "the account of [keystone_authtoken] is an administrator's; the role service is enough")
        return Result(Code.SUCCESS)

    @_check
    def endpoints(self) -> Result:
        """The catalog has what the service needs, and the service itself."""
        missing = [service for service in ("compute", "image", "network") if not self._endpoint(service)]
        if missing:
            return Result(Code.FAILURE, f"the catalog has no {self._conf.cloud.interface} endpoint of {', '.join(missing)}; is "
                                        "[cloud] region_name or interface wrong?")
        if not self._endpoint(SERVICE_TYPE):
            return Result(Code.WARNING, f"the catalog has no endpoint of {SERVICE_TYPE}, where clients look for this service: "
                                        "tools/register-service makes it")
        return Result(Code.SUCCESS)

    def _endpoint(self, service_type: str) -> str | None:
        try:
            url: str | None = self._connection.session.get_endpoint(
                service_type=service_type, interface=self._conf.cloud.interface, region_name=self._conf.cloud.region_name)
        except ks_exceptions.EndpointNotFound:
            return None
        return url

    @_check
    def network(self) -> Result:
        """The nodes' network is there, and the workers can be meant to reach it."""
        network = self._show_network(Fleet(self._conf, self._connection).network_id())
        name = network["name"]
        if not network.get("admin_state_up", True):
            return Result(Code.FAILURE, f"[cloud] network: {name} is switched off: openstack network set --enable {network['id']}")
        if not network.get("subnets"):
            return Result(Code.FAILURE, f"[cloud] network: {name} has no subnet, so that nodes get no address: openstack subnet create")
        if network.get("router:external"):
            return Result(Code.FAILURE, f"[cloud] network: {name} is external; name the nodes' own network there, and this one in "
                                        "floating_network")
        floating = self._conf.cloud.floating_network
        if floating and not self._show_network(find_network(self._connection, floating)).get("router:external"):
            return Result(Code.FAILURE, f"[cloud] floating_network: {floating} is not external, so that it has no floating addresses")
        return Result(Code.SUCCESS, f"{name}, floating addresses of {floating}" if floating else f"{name}, which the workers must reach")

    def _show_network(self, network_id: str) -> dict[str, Any]:
        body = rest.get(self._connection, "network", f"/networks/{network_id}", f"look at the network {network_id}")
        return dict(body["network"])

    @_check
    def images(self) -> Result:
        """There is something to boot."""
        images = Catalog(self._connection).images()
        if not images:
            return Result(Code.WARNING, "no image that the nodes' project may use has the property cml_framework: build one, or label one "
                                        "(openstack image set --property cml_framework=...)")
        return Result(Code.SUCCESS, ", ".join(sorted(f"{image.name} ({image.framework} {image.framework_version})" for image in images)))

    @_check
    def flavors(self) -> Result:
        """There is something to boot it on. An old Nova, without the microversion that we speak, is found out here."""
        flavors = Catalog(self._connection).flavors()
        if not flavors:
            return Result(Code.FAILURE, "the nodes' project may use no flavor: openstack flavor create, or set --project")
        accelerated = sum(1 for flavor in flavors if flavor.accelerator_count)
        return Result(Code.SUCCESS, f"{len(flavors)}, {accelerated} of them with accelerators")

    @_check
    def quota(self) -> Result:
        """The quota of the nodes' project leaves room for nodes."""
        limits = rest.get(self._connection, "compute", "/limits", "read the limits of the nodes' project")["limits"]["absolute"]
        left = {name: _left(limits, allowed, used) for name, allowed, used in (
            ("servers", "maxTotalInstances", "totalInstancesUsed"), ("cores", "maxTotalCores", "totalCoresUsed"),
            ("MiB of RAM", "maxTotalRAMSize", "totalRAMUsed"))}
        text = ", ".join(f"{'no limit of' if count is None else count} {name}" for name, count in left.items())
        raise_it = "raise it: tools/register-service --quota"
        if 0 in left.values():
            return Result(Code.WARNING, f"left: {text}. Jobs wait until there is room; {raise_it}")
        servers = limits["maxTotalInstances"]
        if 0 <= servers < self._conf.api.max_nodes:
            return Result(Code.WARNING, f"left: {text}. A job may ask for {self._conf.api.max_nodes} nodes ([api] max_nodes), and waits in "
                                        f"vain for more than {servers}; lower that, or {raise_it}")
        return Result(Code.SUCCESS, f"left: {text}")


def _left(limits: dict[str, int], allowed: str, used: str) -> int | None:
    """What remains of a limit; None without one."""
    return None if limits[allowed] < 0 else max(0, limits[allowed] - limits[used])
