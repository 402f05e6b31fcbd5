"""Processes as /proc has them: which they are, what is below them, where they stand; and their end."""

import _signal as signal  # type: ignore[import-not-found]
import os

from cml_nova.remote.runner.files import read_text

#: the variable that marks all processes of a task: its value is the task's directory
MARKER = "CML_UNIT"
MOST_PROCESSES, MOST_THREADS = 64, 16  # that a look at where processes stand goes into


def boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def start_ticks(pid: int) -> int:
    """Tell when a process started, in clock ticks after boot: with the pid it names one process; 0 if it is gone."""
    fields = read_text("/proc/%d/stat" % pid).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 0


def age(pid: int) -> float:
    """Tell for how many seconds a process has lived, however the clock was set meanwhile; infinity where that can't be told."""
    ticks, uptime = start_ticks(pid), read_text("/proc/uptime").split()
    return float(uptime[0]) - ticks / os.sysconf("SC_CLK_TCK") if ticks and uptime else float("inf")


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def parents() -> dict:
    """Map each process to its parent."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = read_text("/proc/%s/stat" % name).rpartition(")")[2].split()
            if fields:
                found[int(name)] = int(fields[1])
    return found


def descendants(pid: int) -> list:
    """List the processes below this one, parents first."""
    tree, queue = [], [pid]
    if os.path.exists("/proc/self/task/%d/children" % os.getpid()):
        while queue:
            parent = queue.pop()
            try:
                threads = os.listdir("/proc/%d/task" % parent)
            except OSError:
                continue
            for thread in threads:
                children = [int(word) for word in read_text("/proc/%d/task/%s/children" % (parent, thread)).split()]
                tree += children
                queue += children
        return tree
    table = parents()
    while queue:
        parent = queue.pop()
        children = [child for child, above in table.items() if above == parent]
        tree += children
        queue += children
    return tree


def marked(unit: str) -> list:
    """List the processes that carry a task's mark in their environment: what is left when its supervisor was killed."""
    mark = ("%s=%s" % (MARKER, unit)).encode("utf-8", "surrogateescape")
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open("/proc/%s/environ" % name, "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue  # gone, or another user's
    return found


def kill_all(find) -> None:  # type: ignore[no-untyped-def]
    """Kill what ``find()`` lists. All are frozen first, until no new one turns up: killing alone loses against fast forkers."""
    frozen: dict = {}
    for _ in range(1000):
        fresh = [pid for pid in find() if pid not in frozen]
        if not fresh:
            break
        for pid in fresh:
            frozen[pid] = True
            kill(pid, signal.SIGSTOP)
    for pid in frozen:
        kill(pid, signal.SIGKILL)


def whereabouts(pids: list) -> str:
    """Tell what the kernel knows of where processes stand, a line for each thread, with its stack where that may be read."""
    lines = []
    for pid in pids[:MOST_PROCESSES]:
        threads = "/proc/%d/task" % pid
        try:
            names = sorted(os.listdir(threads), key=int)
        except OSError:
            continue  # it has ended
        for name in names[:MOST_THREADS]:
            path = os.path.join(threads, name)
            comm = " ".join(read_text(path + "/comm").split())
            state = read_text(path + "/status").partition("\nState:")[2].partition("\n")[0].strip()
            lines.append("cml: process %d, thread %s (%s): %s, in %s" % (pid, name, comm, state, read_text(path + "/wchan").strip() or "?"))
            lines += ["cml:   " + line for line in read_text(path + "/stack").splitlines()[:32]]
        if len(names) > MOST_THREADS:
            lines.append("cml: process %d has %d more threads" % (pid, len(names) - MOST_THREADS))
    return "\n".join(lines)
