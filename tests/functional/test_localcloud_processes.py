"""Whose a process of this machine is: looked at while it is started, when it shows of one guest and of the cloud at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cml_nova.localcloud.processes import MARKER, ProcessTable
from tests.harness.waiting import until


class Starter:
    """Starts processes that wait, as the cloud does, and ends them."""

    def __init__(self, table: ProcessTable, cleanup: ExitStack) -> None:
        self._table, self._cleanup = table, cleanup

    def start(self, guest: str | None, program: str = "import sys; sys.stdin.read()", *, own_session: bool = True) -> int:
        env = {"PATH": os.defpath, **({MARKER: self._table.marker(guest)} if guest else {})}
        process = subprocess.Popen([sys.executable, "-ISc", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
                                   start_new_session=own_session)
        self._cleanup.callback(process.communicate)  # which closes its input
        return process.pid


@pytest.fixture
def table() -> ProcessTable:
    return ProcessTable(f"test{os.getpid()}")


@pytest.fixture
def starter(table: ProcessTable) -> Iterator[Starter]:
    with ExitStack() as cleanup:
        yield Starter(table, cleanup)


def pids(table: ProcessTable, guest: str | None) -> set[int]:
    return {process.pid for process in table.of(guest)}


def test_a_command_that_is_still_in_the_clouds_session_brings_nobody_else_of_it_along(table: ProcessTable, starter: Starter) -> None:
    """It has its guest's environment already, and is about to leave: what else runs in that session started the cloud, or what it uses."""
    bystander = starter.start(None, own_session=False)
    command = starter.start("one", own_session=False)
    assert pids(table, "one") == {command}
    assert bystander not in pids(table, None)


def test_a_child_that_has_not_begun_its_program_is_its_parents_guests(table: ProcessTable, starter: Starter) -> None:
    """It shows what its parent shows, also when it has left the session and lost the parent."""
    fork = "import os, sys; os.fork() or os.setsid() or os.fork() and os._exit(0); sys.stdin.read()"
    one, other = starter.start("one", fork), starter.start("other")
    until(lambda: len(pids(table, "one")) == 2 and one in pids(table, "one"), 20, "the process and its grandchild")
    assert pids(table, "other") == {other}
