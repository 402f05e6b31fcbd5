"""Files to a node and back."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time

import pytest

from cml_nova import exception
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Machine
from tests.functional.remote.nodes import Record, Server, archive, spec


def test_an_upload_appears_at_once_and_only_when_it_is_good(machine: Machine, server: Server, access: Access) -> None:
    target = server.home(access.address) / ".cml/source"
    first, second = archive({"train.py": b"one", "old.py": b"x"}), archive({"train.py": b"two"}, "w")
    digest = hashlib.sha256(first).hexdigest()
    machine.upload("source", digest, [first])
    inode = target.stat().st_ino
    machine.upload("source", digest, iter(()))  # the same again: nothing is asked of the pieces
    assert target.stat().st_ino == inode
    for wrong, text in ((second, "another sha256"), (b"no archive", "not a good tar archive"), (archive({"../x": b""}), "leads out")):
        with pytest.raises(exception.NodeCommandFailed, match=text):
            machine.upload("source", "0" * 64, [wrong])
    assert sorted(path.name for path in target.iterdir()) == ["old.py", "train.py"]
    machine.upload("source", None, [second[i:i + 100] for i in range(0, len(second), 100)])
    assert [path.read_bytes() for path in target.iterdir()] == [b"two"]
    assert sorted(path.name for path in target.parent.iterdir() if "source" in path.name) == ["source"]


def test_fifty_megabytes_go_both_ways_quickly_beside_a_live_log(machine: Machine) -> None:
    content = os.urandom(1 << 20) * 50
    machine.start(spec("while :; do echo tick; sleep 0.1; done"))
    record = Record()
    thread = threading.Thread(target=record.follow, args=(machine,))
    thread.start()
    before = time.monotonic()
    machine.upload("output", None, [archive({"model/weights": content}, "w")])
    middle = time.monotonic()
    back = b"".join(machine.fetch("output"))
    took = (middle - before, time.monotonic() - middle)
    machine.stop(1, 0)
    thread.join(10)
    with tarfile.open(fileobj=io.BytesIO(back)) as tar:
        assert [(member.name, member.size) for member in tar] == [("model/weights", len(content))]
        assert tar.extractfile("model/weights").read() == content
    assert max(took) < 15, f"upload {took[0]:.1f} s, fetch {took[1]:.1f} s"
    assert record.text().startswith("tick\n")
    assert b"".join(machine.fetch("missing")) == bytes(1024)


def test_an_abandoned_fetch_does_not_stand_in_the_way(machine: Machine, server: Server, access: Access) -> None:
    output = server.home(access.address) / ".cml/output"
    output.mkdir(exist_ok=True)
    (output / "big").write_bytes(bytes(30 << 20))
    (output / "link").symlink_to("/etc/passwd")
    (output / "inner").symlink_to("big")
    pieces = machine.fetch("output")
    next(pieces)
    pieces.close()
    names = []
    with tarfile.open(fileobj=io.BytesIO(b"".join(machine.fetch("output")))) as tar:
        names = [member.name for member in tar]
    assert names == ["big", "inner"]
