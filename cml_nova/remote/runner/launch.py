"""A training process from the fork to the exec: its environment, its descriptors, its place."""

import _signal as signal  # type: ignore[import-not-found]
import os

from cml_nova.remote.runner.files import encode, write_file_at
from cml_nova.remote.runner.kernel import PR_SET_PDEATHSIG, prctl
from cml_nova.remote.runner.paths import inside
from cml_nova.remote.runner.processes import MARKER
from cml_nova.remote.runner.tasks import Task


def environment(root: str, task: Task, given: dict) -> dict:
    """Give a process's variables: the login's, ours, the worker's."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SSH_")}
    environ.update({
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # Python says where all threads are when it is killed by a fault, or aborted because it hangs
        "CML_HEARTBEAT_FILE": task.file("heartbeat"),
        "CML_OUTPUT_DIR": os.path.join(root, "output"),
        "CML_CHECKPOINT_DIR": os.path.join(root, "checkpoints"),
        "CML_INPUT_DIR": os.path.join(root, "input"),
        "CML_HOSTFILE": os.path.join(root, "hostfile"),
        MARKER: task.path,
    })
    environ.update(given)
    return environ


def become_process(root: str, spec: dict, environ: dict, output: int) -> None:
    """Turn the supervisor's child into the process; does not return.

    :param output: descriptor that its standard output and error are to be.
    :raises OSError: it can't be; as when its program is not there.
    :raises Refused: its directory leads out of the root.
    """
    supervisor = os.getppid()
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(127)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.umask(0o022)
    try:
        write_file_at("/proc/self/oom_score_adj", b"500")  # let the kernel take the process rather than its supervisor
    except OSError:
        pass
    os.chdir(inside(root, spec["cwd"], "cwd") if spec.get("cwd") else root)
    command = spec["command"]
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    # as bytes: the locale of a login over SSH may be "C"
    os.execvpe(encode(argv[0]), [encode(word) for word in argv], {encode(key): encode(value) for key, value in environ.items()})
