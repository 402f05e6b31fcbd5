"""A machine whose memory is used up: the kernel kills a process of the training, and the job says so.

The local cloud, and with it the processes on its machines, is in a control group with little memory, which takes root to make.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.stack import Stack, make_stack
from tests.harness.training import document
from tests.harness.waiting import until

LIMIT = 512 << 20
_GROUPS = Path("/sys/fs/cgroup")
_GREEDY = "held = []\nwhile True:\n    held.append(b'x' * (1 << 20))\n"
#: a process that lives on after the death of its child
_PARENT = '''
import subprocess, sys
if len(sys.argv) == 1:
    sys.exit(subprocess.call([sys.executable, __file__, "child"]) != 0)
'''


@contextmanager
def little_memory(pid: int) -> Iterator[None]:
    """Put a process, with those that it will start, into a control group of its own; all of them are gone at the end."""
    second = (_GROUPS / "cgroup.controllers").exists()
    group = (_GROUPS if second else _GROUPS / "memory") / f"cml-test-{pid}"
    if second:
        (_GROUPS / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(LIMIT))
    (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), 60, "the end of all processes of the control group")
        group.rmdir()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with make_stack(tmp_path_factory.mktemp("little"), shape="standalone") as stack, little_memory(stack.cloud.daemon.pid):
        with stack.guarded():
            yield stack
        stack.service.stop()
        stack.cloud.stop()


@pytest.mark.fault("oom-137-nccl")
@pytest.mark.parametrize(("script", "command", "code", "told"), [
    (_GREEDY, ["python3", "train.py"], None, "was killed by the kernel"),
    (_GREEDY, "python3 train.py; exit $?", 137, "was killed by the kernel"),
    (_PARENT + _GREEDY, ["python3", "train.py"], 1, "exited with code 1 after the kernel had killed a process"),
], ids=["itself", "behind-a-shell", "a-child"])
def test_a_process_that_the_kernel_kills_for_want_of_memory(stack: Stack, script: str, command: str | list[str], code: int | None,
                                                            told: str) -> None:
    job = stack.demo.finish(stack.demo.submit(document(workers=1, command=command), {"train.py": script}))
    assert (job["status"], job["cause"], job["failed_task"], job["exit_code"]) == ("FAILED", "USER_ERROR", "worker:0", code)
    assert f"{told} because its node was out of memory" in job["status_reason"], job["status_reason"]
    assert "more RAM" in job["status_reason"]
