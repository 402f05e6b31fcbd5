"""The cloud as a whole: its state and the parts that work on it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cml_nova.localcloud.accounts import Accounts
from cml_nova.localcloud.faults import Faults
from cml_nova.localcloud.floating import FloatingAddresses
from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from cml_nova.localcloud.networks import Networks
from cml_nova.localcloud.scheduler import Quotas, Scheduler
from cml_nova.localcloud.servers import Servers, Settings
from cml_nova.localcloud.store import Store
from cml_nova.localcloud.timers import Clock, Timers

# name: vcpus, MiB of memory, GiB of disk, extra specs
FLAVORS: dict[str, tuple[int, int, int, dict[str, str]]] = {
    "cpu.small": (1, 1024, 10, {}),
    "gpu.small": (4, 8192, 40, {"resources:CUSTOM_GPU": "1"}),
    "gpu.large": (16, 32768, 160, {"resources:CUSTOM_GPU": "4"}),
}


@dataclass(frozen=True)
class Options:
    """What a cloud is started with."""

    url: str
    token_ttl: float = 3600
    gpus: int = 8
    vcpus: int = 100000
    cidr: str = "127.64.0.0/16"
    boot_time: float = 0.2
    delete_time: float = 0.1
    ml_endpoint: str | None = None


class Cloud:
    """Everything that the HTTP handlers use.

    The hypervisor is started and stopped by who makes it.

    :param path: the file of the state; None keeps it in memory.
    """

    def __init__(self, options: Options, path: Path | None, hypervisor: Hypervisor, images: ImageStore, clock: Clock = time.time) -> None:
        self.options = options
        self.clock = clock
        self.hypervisor = hypervisor
        self.images = images
        self.store = Store(path)
        self.timers = Timers(clock)
        self.accounts = Accounts(self.store, clock, options.token_ttl)
        self.quotas = Quotas(self.store)
        self.scheduler = Scheduler(self.store, options.gpus, options.vcpus)
        self.networks = Networks(self.store, clock, self.quotas, options.cidr)
        self.floating = FloatingAddresses(self.store, self.networks, self.quotas, hypervisor)
        self.settings = Settings(options.boot_time, options.delete_time)
        self.servers = Servers(self.store, clock, self.timers, self.networks, self.scheduler, self.quotas, hypervisor, self.settings)
        self.faults = Faults(self)

    def bootstrap(self, passwords: dict[str, str]) -> None:
        """Make what every cloud has: accounts, flavors, the network. What is there already stays."""
        self.accounts.bootstrap(passwords)
        with self.store as store:
            for name, (vcpus, ram, disk, extra_specs) in FLAVORS.items():
                if not store.find("flavor", name=name):
                    self.add_flavor(name, vcpus, ram, disk, extra_specs)
            self.networks.bootstrap(store.find("project", name="admin")[0]["id"])

    def add_flavor(self, name: str, vcpus: int, ram: int, disk: int, extra_specs: dict[str, str], **more: Any) -> dict[str, Any]:
        """Make a flavor; memory in MiB, disk in GiB."""
        return self.store.put("flavor", {"id": str(uuid.uuid4()), "name": name, "vcpus": vcpus, "ram": ram, "disk": disk,
                                         "swap": 0, "ephemeral": 0, "is_public": True, "rxtx_factor": 1.0, "description": None,
                                         "extra_specs": extra_specs, **more})

    def start(self) -> None:
        """Begin to work on what the state says. The hypervisor runs already, without any guest."""
        self.servers.recover()
        self.floating.recover()
        self.timers.start()

    def stop(self) -> None:
        """End what is under way, and close the state."""
        self.timers.stop()
        self.store.close()
