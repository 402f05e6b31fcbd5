"""``ml usage show``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister
from cml_nova.clients.osc.columns import Seconds


class ShowUsage(Lister):
    """Show what the project has used on each day (UTC), and what that cost"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--start", metavar="<date>", help="First day, such as 2026-01-31 (default: 30 days ago)")
        parser.add_argument("--end", metavar="<date>", help="Last day (default: today)")
        parser.add_argument("--project", metavar="<project-id>", help="Show this project (ID; admin only)")
        parser.add_argument("--all-projects", action="store_true", help="Show all projects (admin only)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        query = {key: value for key in ("start", "end", "project") if (value := getattr(parsed_args, key)) is not None}
        if parsed_args.all_projects or parsed_args.project:
            query["all_projects"] = True
        return ("Date", "Project ID", "Jobs", "Node Time", "Accelerator Time", "Cost", "Currency"), [
            (one.date, one.project_id, one.jobs, Seconds(one.node_seconds), Seconds(one.accelerator_seconds), one.cost, one.currency)
            for one in self.client.usage(**query)]
