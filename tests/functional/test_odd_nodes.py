"""Machines that are not what they should be: no Python, GPUs that are missing, a clock that is wrong, or switched off by themselves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from cml_nova.localcloud.images import ImageStore
from tests.harness.client import Client
from tests.harness.stack import Stack, make_stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

Install = Callable[[str, str], None]

#: $first is "yes" on the first machine that runs a program which begins so, also when that runs there again
FIRST = '''#!/bin/sh
mkdir {place} 2>/dev/null && echo "$HOME" >{place}/first
[ "$HOME" = "$(cat {place}/first)" ] && first=yes
'''
NO_PYTHON = "#!/bin/sh\necho Welcome to this machine\necho python3: not found >&2\nexit 127\n"
SMI = '''n=4; [ "$first" ] && n=3
while [ $n -gt 0 ]; do n=$((n - 1)); echo "GPU $n: NVIDIA A100 (UUID: GPU-$n)"; done
'''
SMI_OF_ALL = '''#!/bin/sh
echo "GPU 0: NVIDIA A100 (UUID: GPU-0)"
echo "Unable to determine the device handle for GPU1: 0000:41:00.0: Unknown Error"
exit 255
'''
#: the runner's clock is an hour ahead on one machine, and an hour behind on the others
CLOCK = '''hours=-1; [ "$first" ] && hours=1
[ "$1 $2" = "-IS -c" ] || exec {python} "$@"
exec {python} -IS -c "import time; right = time.time; time.time = lambda: right() + $hours * 3600; $3"
'''
#: saves what attempt it is and fails, with a heartbeat all the while; the next one says what it has found
SAVE = '''
import os
import sys
import threading
import time
import gate

def beat():
    while True:
        open(os.environ["CML_HEARTBEAT_FILE"], "w").close()
        time.sleep(0.2)

threading.Thread(target=beat, daemon=True).start()
path = os.path.join(os.environ["CML_CHECKPOINT_DIR"], "attempt")
print("found", open(path).read() if os.path.exists(path) else "nothing", flush=True)
with open(path + ".tmp", "w") as file:
    file.write(os.environ["CML_ATTEMPT"])
os.rename(path + ".tmp", path)
for line in range(100):
    print("line", line, flush=True)
gate.wait()
sys.exit(int(os.environ["CML_ATTEMPT"] == "1"))
'''


@pytest.fixture(scope="module")
def odd_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with images of its own that gives up on machines soon, which also give up soon themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CML_TEST_IMAGES_DIR", raising=False)
        with make_stack(tmp_path_factory.mktemp("odd"), options={"remote": {"unreachable_after": 2, "power_off_after": 2}}) as stack:
            yield stack


@pytest.fixture
def stack(odd_stack: Stack) -> Iterator[Stack]:
    with odd_stack.guarded():
        yield odd_stack


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.demo


@pytest.fixture
def install(odd_stack: Stack, tmp_path: Path) -> Iterator[Install]:
    """Gives a function that puts a program into the machines' image, for as long as the test takes."""
    place = ImageStore(odd_stack.cloud.directory / "images").get("plain").bin
    python, added = os.readlink(place / "python3"), set[Path]()

    def put(name: str, text: str) -> None:
        added.add(place / name)
        (place / name).unlink(missing_ok=True)
        (place / name).write_text(text.replace("{place}", str(tmp_path / "place")).replace("{python}", sys.executable))
        (place / name).chmod(0o755)

    yield put
    for path in added:
        path.unlink()
    if not (place / "python3").exists():
        (place / "python3").symlink_to(python)


@pytest.mark.fault("image-without-python")
def test_a_job_whose_image_has_no_python_fails_and_says_so(client: Client, install: Install) -> None:
    install("python3", NO_PYTHON)
    job = client.finish(client.submit(document(workers=1), {"train.py": ""}))
    assert (job["status"], job["cause"], job["infra_restarts"]) == ("FAILED", "PRECHECK", 1), client.story(job["id"])
    assert "python3 of version 3.6 or newer" in job["status_reason"]
    assert "python3: not found" in job["status_reason"]


@pytest.mark.fault("gpu-missing")
def test_a_node_with_fewer_gpus_than_its_flavor_promises_is_replaced(client: Client, install: Install) -> None:
    install("nvidia-smi", FIRST + SMI)
    job_id = client.submit(document(flavor="gpu.large"), {"train.py": "print('ran')"})
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 1)
    assert any("shows 3 GPUs, and the flavor gpu.large promises 4" in event["message"] for event in client.events(job_id))


@pytest.mark.fault("gpu-missing")
def test_a_job_none_of_whose_machines_has_its_gpus_fails_and_says_so(client: Client, install: Install) -> None:
    install("nvidia-smi", SMI_OF_ALL)
    job = client.finish(client.submit(document(flavor="gpu.large"), {"train.py": ""}))
    assert (job["status"], job["cause"], job["attempt"]) == ("FAILED", "PRECHECK", 0), client.story(job["id"])
    assert "shows 1 GPUs, and the flavor gpu.large promises 4" in job["status_reason"]


@pytest.mark.fault("guest-clock")
def test_clocks_of_machines_that_are_wrong_change_nothing(client: Client, install: Install) -> None:
    install("python3", FIRST + CLOCK)
    with Gate() as gate:
        body = document(env=gate.env, checkpoint_interval=1, hang_timeout=8, max_restarts=1)
        job_id = client.submit(body, gate.files(SAVE))
        gate.expect(2)
        until(lambda: client.get(f"/v1/jobs/{job_id}/checkpoint")["checkpoint"], 30, "a checkpoint")
        time.sleep(3)  # the nodes say every two seconds for how long processes have been silent
        gate.open()
        job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (2, 0), client.story(job_id)
    lines = "".join(f"line {line}\n" for line in range(100))
    for task in ("worker:0", "worker:1"):
        assert client.log(job_id, task, attempt=1) == "found nothing\n" + lines
        assert client.log(job_id, task, attempt=2) == "found 1\n" + lines
    created = datetime.fromisoformat(job["created_at"]).timestamp()
    for node in client.nodes(job_id):
        for task in node["tasks"]:
            started, ended = (datetime.fromisoformat(task[name]).timestamp() for name in ("started_at", "ended_at"))
            assert created < started <= ended < time.time(), node
            stamped, _, _ = client.log_piece(job_id, task["name"], timestamps="true", limit=1 << 18)
            printed = [datetime.fromisoformat(line.split()[0]).timestamp() for line in stamped.decode().splitlines()]
            assert created < min(printed) <= max(printed) < time.time()


@pytest.mark.fault("power-off-unwatched")
def test_machines_that_have_switched_themselves_off_are_replaced_when_a_worker_lives_again(stack: Stack, client: Client) -> None:
    with Gate() as gate:
        job_id = client.submit(document(env=gate.env), gate.files(WAIT))
        gate.expect(2)
        stack.service.kill()
        gate.open()
        until(lambda: {server["status"] for server in stack.cloud.servers(job_id)} == {"SHUTOFF"}, 60, "machines that are off")
        stack.service.start()
        job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (2, 1)
    assert any("SHUTOFF" in event["message"] for event in client.events(job_id)), client.story(job_id)
