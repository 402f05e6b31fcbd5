"""The start of a task: at most once, by a supervisor that is nobody's child."""

import os
import time

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.fencing import Change
from cml_nova.remote.runner.files import close_fds, write_file
from cml_nova.remote.runner.launch import environment
from cml_nova.remote.runner.paths import check_name
from cml_nova.remote.runner.processes import kill_all, marked
from cml_nova.remote.runner.supervisor import Supervisor
from cml_nova.remote.runner.tasks import Task, all_tasks, attempts


def start(root: str, generation: int, spec: dict) -> bool:
    """Start a process under a supervisor; False if it was started before.

    :raises Refused: an older attempt is alive, a newer one exists, this one was stopped, or the generation is over.
    """
    attempt, task = spec["attempt"], Task(root, spec["attempt"], check_name(spec["task"], "task"))
    with Change(root, generation):
        if task.saved() or (os.path.exists(task.path) and task.supervised()):
            return False
        newest = (attempts(root) or [attempt])[-1]
        if newest > attempt:
            raise Refused("attempt %d is over: attempt %d has begun" % (attempt, newest))
        if os.path.exists(os.path.join(os.path.dirname(task.path), ".stopped")):
            raise Refused("attempt %d was stopped" % attempt)
        for other in all_tasks(root):
            if other.attempt < attempt:
                if other.alive():
                    raise Refused("attempt %d can't start: %s of attempt %d is still running" % (attempt, other.name, other.attempt))
                if (other.saved() or {}).get("state") == "RUNNING":
                    kill_all(lambda path=other.path: marked(path))
        for name in ("output", "checkpoints", "input"):
            os.makedirs(os.path.join(root, name), exist_ok=True)
        os.makedirs(task.path, exist_ok=True)
        environ = environment(root, task, spec.pop("env"))
        if environ.get("CML_NODE_IPS"):
            write_file(environ["CML_HOSTFILE"], (environ["CML_NODE_IPS"].replace(",", "\n") + "\n").encode(), 0o644)
        start_supervisor(root, task, spec, environ)
    return True


def start_supervisor(root: str, task: Task, spec: dict, environ: dict) -> None:
    """Fork the supervisor off twice, so that it is nobody's child; return when the process runs."""
    held = task.lock()
    seen, report = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
                null = os.open("/dev/null", os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                close_fds((held, report))
                supervise(root, task, spec, environ, report)
        except OSError as error:
            if not task.saved():
                os.write(report, str(error).encode("utf-8", "replace"))
        finally:
            os._exit(0)
    os.close(report)
    os.close(held)
    os.waitpid(child, 0)
    why = os.read(seen, 4096).decode("utf-8", "replace")
    os.close(seen)
    if not task.saved():
        raise Refused("the supervisor did not come up%s" % (why and ": " + why))


def supervise(root: str, task: Task, spec: dict, environ: dict, report: int = -1) -> None:
    """Be a task's supervisor until its process has ended; the caller holds the lock."""
    Supervisor(root, task, spec, environ).run(report)
    if spec["power_off_after"]:
        close_fds(())
        linger(root, task, spec["power_off_after"])


def linger(root: str, task: Task, seconds: float) -> None:
    """Power the machine off when all processes have ended and no session was there for so long; or leave it to a younger attempt."""
    seen, since = 0, time.monotonic()
    while True:
        try:
            contact = os.stat(os.path.join(root, "contact")).st_mtime_ns
        except OSError:
            contact = 0
        others = all_tasks(root)
        if any(other.attempt > task.attempt for other in others):
            return
        if contact != seen or any(other.alive() for other in others):
            seen, since = contact, time.monotonic()
        if time.monotonic() - since >= seconds:
            os.execvp("poweroff", ["poweroff"])
        time.sleep(min(5.0, seconds / 4))
