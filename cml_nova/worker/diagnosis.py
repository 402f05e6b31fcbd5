"""Says what became of a process, from how it ended and from the last lines of its log: whose doing it was, what, and what to do.

Pure. A log is written by the user's program, so what it says may cost the user's own job some restarts, and nobody else anything.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from cml_nova.frameworks import TaskState
from cml_nova.states import Cause

#: how many lines of the end of a log are looked at
LINES = 60


@dataclass(frozen=True)
class Diagnosis:
    """What became of a process.

    :ivar cause: INFRA_LOST where it was no fault of the program: the restart counts as one for a lost machine does.
    :ivar what: completes "Task worker:0 …".
    :ivar hint: a sentence on the way out; empty where there is nothing to say.
    :ivar peer_lost: it only misses another process; why that one is gone says more.
    :ivar broken_node: the machine has a fault: another one is needed.
    """

    cause: Cause
    what: str
    hint: str = ""
    peer_lost: bool = False
    broken_node: bool = False


@dataclass(frozen=True)
class _Saying:
    """What programs print, and what it means."""

    pattern: re.Pattern[str]
    cause: Cause
    what: str
    hint: str
    peer_lost: bool = False
    broken_node: bool = False


def _says(pattern: str, cause: Cause, what: str, hint: str, **more: bool) -> _Saying:
    return _Saying(re.compile(pattern), cause, what, hint, **more)


_REPLACED = "The machine is taken for broken and is replaced."

#: the first one that any of the last lines matches tells; what is surely the root of others stands before these
_SAYINGS = (
    # The driver's own numbers (NVIDIA, "Xid errors"): these are of memory, bus, links and firmware; 13, 31, 43 and 45 are of programs.
    _says(r"NVRM: Xid \([^)]*\): (48|62|63|64|74|79|92|94|95|119|120|140)\b|GPU has fallen off the bus|GPU is lost", Cause.INFRA_LOST,
          "lost its GPU", _REPLACED, broken_node=True),
    _says(r"(?i)uncorrectable (ECC|NVLink) error|CUDA_ERROR_(ECC|NVLINK)_UNCORRECTABLE|cudaErrorECCUncorrectable", Cause.INFRA_LOST,
          "met a memory or link error of the GPU that can't be corrected", _REPLACED, broken_node=True),
    _says(r"No space left on device|Disk quota exceeded", Cause.USER_ERROR, "found the disk of its node full",
          "Write less, clean up, or use a flavor with a larger disk."),
    _says(r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|OutOfMemoryError|cudaMalloc.*out of memory|OOM when allocating tensor|"
          r"RESOURCE_EXHAUSTED: .*(memory|allocat)", Cause.USER_ERROR, "ran out of memory of the GPU",
          "Use a smaller batch, or a flavor whose GPU has more memory."),
    _says(r"^(MemoryError|numpy\..*_ArrayMemoryError)\b|std::bad_alloc|Cannot allocate memory", Cause.USER_ERROR, "ran out of memory",
          "Use a flavor with more RAM, or hold less at a time."),
    _says(r"device-side assert|an illegal memory access was encountered|CUDA_ERROR_(ILLEGAL_ADDRESS|ASSERT)|unspecified launch failure",
          Cause.USER_ERROR, "made an error on the GPU", "CUDA_LAUNCH_BLOCKING=1 in env shows where."),
    _says(r"no CUDA-capable device is detected|CUDA_ERROR_NO_DEVICE", Cause.USER_ERROR, "found no GPU",
          "Use a flavor that has one, and an image with its driver."),
    _says(r"(?i)watchdog caught collective operation timeout|collective operation timed? ?out|NCCL.*\btimed? ?out|gloo.*\btimed out",
          Cause.TIMEOUT, "waited too long for the others in a collective operation",
          "One of them hung, was too slow, or took another way through the program."),
    _says(r"(?i)gloo.*connection (reset|closed) by|NCCL.*(remote process exited|connection closed by remote|ncclRemoteError|"
          r"unhandled system error)|UnavailableError|StatusCode\.UNAVAILABLE|\bUNAVAILABLE: |failed to connect to all addresses|"
          r"collective ops is aborted|Connection(Reset|Refused|Aborted)Error|BrokenPipeError|No route to host|"
          r"connection timed out|coordination service.*\b(heartbeat|unavailable)",
          Cause.INFRA_LOST, "lost the connection to another process", "", peer_lost=True),
)


def diagnose(state: TaskState, last_lines: Sequence[str]) -> Diagnosis:
    """Say what became of a process that failed.

    :param state: how it ended.
    :param last_lines: of its log, oldest first; more than ``LINES`` are not looked at.
    """
    if state.state == "LOST":
        return Diagnosis(Cause.INFRA_LOST, "vanished", "Its node was restarted, or lost the process that watches over it.")
    how = _how_it_ended(state)
    if state.oom:
        killed = "was killed by the kernel" if _signal(state) == signal.SIGKILL else f"{how} after the kernel had killed a process"
        return Diagnosis(Cause.USER_ERROR, f"{killed} because its node was out of memory",
                         "Use a flavor with more RAM, or hold less at a time.")
    saying = _find([*last_lines, state.log_error or ""])
    if saying:
        return Diagnosis(saying.cause, f"{saying.what} and {how}", saying.hint, saying.peer_lost, saying.broken_node)
    return Diagnosis(Cause.USER_ERROR, how, _hint(state))


def exit_codes(state: TaskState) -> set[int]:
    """Give the exit codes that the end of a process counts as: a signal N is 128+N, as shells have it."""
    return {code for code in (state.exit_code, None if state.signal is None else 128 + state.signal) if code is not None}


def signal_name(number: int) -> str:
    """Name a signal: "9 (SIGKILL)"."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _signal(state: TaskState) -> int | None:
    """The signal that ended the process, or the program behind its shell."""
    if state.signal is not None:
        return state.signal
    return state.exit_code - 128 if state.exit_code is not None and 128 < state.exit_code <= 192 else None


def _how_it_ended(state: TaskState) -> str:
    if state.signal is not None:
        return f"was killed by signal {signal_name(state.signal)}"
    number = _signal(state)
    shell = f", which is what a shell makes of signal {signal_name(number)}" if number in set(signal.Signals) else ""
    return f"exited with code {state.exit_code}{shell}"


def _hint(state: TaskState) -> str:
    if _signal(state) == signal.SIGKILL and state.oom is None:
        return "Its node may have been out of memory; it does not say."
    return {
        126: "126 is what a shell says of a file that is there and can't be run.",
        127: "127 is what a shell says of a command that is not found.",
    }.get(state.exit_code or 0, "")


def _find(lines: Sequence[str]) -> _Saying | None:
    last = lines[-LINES:]
    return next((saying for saying in _SAYINGS if any(saying.pattern.search(line) for line in last)), None)
