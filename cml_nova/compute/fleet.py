"""The cloud resources of jobs. Tags are the truth about what there is; ids that a job remembers are a cache."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from openstack import connection as sdk_connection
from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute import catalog, rest
from cml_nova.compute.floating import FloatingAddresses
from cml_nova.compute.groups import SecurityGroups
from cml_nova.compute.shared import Shared

OWNER_TAG = "cml-nova"
_DEPLOYMENT, _JOB, _GENERATION, _POOL = "cml:deployment:", "cml:job:", "cml:gen:", "cml:pool:"


@dataclass(frozen=True)
class Server:
    """A server of a job. ``created_at`` is in seconds since 1970 UTC; ``deleting`` says that Nova has accepted its deletion,
    ``host_down`` that its host does not report to Nova, where the cloud's policy lets the service see that."""

    id: str
    name: str
    status: str
    address: str | None
    fault: str | None
    job_id: str
    pool: int
    generation: int
    created_at: float | None
    image_id: str | None = None
    flavor_name: str | None = None
    host: str | None = None
    deleting: bool = False
    host_down: bool = False

    @property
    def ready(self) -> bool:
        """It runs and can be reached."""
        return self.status == "ACTIVE" and self.address is not None and not self.deleting


@dataclass(frozen=True)
class Resource:
    """Something in the cloud that this deployment created. ``kind`` is "server", "group", "port" or "floating".

    ``job_id`` is empty where somebody has taken the job's tag from a server. ``created_at`` is in seconds since 1970 UTC by the cloud's
    clock, None where it doesn't say.
    """

    kind: str
    id: str
    job_id: str
    created_at: float | None


@dataclass(frozen=True)
class Census:
    """All servers of the project, as one list without a filter has shown them.

    Nova leaves servers of a cell that it can't reach out of every list with a filter, so a list by tag that is empty does not yet prove
    that all are gone. The list without a filter has them, but does not tell whose they are.

    :ivar ids: of all of them, whosever they are.
    :ivar hidden: of those in a part of the cloud that does not answer.
    :ivar jobs: ids of the deployment's jobs that have some of the others.
    :ivar whole: whether it came in one page. Nova leaves hidden servers out of later ones, and may out of a first one that is full.
    """

    ids: frozenset[str]
    hidden: frozenset[str]
    jobs: frozenset[str]
    whole: bool


