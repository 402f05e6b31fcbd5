"""The guests of a cloud end with it, or at its next start where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import asyncssh
import pytest

from cml_nova.localcloud import processes
from cml_nova.localcloud.hypervisor import Hypervisor, HypervisorError
from cml_nova.localcloud.images import ImageStore
from tests.functional.localcloud.guests import PORT, Machine, cloud_config, new_address
from tests.harness.guests import alive


def test_left_over_processes_of_a_killed_cloud_are_killed_at_the_next_start_and_no_others(
    tmp_path: Path, store: ImageStore, machine: Machine
) -> None:
    other_cloud = machine.start_detached("exec sleep 1000")
    first = Hypervisor(tmp_path, store, PORT)
    first.start()
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    left = Machine(first, "left", new_address(), host_key, tmp_path / "guests" / "left")
    first.boot("left", left.address, "plain", cloud_config(host_key), "left", {})
    marker = left.run("printenv CML_LOCALCLOUD_GUEST")[1].decode().strip()
    first.stop()
    # A killed cloud leaves what carries its marker.
    environ = {"PATH": os.environ["PATH"], processes.MARKER: marker}
    with subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True) as leftover:
        second = Hypervisor(tmp_path, store, PORT)
        second.start()
        assert leftover.wait(timeout=5) == -signal.SIGKILL
        assert alive(other_cloud)
        assert not second.alive("left")
        second.destroy("left")  # known from its files only
        assert not left.home.exists()
        second.stop()


def test_stop_kills_all_guests_and_gives_the_state_directory_free(tmp_path: Path, store: ImageStore) -> None:
    cloud = Hypervisor(tmp_path, store, PORT)
    cloud.start()
    with pytest.raises(HypervisorError, match="another local cloud"):
        Hypervisor(tmp_path, store, PORT).start()
    address, host_key = new_address(), asyncssh.generate_private_key("ssh-ed25519")
    cloud.boot("one", address, "plain", cloud_config(host_key), "one", {})
    pid = Machine(cloud, "one", address, host_key, tmp_path / "guests" / "one").start_detached("exec sleep 1000")
    cloud.stop()
    cloud.stop()
    assert not alive(pid)
    with pytest.raises(HypervisorError, match="not running"):
        cloud.boot("two", new_address(), "plain", None, "two", {})
