"""``ml job artifact list`` and ``save``."""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path
from typing import Any

from osc_lib import exceptions

from cml_nova.clients.osc.base import Command, Lister, find_job, say
from cml_nova.clients.osc.columns import Size
from cml_nova.clients.osc.job import add_job


class ListArtifacts(Lister):
    """List the files that a job has brought back: outputs and checkpoints"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        artifacts = self.client.job_artifacts(find_job(self.client, parsed_args.job))
        return ("Path", "Size", "Updated At"), [(one.path, Size(one.size), one.updated_at) for one in artifacts]


class SaveArtifacts(Command):
    """Download files that a job has brought back"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("patterns", metavar="<path>", nargs="*",
                            help="Paths as artifact list has them; * and ? stand for any characters (default: all files)")
        parser.add_argument("--directory", metavar="<directory>", default=".", type=Path,
                            help="Where the files are written, below the paths that they have (default: here)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from cml_nova.clients import sdk

        job = find_job(self.client, parsed_args.job)
        artifacts = list(self.client.job_artifacts(job))
        patterns = parsed_args.patterns or ["*"]
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(one.path, pattern) for one in artifacts):
                raise exceptions.CommandError(
                    f"The job {job.name} has no file {pattern!r}. `openstack ml job artifact list {job.id}` shows what there is.")
        wanted = [one for one in artifacts if any(fnmatch.fnmatchcase(one.path, pattern) for pattern in patterns)]
        try:
            for path in self.client.download_artifacts(job, parsed_args.directory, wanted, patience=sdk.Patience(notify=say)):
                say(str(path))
        except sdk.UnsafePathError as error:
            raise exceptions.CommandError(str(error)) from None
