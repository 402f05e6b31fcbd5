"""``ml framework list``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister
from cml_nova.clients.osc.columns import Structure


class ListFrameworks(Lister):
    """List the frameworks, their roles, and the images that have them"""

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        return ("Name", "Versions", "Roles", "Images"), [
            (one.name, Structure(sorted({image["version"] for image in one.images if image["version"]})),
             Structure([role["name"] for role in one.roles]), Structure([image["name"] for image in one.images]))
            for one in self.client.frameworks()]
