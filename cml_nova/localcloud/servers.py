"""Nova's state: the servers, from the request until they are gone."""

from __future__ import annotations

import base64
import logging
import secrets
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field

from cml_nova.localcloud import errors
from cml_nova.localcloud.hypervisor import FAULTS, AddressInUse, Hypervisor, HypervisorError
from cml_nova.localcloud.networks import Networks
from cml_nova.localcloud.scheduler import NO_VALID_HOST, Quotas, Scheduler
from cml_nova.localcloud.store import Document, Store
from cml_nova.localcloud.timers import Clock, Timers

LOG = logging.getLogger(__name__)
HOST = "localcloud"
# Nova writes down that a server is in ERROR first, and why after that.
FAULT_DELAY = 0.1
ADDRESS_TRIES = 20
SERVER_FAULTS = (*FAULTS, "error", "vanish", "host-down")


@dataclass
class Settings:
    """What can be changed while the cloud runs; times in seconds."""

    boot_time: float = 0.2
    delete_time: float = 0.1
    cell_down: bool = False  # the cell that has all servers does not answer the API
    host_status: bool = False  # whether everybody is shown if a server's host is up, as an operator's policy may allow
    boot_results: deque[str] = field(default_factory=deque)  # "error", "never" or "silent", for the next servers
    leave_ports: bool = False  # of servers in ERROR, when they are deleted
    lost_images: set[str] = field(default_factory=set)  # names of those that are not there any more


@dataclass(frozen=True)
class Request:
    """One POST of servers that is found to be well-formed."""

    name: str
    count: int
    project_id: str
    user_id: str
    flavor: Document
    image: Document
    networks: list[str]
    groups: list[Document]
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    user_data: str | None = None
    config_drive: bool = False
    key_name: str | None = None
    availability_zone: str = "nova"
    description: str | None = None
    hostname: str | None = None


