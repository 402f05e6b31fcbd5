"""``ml job event list``."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from cml_nova.clients.osc.base import Lister, find_job
from cml_nova.clients.osc.columns import Structure
from cml_nova.clients.osc.job import add_job, add_paging


class ListEvents(Lister):
    """List what happened to a job, oldest first: decisions, machines, attempts, and why it waits"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("--long", action="store_true", help="List more of each event")
        add_paging(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        paging = {key: value for key, value in (("limit", parsed_args.limit), ("marker", parsed_args.marker)) if value is not None}
        events = itertools.islice(self.client.job_events(find_job(self.client, parsed_args.job), **paging), parsed_args.max_items)
        if parsed_args.long:
            return ("ID", "At", "Kind", "Message", "Detail"), [(e.id, e.at, e.kind, e.message, Structure(e.detail)) for e in events]
        return ("At", "Kind", "Message"), [(e.at, e.kind, e.message) for e in events]
