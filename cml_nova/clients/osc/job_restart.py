"""``ml job restart``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc import waiting
from cml_nova.clients.osc.base import ShowOne, find_job
from cml_nova.clients.osc.job import add_job
from cml_nova.clients.osc.job_create import created


class RestartJob(ShowOne):
    """Make a new job of one that has ended: it goes on from the last checkpoint, or begins anew if the other had succeeded"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        waiting.add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        return created(self, self.client.restart_job(find_job(self.client, parsed_args.job)), parsed_args)
