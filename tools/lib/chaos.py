"""Proves that no fault loses a job or leaves anything of it in the cloud: ``tools/chaos COMMAND``, a module for each command.

Runs inside the virtual environment that tools/chaos has prepared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bootstrap

sys.path.insert(0, str(bootstrap.REPOSITORY))

import cml_nova.cmd  # noqa: F401 -- first of the product's: it chooses the threads that all of it runs in

# isort: split
import chaos_campaign
import chaos_cut
import chaos_examples
import chaos_model
import chaos_sweep


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; ``run`` of the result is the command."""
    parser = argparse.ArgumentParser(prog="tools/chaos", description="Does harm to a running service, and looks whether every job still "
                                     "ends well and leaves nothing behind.")
    parser.add_argument("--state-dir", type=Path, default=bootstrap.default_state_dir(), help="where the environment is kept")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (chaos_sweep, chaos_campaign, chaos_cut, chaos_examples, chaos_model):
        command.add_parser(commands)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = parse(argv)
    return int(options.run(options))


if __name__ == "__main__":
    bootstrap.run_tool("chaos", main, sys.argv[1:])