class Fleet:
    """The servers, groups, ports and floating addresses of one deployment. Safe to share among threads.

    :param connection: the service's own; see ``session.service_connection``.
    """

    def __init__(self, conf: cfg.ConfigOpts, connection: sdk_connection.Connection) -> None:
        options = conf.cloud
        self._connection = connection
        self._deployment: str = options.deployment
        self._default_network: str | None = options.network
        self._networks: dict[str | None, str] = {}
        self._groups = SecurityGroups(connection, options.deployment, options.ssh_source_cidr)
        self._deleters = futures.ThreadPoolExecutor(options.delete_parallel, "cloud-delete")
        self._census = Shared(self._take_census)
        self.floating = FloatingAddresses(connection, options.deployment, options.floating_network, self._deleters)

    # Servers

    def servers(self, job_id: str) -> list[Server]:
        """List the job's servers: one request (per page). :raises ValueError: the id is empty, which would be all of them."""
        if not job_id:
            raise ValueError("a job's id is needed")
        return self._list_servers(f"list the servers of job {job_id}", job_id)

    def all_servers(self) -> list[Server]:
        """List the servers of all jobs of the deployment: one request (per page)."""
        return self._list_servers("list the servers of the deployment", None)

    def create(self, *, job_id: str, generation: int, pool: int, name: str, count: int, flavor_id: str, image_id: str, network_id: str,
               group_id: str, user_data: str, availability_zone: str | None = None) -> None:
        """Ask for ``count`` servers, all or none, in one request; they are called ``name``, or ``name-1`` and so on.

        Nova answers before it has looked for hosts: that there are none shows later as servers in ERROR (``errors.of_fault``).

        :param generation: of the lease that the worker holds.
        :param pool: which set of alike servers of the job this is.
        :param user_data: in clear; at most 48 KiB.
        :raises CloudQuota, NoCapacity, CloudRefused: nothing was created.
        :raises CloudError: the servers may exist, or come into being until the request would have timed out.
        """
        server: dict[str, Any] = {
            "name": name, "flavorRef": flavor_id, "imageRef": image_id, "min_count": count, "max_count": count,
            "networks": [{"uuid": network_id}], "security_groups": [{"name": group_id}],
            "user_data": base64.b64encode(user_data.encode()).decode(), "config_drive": True,
            "tags": [OWNER_TAG, _DEPLOYMENT + self._deployment, _JOB + job_id, f"{_GENERATION}{generation}", f"{_POOL}{pool}"],
        }
        if availability_zone:
            server["availability_zone"] = availability_zone
        # Nova doesn't always name what it can't find
        what = f"create {count} servers of flavor {flavor_id} from image {image_id} for job {job_id}"
        try:
            rest.post(self._connection, "compute", "/servers", what, {"server": server})
        except exception.NotFound as error:
            raise exception.CloudRefused(error.message) from error

    def delete(self, server_ids: Iterable[str]) -> None:
        """Ask for the deletion of servers, several at a time; that one is gone already is fine.

        :raises CloudError: some were not accepted; all were tried.
        """
        self._delete_each(server_ids, lambda id_: rest.delete(self._connection, "compute", f"/servers/{id_}", f"delete the server {id_}"))

    def census(self) -> Census:
        """List all servers of the project: one request (per page) that begins after this call, for all threads that wait for one."""
        return self._census()

    def _take_census(self) -> Census:
        what = "list the servers of the project"
        # Many may wait for it, so it does not queue up with what each asks for.
        found = list(rest.each_page(self._connection, "compute", "/servers/detail", "servers", what, first=True))
        bodies = [body for page in found for body in page]
        tags = [body["tags"] for body in bodies if _DEPLOYMENT + self._deployment in (body.get("tags") or ())]
        return Census(
            ids=frozenset(str(body["id"]) for body in bodies),
            hidden=frozenset(str(body["id"]) for body in bodies if body.get("status") == "UNKNOWN"),
            jobs=frozenset(_tag(of_one, _JOB) or "" for of_one in tags), whole=len(found) == 1)

    def remaining(self, server_ids: Iterable[str], census: Census | None = None) -> set[str]:
        """Tell which of these servers Nova still knows, be they hidden: none without a request if none are asked for. In a project of more
        servers than a page has, those that no page shows are asked for one by one.

        :param census: one that is new enough; without it there is a new one.
        """
        asked = set(server_ids)
        if not asked:
            return asked
        census = census or self.census()
        return {id_ for id_ in asked if id_ in census.ids or (not census.whole and self._show(id_) is not None)}

    def fault(self, server_id: str) -> str | None:
        """Ask why a server is in ERROR: one request. Lists need not tell: those of a Nova whose API has the database of another cell
        than cell0 lack the faults of all servers for which no host was found.

        :returns: None if Nova gives no reason, or does not know the server any more.
        """
        body = self._show(server_id)
        return parse_server(body).fault if body else None

    def console(self, server_id: str, lines: int) -> str:
        """Give the last lines of what a server has printed on its console: one request.

        :raises NotFound: Nova does not know the server, or it has no host yet.
        :raises CloudError: Nova has no console to show of it, as while it is built, or gave no answer.
        """
        body = rest.post(self._connection, "compute", f"/servers/{server_id}/action", f"read the console of the server {server_id}",
                         {"os-getConsoleOutput": {"length": lines}})
        return str(body.get("output") or "")

    def _show(self, server_id: str) -> dict[str, Any] | None:
        try:
            body: dict[str, Any] = rest.get(self._connection, "compute", f"/servers/{server_id}", f"ask about the server {server_id}")
        except exception.NotFound:
            return None
        return dict(body["server"])

    def _list_servers(self, what: str, job_id: str | None) -> list[Server]:
        tags = [_DEPLOYMENT + self._deployment, *([_JOB + job_id] if job_id else [])]
        bodies = rest.pages(self._connection, "compute", "/servers/detail", "servers", what, {"tags": ",".join(tags)}, first=job_id is None)
        return [parse_server(body) for body in bodies if set(tags) <= set(body.get("tags") or ())]

    # Security groups and ports

    def ensure_group(self, job_id: str, ssh_port: int = 22) -> str:
        """Make sure that the job has its security group, and give its id: three requests the first time, one later."""
        return self._groups.ensure(job_id, ssh_port)

    def groups(self, job_id: str) -> list[str]:
        """List the ids of the job's security groups: one request."""
        return self._groups.ids(job_id)

    def delete_groups(self, job_id: str) -> None:
        """Delete the job's security groups: one request to list them, one for each.

        :raises CloudError: one is in use, which ``leftover_ports`` explains, or a call failed; all were tried.
        """
        self._delete_each(self.groups(job_id), self._groups.delete)

    def leftover_ports(self, job_id: str) -> list[str]:
        """List the ports that hold the job's security groups: two requests. Once the servers are gone, all of them are left over."""
        found: list[str] = []
        for group_id in self.groups(job_id):
            params = {"security_groups": group_id, "fields": ["id", "security_groups"]}
            bodies = rest.pages(self._connection, "network", "/ports", "ports", f"list the ports of job {job_id}", params)
            found += [str(body["id"]) for body in bodies if group_id in (body.get("security_groups") or ())]
        return found

    def delete_ports(self, port_ids: Iterable[str]) -> None:
        """Delete ports; that one is gone already is fine.

        :raises CloudError: some were not deleted; all were tried.
        """
        self._delete_each(port_ids, lambda id_: rest.delete(self._connection, "network", f"/ports/{id_}", f"delete the port {id_}"))

    def network_id(self, name_or_id: str | None = None) -> str:
        """Find the network that servers are put on: the given one, else ``[cloud] network``, else the only one there is.

        One request the first time that a network is asked for.

        :raises CloudRefused: there is no such network, or it isn't clear which.
        """
        wanted = name_or_id or self._default_network
        if wanted not in self._networks:
            try:
                self._networks[wanted] = catalog.find_network(self._connection, wanted) if wanted else self._only_network()
            except (exception.NotFound, exception.Conflict) as error:
                raise exception.CloudRefused(error.message) from error
        return self._networks[wanted]

    def _only_network(self) -> str:
        params = {"router:external": False, "fields": ["id", "name"]}
        found = list(rest.pages(self._connection, "network", "/networks", "networks", "list the networks", params))
        if len(found) == 1:
            return str(found[0]["id"])
        names = ", ".join(sorted(str(body.get("name")) for body in found)) or "none"
        raise exception.CloudRefused(f"The option network in [cloud] must name the network of the nodes; the networks are: {names}.")

    # All of it

    def inventory(self) -> list[Resource]:
        """List everything that this deployment has in the cloud: four requests (per page)."""
        servers = [Resource("server", server.id, server.job_id, server.created_at) for server in self.all_servers()]
        groups = [Resource("group", id_, job_id, _seconds(created)) for id_, job_id, created in self._groups.all()]
        floating = [Resource("floating", id_, job_id, _seconds(created)) for id_, job_id, created in self.floating.all()]
        return servers + groups + self._all_ports({group.id: group.job_id for group in groups}) + floating

    def _all_ports(self, job_of: Mapping[str, str]) -> list[Resource]:
        """List the ports that hold one of the deployment's security groups, by which alone their jobs can be told."""
        if not job_of:
            return []
        what = "list the ports of the deployment"
        params = {"project_id": rest.project_id(self._connection, what), "fields": ["id", "security_groups", "created_at"]}
        bodies = rest.pages(self._connection, "network", "/ports", "ports", what, params)
        return [Resource("port", str(body["id"]), job_of[group_id], _seconds(body.get("created_at")))
                for body in bodies for group_id in body.get("security_groups") or () if group_id in job_of]

    def _delete_each(self, ids: Iterable[str], delete: Callable[[str], None]) -> None:
        running = {self._deleters.submit(delete, id_): id_ for id_ in ids}
        failed = {id_: error for future, id_ in running.items() if (error := future.exception())}
        for error in failed.values():
            if not isinstance(error, exception.CMLError):
                raise error
        if failed:
            raise exception.CloudError(" ".join(str(error) for error in failed.values()), ids=sorted(failed))