class Servers:
    """The servers of all projects."""

    def __init__(self, store: Store, clock: Clock, timers: Timers, networks: Networks, scheduler: Scheduler, quotas: Quotas,
                 hypervisor: Hypervisor, settings: Settings) -> None:
        self._store = store
        self._clock = clock
        self._timers = timers
        self._networks = networks
        self._scheduler = scheduler
        self._quotas = quotas
        self._hypervisor = hypervisor
        self.settings = settings
        self._guest_locks: dict[str, threading.Lock] = {}  # one thread at a time boots or destroys a server's guest

    def recover(self) -> None:
        """Set the servers right after the process of before has ended, and every guest with it."""
        with self._store as store:
            for server in store.all("server"):
                if server["task_state"] == "deleting":
                    self._timers.after(0, lambda key=server["id"]: self._finish_delete(key))  # type: ignore[misc]
                elif server["status"] == "BUILD":
                    self._to_error(server["id"], "Instance failed to spawn: the host was restarted.")
                elif server["status"] == "ACTIVE":
                    self._change(server["id"], status="SHUTOFF", vm_state="stopped", power_state=4, task_state=None)

    def hidden(self, server: Document) -> bool:
        """Whether a server is in the cell that does not answer. One that never got a host is in another, which always does."""
        return self.settings.cell_down and bool(server["host"])

    # Create

    def create(self, request: Request) -> list[Document]:
        """Make the servers of one POST; all of them find room, or all go to ERROR.

        :raises ApiError: 403, the project's quota does not allow them.
        """
        with self._store:
            self._quotas.check_servers(request.project_id, request.flavor, request.count)
            placed = not self.settings.cell_down and self._scheduler.has_room(request.flavor, request.count)
            reservation = f"r-{secrets.token_hex(4)}"
            created = []
            for index in range(request.count):
                suffix = f"-{index + 1}" if request.count > 1 else ""
                created.append(self._store.put("server", self._new(request, request.name + suffix, reservation, index)))
            external = any((self._store.get("network", key) or {}).get("router:external") for key in request.networks)
            if placed and not external:
                created = self._place(request, created)
            for server in created:
                if external:
                    self._to_error(server["id"], f"Build of instance {server['id']} aborted: Failed to allocate the network(s), not "
                                                 "rescheduling.")
                elif placed:
                    self._schedule_boot(server["id"])
                else:
                    self._to_error(server["id"], NO_VALID_HOST)
        return created

    def _new(self, request: Request, name: str, reservation: str, index: int) -> Document:
        now = self._clock()
        return {"id": str(uuid.uuid4()), "name": name, "project_id": request.project_id, "user_id": request.user_id,
                "status": "BUILD", "vm_state": "building", "task_state": "scheduling", "power_state": 0, "created": now,
                "updated": now, "launched_at": None, "terminated_at": None, "flavor": request.flavor, "image": request.image,
                "tags": request.tags, "metadata": request.metadata, "user_data": request.user_data,
                "config_drive": request.config_drive, "key_name": request.key_name, "reservation_id": reservation,
                "launch_index": index, "availability_zone": request.availability_zone, "description": request.description,
                "hostname": request.hostname or hostname(name), "fault": None, "locked": False, "host": None, "port_ids": [],
                "host_down": False, "security_groups": [group["name"] for group in request.groups]}

    def _place(self, request: Request, servers: list[Document]) -> list[Document]:
        """Give the servers a host and their ports."""
        ids = [server["id"] for server in servers]
        groups = [group["id"] for group in request.groups]
        try:
            ports = [self._networks.add_ports(request.project_id, network, groups, ids) for network in request.networks]
        except errors.ApiError as error:
            if error.kind == "OverQuota":
                used, most = (numbers(request.project_id)["port"] for numbers in (self._quotas.used, self._quotas.limits))
                raise errors.forbidden(f"The number of defined ports: {used} is over the limit: {most}" if used > most
                                       else "Maximum number of ports exceeded") from None
            raise
        return [self._store.update("server", key, host=HOST, port_ids=[port["id"] for port in own])
                for key, *own in zip(ids, *ports, strict=True)]

    def _schedule_boot(self, server_id: str) -> None:
        result = self.settings.boot_results.popleft() if self.settings.boot_results else "boot"
        if result == "never":
            self._change(server_id, task_state="spawning")
        elif result == "error":
            self._timers.after(self.settings.boot_time, lambda: self._fail_boot(server_id))
        else:
            self._timers.after(self.settings.boot_time, lambda: self._boot(server_id, silent=result == "silent"))

    def _fail_boot(self, server_id: str) -> None:
        with self._store as store:
            server = store.get("server", server_id)
            if server and server["status"] == "BUILD":
                self._to_error(server_id, "Build of instance " + server_id + " aborted: the fault API said so.")

    def _boot(self, server_id: str, *, silent: bool = False) -> None:
        """Start the guest of a server that is to be built or was powered off, if it is still wanted.

        :param silent: nobody gets to it by SSH.
        """
        with self._guest(server_id):
            for _ in range(ADDRESS_TRIES):
                server = self._store.get("server", server_id)
                if server is None or server["task_state"] == "deleting" or server["status"] not in ("BUILD", "SHUTOFF"):
                    return
                if server["status"] == "BUILD" and server["image"]["name"] in self.settings.lost_images:
                    self._end_boot(server_id, fault=f"Build of instance {server_id} aborted: Image {server['image']['id']} could not be "
                                                    "found.")
                    return
                user_data = base64.b64decode(server["user_data"]) if server["user_data"] else None
                try:
                    self._hypervisor.boot(server_id, self.address(server), server["image"]["name"], user_data, server["hostname"],
                                          server["metadata"])
                except AddressInUse:
                    with self._store:
                        self._networks.move_port(server["port_ids"][0])
                except Exception as error:
                    LOG.exception("the guest of server %s does not start", server_id)
                    self._end_boot(server_id, fault=f"Build of instance {server_id} aborted: {error}")
                    return
                else:
                    if silent:
                        self._hypervisor.fault(server_id, "cut")
                    self._end_boot(server_id)
                    return
            self._end_boot(server_id, fault=f"Build of instance {server_id} aborted: no free address found.")

    def _end_boot(self, server_id: str, fault: str | None = None) -> None:
        with self._store as store:
            server = store.get("server", server_id)
            if server is None or server["task_state"] == "deleting":
                return
            if fault:
                self._to_error(server_id, fault)
                return
            for port in server["port_ids"]:
                store.update("port", port, status="ACTIVE")
            self._change(server_id, status="ACTIVE", vm_state="active", power_state=1, task_state=None, launched_at=self._clock())

    def address(self, server: Document) -> str:
        """Give the address at which a server's guest listens."""
        port = self._store.get("port", server["port_ids"][0])
        return str(port["fixed_ips"][0]["ip_address"]) if port else ""

    # Delete

    def delete(self, server_id: str) -> None:
        """Begin to delete a server; a second time changes nothing."""
        with self._store as store:
            server = store.get("server", server_id)
            if server is None or server["task_state"] == "deleting":
                return
            self._change(server_id, task_state="deleting")
            self._timers.after(self.settings.delete_time, lambda: self._finish_delete(server_id))

    def _finish_delete(self, server_id: str) -> None:
        with self._guest(server_id):
            try:
                self._hypervisor.destroy(server_id)
            except Exception as error:
                LOG.exception("the guest of server %s can't be ended", server_id)
                with self._store as store:
                    if store.get("server", server_id):
                        self._to_error(server_id, str(error))
                return
            with self._store as store:
                server = store.get("server", server_id)
                if server is None:
                    return
                if not (self.settings.leave_ports and server["status"] == "ERROR"):
                    for port in server["port_ids"]:
                        self._networks.remove_port(port)
                store.remove("server", server_id)
                now = self._clock()
                # What changes-since shows for a while; tags and addresses are gone, as in Nova.
                store.put("deleted_server", {**server, "status": "DELETED", "vm_state": "deleted", "task_state": None, "tags": [],
                                             "port_ids": [], "user_data": None, "updated": now, "terminated_at": now})
                for old in store.all("deleted_server")[:-1000]:
                    store.remove("deleted_server", old["id"])
        self._guest_locks.pop(server_id, None)

    # Power, faults

    def stop(self, server_id: str) -> None:
        """Power a server off."""
        with self._guest(server_id):
            self._hypervisor.fault(server_id, "crash")
            self.powered_off(server_id)

    def start(self, server_id: str) -> None:
        """Power a server on again, in boot time."""
        with self._store as store:
            if store.get("server", server_id):
                self._change(server_id, task_state="powering-on")
                self._timers.after(self.settings.boot_time, lambda: self._boot(server_id))

    def reboot(self, server_id: str) -> None:
        """Power a server off and on again."""
        self.stop(server_id)
        self.start(server_id)

    def reset_state(self, server_id: str, state: str) -> None:
        """Say that a server is ACTIVE or in ERROR, whatever is true."""
        with self._store as store:
            if store.get("server", server_id) is None:
                return
            if state == "error":
                self._to_error(server_id, "")
            else:
                self._change(server_id, status="ACTIVE", vm_state="active", task_state=None)

    def inflict(self, server_id: str, fault: str) -> None:
        """Do one of ``SERVER_FAULTS`` to a server.

        :raises ApiError: 404 no such server; 400 no such fault; 409 the server's guest does not run.
        """
        if fault not in SERVER_FAULTS:
            raise errors.bad_request(f"fault {fault!r} is not one of {', '.join(SERVER_FAULTS)}")
        if self._store.get("server", server_id) is None:
            raise errors.not_found(f"server {server_id} does not exist")
        if fault == "vanish":
            self._finish_delete(server_id)
        elif fault == "error":
            with self._store as store:
                if store.get("server", server_id):
                    self._to_error(server_id, "The host of the server failed.")
        elif fault == "crash":
            self.stop(server_id)
        elif fault == "host-down":
            self._lose_host(server_id)
        else:
            with self._guest(server_id):
                try:
                    self._hypervisor.fault(server_id, fault)
                except HypervisorError as error:
                    raise errors.conflict(str(error)) from None

    def _lose_host(self, server_id: str) -> None:
        """Have a server's host vanish: nothing answers any more, and the cloud goes on calling the server ACTIVE."""
        self.inflict(server_id, "hang")
        self.inflict(server_id, "cut")
        with self._store as store:
            if store.get("server", server_id):
                self._change(server_id, host_down=True)

    def powered_off(self, server_id: str) -> None:
        """Take note that a server's guest has ended."""
        with self._store as store:
            server = store.get("server", server_id)
            if server and server["status"] == "ACTIVE" and server["task_state"] is None:
                self._change(server_id, status="SHUTOFF", vm_state="stopped", power_state=4)

    def _to_error(self, server_id: str, fault: str) -> None:
        now = self._clock()
        self._change(server_id, status="ERROR", vm_state="error", task_state=None,
                     fault={"code": 500, "created": now, "message": fault} if fault else None)

    def _change(self, server_id: str, **changes: object) -> None:
        self._store.update("server", server_id, updated=self._clock(), **changes)

    def _guest(self, server_id: str) -> threading.Lock:
        return self._guest_locks.setdefault(server_id, threading.Lock())


def hostname(name: str) -> str:
    """Give a server's host name as Nova makes it of the server's name."""
    kept = "".join(char if char.isalnum() and char.isascii() else "-" for char in name.replace("_", "-"))
    return kept.strip("-.").lower()[:63] or "server"
