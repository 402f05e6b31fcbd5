"""``ml package list``."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from cml_nova.clients.osc.base import Lister
from cml_nova.clients.osc.columns import Size
from cml_nova.clients.osc.job import add_paging


class ListPackages(Lister):
    """List the packages of training code that the project has, the newest first"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--name", metavar="<name>", help="Only packages with this name")
        add_paging(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        query = {key: value for key in ("name", "limit", "marker") if (value := getattr(parsed_args, key)) is not None}
        packages = itertools.islice(self.client.packages(**query), parsed_args.max_items)
        return ("ID", "Name", "Size", "SHA256", "Created At"), [
            (one.id, one.name, Size(one.size), one.sha256, one.created_at) for one in packages]
