"""Processes, as /proc has them."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from cml_nova.remote.runner.processes import descendants, kill_all, whereabouts


def test_descendants_are_found_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    try:
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        monkeypatch.setattr(os.path, "exists", lambda path: False)  # a kernel without the list of children
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
    finally:
        kill_all(lambda: descendants(os.getpid()))
        child.wait()
        child.stdout.close()


def test_where_processes_are_is_told() -> None:
    told = whereabouts([os.getpid(), 2 ** 22 + 1])
    assert re.search(rf"cml: process {os.getpid()}, thread {os.getpid()} \(.*\): R \(running\), in ", told)
