"""``ml job artifact list``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister, find_job
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
