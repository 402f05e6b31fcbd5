"""Inventory and quota: may these servers be, and is there room for them?"""

from __future__ import annotations

from collections.abc import Iterable

from cml_nova.localcloud import errors
from cml_nova.localcloud.store import Document, Store

NO_VALID_HOST = "No valid host was found. There are not enough hosts available."
QUOTA = {"instances": 1000, "cores": 20000, "ram": 50 * 1024 * 1024, "key_pairs": 100, "metadata_items": 128,
         "server_groups": 10, "server_group_members": 10, "injected_files": 5, "injected_file_content_bytes": 10240,
         "injected_file_path_bytes": 255}
NETWORK_QUOTA = {"network": 100, "subnet": 100, "port": 10000, "security_group": 1000, "security_group_rule": 10000,
                 "router": 10, "floatingip": 50, "rbac_policy": 10, "subnetpool": -1}


def gpus(flavor: Document) -> int:
    """Number of GPUs of a flavor: its VGPU and custom resources together."""
    return sum(int(value) for key, value in flavor["extra_specs"].items() if key.startswith(("resources:VGPU", "resources:CUSTOM_")))


class Scheduler:
    """All of the cloud's hosts taken together.

    Only GPUs and VCPUs can run out. Servers that never found a host use neither.
    """

    def __init__(self, store: Store, gpus: int, vcpus: int) -> None:
        self._store = store
        self.gpus = gpus
        self.vcpus = vcpus

    def used(self) -> tuple[int, int]:
        """Give the GPUs and VCPUs that servers hold."""
        placed = [server["flavor"] for server in self._store.all("server") if server["host"]]
        return sum(map(gpus, placed)), sum(flavor["vcpus"] for flavor in placed)

    def has_room(self, flavor: Document, count: int) -> bool:
        """Whether this many servers of a flavor fit, all of them."""
        used_gpus, used_vcpus = self.used()
        return used_gpus + count * gpus(flavor) <= self.gpus and used_vcpus + count * flavor["vcpus"] <= self.vcpus


class Quotas:
    """Limits of a project and what it uses, for Nova's and Neutron's quota."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def limits(self, project_id: str) -> dict[str, int]:
        """Give the project's limits by resource; -1 is no limit."""
        changed = (self._store.get("quota", project_id) or {"limits": {}})["limits"]
        return {**QUOTA, **NETWORK_QUOTA, **changed}

    def set(self, project_id: str, limits: dict[str, int]) -> None:
        """Change some limits of a project."""
        with self._store as store:
            changed = (store.get("quota", project_id) or {"limits": {}})["limits"]
            store.put("quota", {"id": project_id, "limits": {**changed, **limits}})

    def reset(self, project_id: str, names: Iterable[str]) -> None:
        """Give a project those limits back that it had at first."""
        with self._store as store:
            changed = (store.get("quota", project_id) or {"limits": {}})["limits"]
            store.put("quota", {"id": project_id, "limits": {name: limit for name, limit in changed.items() if name not in names}})

    def used(self, project_id: str) -> dict[str, int]:
        """Give what the project uses, for the resources that count."""
        servers = self._store.find("server", project_id=project_id)
        counts = {kind: len(self._store.find(kind, project_id=project_id))
                  for kind in ("network", "port", "floatingip", "security_group", "security_group_rule")}
        return {**dict.fromkeys((*QUOTA, *NETWORK_QUOTA), 0), **counts, "instances": len(servers),
                "cores": sum(server["flavor"]["vcpus"] for server in servers),
                "ram": sum(server["flavor"]["ram"] for server in servers)}

    def check_servers(self, project_id: str, flavor: Document, count: int) -> None:
        """Raise what Nova says when this many more servers are too many.

        :raises ApiError: 403.
        """
        limits, used = self.limits(project_id), self.used(project_id)
        wanted = {"instances": count, "cores": count * flavor["vcpus"], "ram": count * flavor["ram"]}
        over = [name for name, number in wanted.items() if 0 <= limits[name] < used[name] + number]
        if over:
            def text(numbers: dict[str, int]) -> str:
                return ", ".join(str(numbers[name]) for name in over)
            raise errors.forbidden(f"Quota exceeded for {', '.join(over)}: Requested {text(wanted)}, but already used {text(used)} "
                                   f"of {text(limits)} {', '.join(over)}")

    def check_network(self, project_id: str, resource: str, count: int = 1) -> None:
        """Raise what Neutron says when this many more of a resource are too many.

        :raises ApiError: 409.
        """
        limit = self.limits(project_id)[resource]
        if 0 <= limit < self.used(project_id)[resource] + count:
            raise errors.conflict(f"Quota exceeded for resources: ['{resource}'].", "OverQuota")
