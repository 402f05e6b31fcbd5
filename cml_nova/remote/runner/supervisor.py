"""The supervisor of a training process, which outlives the session that started it."""

import _signal as signal  # type: ignore[import-not-found]
import os
import select
import time

from cml_nova.remote.runner.files import overwrite, read_text, write_all
from cml_nova.remote.runner.kernel import PR_SET_CHILD_SUBREAPER, oom_kills, prctl
from cml_nova.remote.runner.launch import become_process
from cml_nova.remote.runner.logs import Log
from cml_nova.remote.runner.processes import boot_id, descendants, kill, kill_all, marked, start_ticks, whereabouts
from cml_nova.remote.runner.serialization import from_json
from cml_nova.remote.runner.tasks import RESERVE, StateFile, Task


class Supervisor:
    """Runs one process: starts it, keeps its log, ends it with all of its descendants, says how it ended."""

    def __init__(self, root: str, task: Task, spec: dict, environ: dict) -> None:
        self.root, self.task, self.spec, self.environ = root, task, spec, environ
        self.file = StateFile(task)
        self.subreaper = prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.state = {"attempt": task.attempt, "task": task.name, "state": "RUNNING", "boot_id": boot_id(), "pid": None,
                      "supervisor": os.getpid(), "supervisor_ticks": start_ticks(os.getpid()), "started_at": time.time()}
        self.pid = 0
        self.status: "int | None" = None
        self.look = True
        self.deadline: "float | None" = None
        self.request = ""
        self.output_ended = False

    def run(self, report: int = -1) -> None:
        """Start the process and stay until it and its descendants are gone.

        :param report: descriptor that is closed once the process runs or could not be started.
        """
        self.wake_in, wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_out)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self.log = Log(self.task.path, self.spec["max_log"])
        ooms = oom_kills()
        self.put_by()
        self.save()  # before the process exists: it must never be started a second time
        self.spawn()
        if report >= 0:
            os.close(report)
        self.attend()
        self.end_descendants()
        self.log.keep_the_rest()
        self.finish(ooms)

    def put_by(self) -> None:
        """Take the room that is needed even when the process has filled the disk."""
        self.file.put_by()
        self.log.put_by()
        overwrite(self.task.file("stop"), b"", RESERVE)

    def save(self, **changes: object) -> None:
        self.state.update(changes, **self.log.said)
        self.file.write(self.state)

    def spawn(self) -> None:
        self.pipe, output = os.pipe()
        os.set_blocking(self.pipe, False)
        failed, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become_process(self.root, self.spec, self.environ, output)
            except BaseException as error:
                write_all(tell, ("cml: can't start the process: %s\n" % error).encode("utf-8", "replace"))
            finally:
                os._exit(127)
        os.close(output)
        os.close(tell)
        self.save(pid=self.pid)
        note = os.read(failed, 4096)  # ends when the exec has closed the other end
        os.close(failed)
        if note:
            self.log.keep(note)

    def attend(self) -> None:
        """Pump the output and obey stop requests until the process has ended; one that is stopped, with all that it started."""
        while True:
            self.wait(1.0 if self.deadline is None else min(1.0, self.deadline - time.monotonic()))
            self.reap()
            # The shell of a command ends at TERM at once; what it had started has the rest of the grace.
            if self.status is not None and (self.deadline is None or not self.below()):
                return
            if self.look:
                self.obey(read_text(self.task.file("stop")).strip())
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.state["stopped_by"] = "KILL"
                kill_all(self.below)
                self.deadline = time.monotonic() + 0.05  # and again, until it has ended

    def obey(self, request: str) -> None:
        """Stop as a session has asked for, if it has, and not asked the same before."""
        if request and request != self.request:
            try:
                wanted = from_json(request)
            except ValueError:
                return  # it is being written
            self.request = request
            self.begin_stop(**wanted)

    def begin_stop(self, grace: float, dump: bool = False) -> None:
        """Ask the processes to end.

        :param dump: ask them by a signal that has them say where they are, and put into the log what the kernel says of it.
        """
        deadline = time.monotonic() + grace
        if self.deadline is None:
            self.deadline = deadline
            self.state["stopped_by"] = "ABRT" if dump else "TERM"
            if dump:
                self.log.keep(("\ncml: a hang: where the processes are, by the kernel; SIGABRT comes next\n%s\n"
                               % whereabouts(self.below())).encode("utf-8", "replace"))
            for pid in self.below():
                kill(pid, signal.SIGABRT if dump else signal.SIGTERM)
        self.deadline = min(deadline, self.deadline)

    def wait(self, timeout: float) -> None:
        """Wait for output, a signal or the time; take in what output there is."""
        poller = select.poll()
        poller.register(self.wake_in, select.POLLIN)
        if not self.output_ended:
            poller.register(self.pipe, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(int(max(0.0, timeout) * 1000) + 1)]
        self.look = self.wake_in in ready or not ready
        if self.wake_in in ready:
            os.read(self.wake_in, 512)
        if self.pipe in ready:
            self.pump()

    def below(self) -> list:
        """List everything that belongs to the process."""
        found = descendants(os.getpid())
        return found if self.subreaper else found + [pid for pid in marked(self.task.path) if pid not in found]

    def reap(self) -> bool:
        """Take in ended children; False if there are none left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.status = status

    def pump(self) -> None:
        try:
            data = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return
        if data:
            self.log.keep(data)
        else:
            self.output_ended = True

    def end_descendants(self) -> None:
        """Kill what the process left behind, and take in the output up to then."""
        limit = time.monotonic() + 10
        while (self.reap() or (not self.subreaper and marked(self.task.path))) and time.monotonic() < limit:
            kill_all(self.below)
            self.wait(0.005)
        limit = time.monotonic() + 2  # the end of file is certain unless something that can't be killed holds the pipe
        while not self.output_ended and time.monotonic() < limit:
            self.wait(0.1)

    def finish(self, ooms: "int | None") -> None:
        status = self.status or 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        stopped = self.state.get("stopped_by")
        killed = number == signal.SIGKILL or code == 128 + signal.SIGKILL
        oom: "bool | None" = False
        if not stopped and (number or code):
            now = oom_kills()
            oom = (None if killed else False) if ooms is None or now is None else now > ooms
        self.save(state="STOPPED" if stopped else "EXITED", exit_code=code, signal=number, oom=oom, ended_at=time.time())
        self.file.let_go()
