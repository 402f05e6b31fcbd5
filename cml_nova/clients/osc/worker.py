"""``ml worker list``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister


class ListWorkers(Lister):
    """List the processes of the service that carry jobs out (admin only)"""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        return ("ID", "Host", "Capacity", "Draining", "Started At", "Seen At"), [
            (one.id, one.host, one.capacity, one.draining, one.started_at, one.seen_at) for one in self.client.workers()]
