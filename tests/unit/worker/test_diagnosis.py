"""What an end is taken for."""

from __future__ import annotations

import pytest

from cml_nova.frameworks import TaskState
from cml_nova.states import Cause
from cml_nova.worker.diagnosis import LINES, diagnose, exit_codes, signal_name

EXIT_1 = TaskState("EXITED", 1)


@pytest.mark.fault("oom-137-nccl")
@pytest.mark.parametrize(("state", "cause", "what", "hint"), [
    (EXIT_1, Cause.USER_ERROR, "exited with code 1", ""),
    (TaskState("EXITED", None, 11), Cause.USER_ERROR, "was killed by signal 11 (SIGSEGV)", ""),
    (TaskState("EXITED", 139), Cause.USER_ERROR, "exited with code 139, which is what a shell makes of signal 11 (SIGSEGV)", ""),
    (TaskState("EXITED", 255), Cause.USER_ERROR, "exited with code 255", ""),
    (TaskState("EXITED", 127), Cause.USER_ERROR, "exited with code 127", "not found"),
    (TaskState("EXITED", 126), Cause.USER_ERROR, "exited with code 126", "can't be run"),
    (TaskState("EXITED", None, 9, oom=True), Cause.USER_ERROR, "was killed by the kernel because its node was out of memory", "more RAM"),
    (TaskState("EXITED", 137, None, oom=True), Cause.USER_ERROR, "was killed by the kernel because its node was out of memory", "more RAM"),
    (TaskState("EXITED", 1, None, oom=True), Cause.USER_ERROR,
     "exited with code 1 after the kernel had killed a process because its node was out of memory", "more RAM"),
    (TaskState("EXITED", None, 9), Cause.USER_ERROR, "was killed by signal 9 (SIGKILL)", "may have been out of memory"),
    (TaskState("EXITED", None, 9, oom=False), Cause.USER_ERROR, "was killed by signal 9 (SIGKILL)", ""),
    (TaskState("LOST"), Cause.INFRA_LOST, "vanished", "restarted"),
])
def test_ends(state: TaskState, cause: Cause, what: str, hint: str) -> None:
    found = diagnose(state, ["nothing of note"])
    assert (found.cause, found.what) == (cause, what)
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


@pytest.mark.fault("oom-137-nccl")
@pytest.mark.parametrize(("line", "cause", "what"), [
    ("OSError: [Errno 28] No space left on device", Cause.USER_ERROR, "disk of its node full"),
    ("MemoryError", Cause.USER_ERROR, "ran out of memory and"),
    ("MemoryError: Unable to allocate 8 GiB", Cause.USER_ERROR, "ran out of memory and"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", Cause.USER_ERROR, "ran out of memory and"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", Cause.USER_ERROR, "memory of the GPU"),
    ("tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[1]", Cause.USER_ERROR,
     "memory of the GPU"),
    ("mxnet.base.MXNetError: cudaMalloc retry failed: out of memory", Cause.USER_ERROR, "memory of the GPU"),
    ("RuntimeError: CUDA error: device-side assert triggered", Cause.USER_ERROR, "made an error on the GPU"),
    ("CUDA error: an illegal memory access was encountered", Cause.USER_ERROR, "made an error on the GPU"),
    ("RuntimeError: no CUDA-capable device is detected", Cause.USER_ERROR, "found no GPU"),
    ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", Cause.TIMEOUT, "waited too long"),
])
def test_what_programs_say_is_the_users_own(line: str, cause: Cause, what: str) -> None:
    found = diagnose(EXIT_1, ["before", line, "after"])
    assert found.cause == cause
    assert what in found.what and "exited with code 1" in found.what
    assert found.hint
    assert not (found.peer_lost or found.broken_node)


@pytest.mark.fault("peer-lost")
@pytest.mark.parametrize("line", [
    "RuntimeError: [gloo/transport/tcp/pair.cc:598] Connection closed by peer [10.0.0.5]:4711",
    "tensorflow.python.framework.errors_impl.UnavailableError: Collective ops is aborted by: failed to connect to all addresses",
    "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error",
    "ConnectionResetError: [Errno 104] Connection reset by peer",
    "OSError: [Errno 113] No route to host",
])
def test_who_misses_another_one_is_not_to_blame(line: str) -> None:
    found = diagnose(EXIT_1, [line])
    assert found.cause == Cause.INFRA_LOST
    assert found.peer_lost and not found.broken_node


@pytest.mark.fault("gpu-broken")
@pytest.mark.parametrize("line", [
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
    "NVRM: Xid (PCI:0000:3b:00): 48, pid=1, Double Bit ECC Error",
    "CUDA error: uncorrectable ECC error encountered",
    "failed call to cuInit: CUDA_ERROR_ECC_UNCORRECTABLE",
    "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.",
])
def test_a_broken_gpu_is_a_lost_machine(line: str) -> None:
    found = diagnose(EXIT_1, [line, "ConnectionResetError: [Errno 104] Connection reset by peer"])
    assert (found.cause, found.broken_node, found.peer_lost) == (Cause.INFRA_LOST, True, False)


def test_an_error_of_the_program_on_the_gpu_leaves_the_machine_alone() -> None:
    assert not diagnose(EXIT_1, ["NVRM: Xid (PCI:0000:3b:00): 31, pid=1234, MMU Fault", "Xid count: 79"]).broken_node


def test_only_the_last_lines_count() -> None:
    assert diagnose(EXIT_1, ["MemoryError", *["later"] * LINES]).what == "exited with code 1"


def test_a_signal_counts_as_an_exit_code_as_in_shells() -> None:
    assert exit_codes(TaskState("EXITED", None, 9)) == {137}
    assert exit_codes(TaskState("EXITED", 42)) == {42}
    assert exit_codes(TaskState("LOST")) == set()
    assert signal_name(200) == "200"
