"""What Python has no function for: options of a process, and the kernel's count of those that it has killed for want of memory."""


from cml_nova.remote.runner.files import read_text

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def prctl(option: int, value: int) -> bool:
    """Set a process option; False where this Python or kernel can't."""
    try:
        try:
            import _ctypes
            function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
            return _ctypes.call_function(function, (option, value, 0, 0, 0)) == 0
        except AttributeError:  # the C part of ctypes is not as we know it
            import ctypes
            return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def oom_kills() -> "int | None":
    """Count the kernel's out-of-memory kills so far: in our own control group where it says, else on the machine."""
    paths = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths.append("/sys/fs/cgroup%s/memory.events" % path.rstrip("/"))
        elif "memory" in controllers.split(","):
            paths.append("/sys/fs/cgroup/memory%s/memory.oom_control" % path.rstrip("/"))
    for path in [*paths, "/proc/vmstat"]:
        for line in read_text(path).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return None
