"""Two workers of one job: the one that has lost it changes nothing any more."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator

import pytest

from cml_nova import exception
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Machine, Options
from tests.functional.remote.nodes import archive, spec
from tests.harness.waiting import until


def test_a_session_of_an_older_generation_may_only_look(access: Access) -> None:
    """The worker of the older one was taken for dead; it hung, and wakes up with its session still open."""
    old, new = (Machine(access, options=Options(generation=generation)) for generation in (4, 5))
    old.connect(10)
    old.start(spec("sleep 600"))
    new.connect(10)
    until(lambda: any(state.state == "RUNNING" for state in new.processes()), 20, "the process")
    changes: list[Callable[[], object]] = [
        lambda: old.start(spec("echo > ../started", task="worker:1")),
        lambda: old.stop(1, 0),
        lambda: old.write("input/late", b""),
        lambda: old.upload("code", None, iter([archive({"main.py": b""}, "w")])),
        lambda: old.free_ports(1),
    ]
    for change in changes:
        with pytest.raises(exception.NodeCommandFailed, match=r"generation 4 .* is over, generation 5 has begun"):
            change()
    old.close()
    old.connect(10)  # a new session of it is no better
    with pytest.raises(exception.NodeCommandFailed, match="is over"):
        old.stop(1, 0)
    assert [state.state for state in old.processes()] == ["RUNNING"]
    assert b"".join(old.fetch("input")) == bytes(1024)
    new.stop(1, 0)
    for machine in (old, new):
        machine.close()


def test_an_upload_that_was_under_way_when_a_newer_generation_came_takes_no_effect(access: Access) -> None:
    old, new = (Machine(access, options=Options(generation=generation)) for generation in (1, 2))
    old.connect(10)
    data = archive({"main.py": b"old"}, "w")

    def pieces() -> Iterator[bytes]:
        yield data[:512]
        new.connect(10)
        new.upload("code", None, iter([archive({"main.py": b"new"}, "w")]))
        yield data[512:]

    with pytest.raises(exception.NodeCommandFailed, match=r"generation 1 .* is over"):
        old.upload("code", None, pieces())
    with tarfile.open(fileobj=io.BytesIO(b"".join(new.fetch("code")))) as tar:
        assert tar.extractfile("main.py").read() == b"new"  # type: ignore[union-attr]
    for machine in (old, new):
        machine.close()
