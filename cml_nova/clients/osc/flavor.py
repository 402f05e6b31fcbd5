"""``ml flavor list``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister


class ListFlavors(Lister):
    """List the flavors, with their accelerators, price, and what jobs have and want of them"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--accelerator", metavar="<kind>", help="Only flavors with this kind of accelerator")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        names = ("Name", "Accelerator", "Accelerators", "VCPUs", "RAM", "Disk", "Cost per Hour", "Nodes in Use", "Jobs Waiting",
                 "Quota Left", "ID")
        rows = []
        for one in self.client.flavors():
            has = one.accelerators or {"kind": None, "count": 0}
            if parsed_args.accelerator in (None, has["kind"]):
                rows.append((one.name, has["kind"], has["count"], one.vcpus, one.ram, one.disk, one.cost_per_hour,
                             one.nodes_in_use, one.jobs_waiting, one.quota_left, one.id))
        return names, rows
