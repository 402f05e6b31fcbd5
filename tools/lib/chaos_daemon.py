"""Starts a conductor or worker that tells of its side effects: chaos_daemon.py ROLE DIRECTORY GO [arguments of the daemon].

It loads everything, and then waits for the file GO before it does anything: a successor that stands ready costs a sweep no time.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from pathlib import Path

import chaos_probe


def main(role: str, directory: str, go: str, *arguments: str) -> None:
    """Load, wait, hook, run."""
    daemon = import_module(f"cml_nova.cmd.{role}")  # first of the product's: it chooses the threads that all of it runs in
    hooks = import_module(f"chaos_hooks_{role}")
    parent = os.getppid()
    while not Path(go).exists():
        if os.getppid() != parent:
            return  # the tool has died
        time.sleep(0.02)
    probe = chaos_probe.Probe(Path(directory), role)
    hooks.hook(probe)
    sys.argv = [f"cml-nova-{role}", *arguments]
    daemon.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
