"""Starts a conductor or worker that tells of its side effects: chaos_daemon.py ROLE DIRECTORY GO [arguments of the daemon].

It loads everything, and then waits for the file GO before it does anything: a successor that stands ready costs a sweep no time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import chaos_probe

from cml_nova.cmd import conductor, worker  # first of the product's: it chooses the threads that all of it runs in

COMMANDS = {"conductor": conductor.main, "worker": worker.main}


def main(role: str, directory: str, go: str, *arguments: str) -> None:
    """Wait, hook, run."""
    import chaos_hooks

    parent = os.getppid()
    while not Path(go).exists():
        if os.getppid() != parent:
            return  # the tool has died
        time.sleep(0.02)
    probe = chaos_probe.Probe(Path(directory), role)
    {"conductor": chaos_hooks.hook_conductor, "worker": chaos_hooks.hook_worker}[role](probe)
    sys.argv = [f"cml-nova-{role}", *arguments]
    COMMANDS[role]()


if __name__ == "__main__":
    main(*sys.argv[1:])
