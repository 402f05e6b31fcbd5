"""``ml job create``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc import document, waiting
from cml_nova.clients.osc.base import ShowOne, say
from cml_nova.clients.osc.job import shown


class CreateJob(ShowOne):
    """Create a job, from options and a job file"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        document.add_options(parser)
        waiting.add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        draft = document.build(parsed_args)
        job = document.submit(self.client, draft)
        say(_NEXT.format(name=job.name, id=job.id))
        if parsed_args.wait:
            job, self.exit_code = waiting.wait(self.client, job, parsed_args.timeout)
        return shown(job)


_NEXT = """The job {name} is accepted. Next:
  openstack ml job wait {id}               its progress, until it has ended
  openstack ml job log show --follow {id}  what it prints
  openstack ml job node list {id}          its machines
  openstack ml job cancel {id}             stop it"""
