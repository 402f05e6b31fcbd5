"""What a job can't have too much of: it is capped or fails as documented, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.process import Daemon
from tests.harness.stack import Stack, make_stack
from tests.harness.training import Gate, document

MAX_LOG = 4 << 20
LINE = 100

#: prints numbered lines as fast as it can until the gate opens, and says in a file how many there were
FLOOD = f'''
import os
import threading
import gate

opened = threading.Event()
threading.Thread(target=lambda: (gate.wait(), opened.set()), daemon=True).start()
count = 0
while not opened.is_set() or count < {4 * MAX_LOG // LINE}:
    print(str(count).zfill({LINE - 1}))
    count += 1
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "count"), "w") as file:
    file.write(str(count))
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose limits are small, so that they are reached soon."""
    limits = {"remote": {"max_log_bytes": MAX_LOG, "max_output_files": 20}}
    with make_stack(tmp_path_factory.mktemp("small"), options=limits) as stack:
        yield stack


@pytest.fixture
def limited(small: Stack) -> Iterator[Stack]:
    with small.guarded():
        yield small


def resident(daemon: Daemon) -> int:
    """Give the most memory that a daemon has had so far, in bytes."""
    [line] = [line for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


@pytest.mark.fault("log-flood")
def test_a_log_far_beyond_its_limit_is_capped_and_harms_nobody(limited: Stack) -> None:
    """Every line up to the limit is there once; another job runs meanwhile; the service's memory does not grow with the flood."""
    with Gate() as gate:
        flood = limited.demo.submit(document(workers=1, env=gate.env), gate.files(FLOOD))
        gate.expect(1)
        before = sum(resident(daemon) for daemon in limited.service.daemons)
        limited.demo.succeed(limited.demo.submit(document(workers=1), {"train.py": "print('beside it')"}))
        assert limited.demo.job(flood)["status"] == "RUNNING"
        gate.open()
        limited.demo.succeed(flood)
    count = int(limited.demo.artifact(flood, "output/worker-0/count"))
    assert count * LINE > 3 * MAX_LOG, "it wrote far more than is kept, and to its own end"
    log = limited.demo.log(flood)
    marker = f"\ncml: the log has reached its limit of {MAX_LOG} bytes; the rest is not kept\n"
    assert log.endswith(marker)
    kept = log.removesuffix(marker)
    assert len(kept) == MAX_LOG
    assert kept == "".join(f"{number:0{LINE - 1}}\n" for number in range(MAX_LOG // LINE + 1))[:MAX_LOG]
    assert sum(resident(daemon) for daemon in limited.service.daemons) - before < 64 << 20


@pytest.mark.fault("many-files")
def test_more_files_than_are_brought_back_fail_the_job_at_once(limited: Stack) -> None:
    script = '''
import os
for number in range(21):
    open(os.path.join(os.environ["CML_OUTPUT_DIR"], str(number)), "w").close()
'''
    job_id = limited.demo.submit(document(workers=1), {"train.py": script})
    job = limited.demo.finish(job_id)
    assert (job["status"], job["cause"]) == ("FAILED", "USER_ERROR")
    assert "more than 20 files" in job["status_reason"] and "put many small files into one archive" in job["status_reason"]
    assert limited.demo.artifacts(job_id) == {}


def test_as_many_files_as_may_be_come_back(limited: Stack) -> None:
    script = '''
import os
for number in range(20):
    open(os.path.join(os.environ["CML_OUTPUT_DIR"], str(number)), "w").close()
'''
    job_id = limited.demo.submit(document(workers=1), {"train.py": script})
    limited.demo.succeed(job_id)
    assert len(limited.demo.artifacts(job_id)) == 20
