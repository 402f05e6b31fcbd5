"""``ml quota show`` and ``set``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Command, ShowOne, UsageError

_RESOURCES = {"jobs": "jobs that have not ended", "nodes": "machines of all these jobs", "accelerators": "accelerators of these machines"}


class ShowQuota(ShowOne):
    """Show how much a project may have at a time, and how much it has; -1 is no limit"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("--project", metavar="<project-id>", help="Project (ID) whose quota is shown (default: yours)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        quota = self.client.get_quota(parsed_args.project)
        names = ["project_id"]
        values = [quota.project_id]
        for name in _RESOURCES:
            names += [name, f"{name}_in_use"]
            values += [quota.limits[name], quota.in_use[name]]
        return names, values


class SetQuota(Command):
    """Change how much a project may have at a time (admin only)"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        parser.add_argument("project", metavar="<project-id>", help="Project (ID)")
        for name, text in _RESOURCES.items():
            parser.add_argument(f"--{name}", metavar="<count>", type=_limit,
                                help=f"Most {text}; -1 for no limit, default for that of the configuration")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        limits = {name: limit for name in _RESOURCES if (limit := getattr(parsed_args, name)) is not None}
        if not limits:
            raise UsageError(f"Nothing to set: give at least one of {', '.join(f'--{name}' for name in _RESOURCES)}.")
        self.client.update_quota(parsed_args.project, **{name: None if limit == "default" else limit for name, limit in limits.items()})


def _limit(text: str) -> int | str:
    if text != "default" and not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number, and not default")
    return text if text == "default" else int(text)
