"""``ml job node list``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister, find_job
from cml_nova.clients.osc.columns import Structure
from cml_nova.clients.osc.job import add_job


class ListNodes(Lister):
    """List a job's machines, with the tasks of the newest attempt"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("--long", action="store_true", help="List more of each machine")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        nodes = self.client.job_nodes(find_job(self.client, parsed_args.job))
        names: tuple[str, ...] = ("Rank", "Role", "Index", "Status", "Address", "Tasks")
        rows = [((n.rank, n.role, n.index, n.status, n.address, Structure({task["name"]: _state(task) for task in n.tasks})),
                 (n.server_id, n.unreachable_since, n.fault)) for n in nodes]
        if parsed_args.long:
            return (*names, "Server ID", "Unreachable Since", "Fault"), [short + more for short, more in rows]
        return names, [short for short, _ in rows]


def _state(task: dict[str, Any]) -> str:
    if task["signal"]:
        return f"{task['state']} (signal {task['signal']})"
    return str(task["state"]) if task["exit_code"] is None else f"{task['state']} (exit code {task['exit_code']})"
