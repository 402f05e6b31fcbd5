"""``ml job create`` and ``ml job plan``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc import columns, document, waiting
from cml_nova.clients.osc.base import FAILURE, ShowOne, say
from cml_nova.clients.osc.job import shown


class CreateJob(ShowOne):
    """Create a job, from options and a job file"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        document.add_options(parser)
        waiting.add_options(parser)
        parser.add_argument("--dry-run", action="store_true", help="Create and upload nothing; show what would be, as job plan does")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        draft = document.build(parsed_args)
        if parsed_args.dry_run:
            return show_plan(self, draft)
        return created(self, document.submit(self.client, draft), parsed_args)


class PlanJob(ShowOne):
    """Show what creating a job would do: machines, start, cost, alternatives; the exit code is 1 if it would be refused"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        document.add_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        return show_plan(self, document.build(parsed_args))


_NEXT = """The job {name} is accepted. Next:
  openstack ml job wait {id}               its progress, until it has ended
  openstack ml job log show --follow {id}  what it prints
  openstack ml job node list {id}          its machines
  openstack ml job cancel {id}             stop it"""


def created(command: ShowOne, job: Any, parsed_args: argparse.Namespace) -> Any:
    """Say what can be done with a new job; give it for a command that shows one, with ``--wait`` when it has ended."""
    say(_NEXT.format(name=job.name, id=job.id))
    if parsed_args.wait:
        job, command.exit_code = waiting.wait(command.client, job, parsed_args.timeout)
    return shown(job)


#: what is shown of a plan, in this order, and how
_PLAN: dict[str, Any] = {
    "feasible": None, "reasons": columns.Structure, "starts": None, "queue_position": None, "cost_per_hour": None, "max_cost": None,
    "currency": None, "accelerators": None, "totals": columns.Structure, "roles": columns.Roles, "nodes": columns.Count,
    "framework": columns.Structure, "image": columns.Structure, "network": None, "limits": columns.Structure, "offers": columns.Offers,
}


def show_plan(command: ShowOne, draft: document.Document) -> Any:
    """Give the plan of a job for a command that shows one; its exit code tells whether the job would be taken."""
    plan = document.plan(command.client, draft)
    command.exit_code = 0 if plan.feasible else FAILURE
    return tuple(_PLAN), tuple(form(getattr(plan, name)) if form else getattr(plan, name) for name, form in _PLAN.items())
