"""``ml job wait``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc import waiting
from cml_nova.clients.osc.base import Command, find_job
from cml_nova.clients.osc.job import add_job


class WaitJob(Command):
    """Wait for the end of a job; the exit code tells how it ended: 0 succeeded, 1 failed, 3 --timeout is over, 4 cancelled"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        waiting.add_options(parser, wait=False)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        _, code = waiting.wait(self.client, find_job(self.client, parsed_args.job), parsed_args.timeout)
        return code