def parse_server(body: Mapping[str, Any]) -> Server:
    """Read a server of a list; nearly every key may be missing when its cell is down (microversion 2.69)."""
    tags = [str(tag) for tag in body.get("tags") or ()]
    fault = body.get("fault") or {}
    return Server(
        id=str(body["id"]), name=str(body.get("name") or body["id"]), status=str(body.get("status") or "UNKNOWN").upper(),
        address=_address(body.get("addresses") or {}), fault=fault.get("message"),
        job_id=_tag(tags, _JOB) or "", pool=_count(_tag(tags, _POOL)), generation=_count(_tag(tags, _GENERATION)),
        created_at=_seconds(body.get("created")), image_id=(body.get("image") or {}).get("id"),
        flavor_name=(body.get("flavor") or {}).get("original_name"), host=body.get("hostId") or None,
        deleting=body.get("OS-EXT-STS:task_state") == "deleting" or str(body.get("status")).upper() in ("DELETED", "SOFT_DELETED"),
        host_down=body.get("host_status") in ("DOWN", "UNKNOWN"))


def _tag(tags: list[str], prefix: str) -> str | None:
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)


def _count(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _address(addresses: Mapping[str, list[Mapping[str, Any]]]) -> str | None:
    """Choose the address to talk to: a fixed one before a floating one, IPv4 before IPv6."""
    entries = [entry for network in addresses.values() for entry in network if entry.get("addr")]
    entries.sort(key=lambda entry: (entry.get("OS-EXT-IPS:type", "fixed") != "fixed", entry.get("version") != 4))
    return str(entries[0]["addr"]) if entries else None


def _seconds(text: str | None) -> float | None:
    """Read ISO 8601 as Nova and Neutron write it, always in UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
