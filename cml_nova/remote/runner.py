"""The runner: what works inside a node. One file, standard library only, any Python from 3.6 on.

The worker sends this file over an SSH exec channel and talks to it there in frames: two big-endian 32-bit lengths, a JSON
object, raw bytes. That process is the *session*; it owns nothing that matters and may die at any time. Each training process
has a *supervisor*: a child reaper in a session of its own that outlives the SSH connection, pumps the output into the log and
writes ``state.json``. A supervisor holds a lock for as long as it lives, so a dead one can't be mistaken for a living one, not
after a reboot and not when its pid is in use again.

A session says in which generation of the job's lease its worker holds it. The highest one seen on the node is kept, and a session of
a lower one may only look: its worker was taken for dead, and another one has the node now.

The disk may be full at any time, by the process's own doing. What must be written even then is written in place, into files that are
there from the start, or into room that was put by: the state at the end, the last lines of the log, a stop, the generation.

Below the root: ``generation``, ``tasks/<attempt>/<task>/{lock,state.json,log,times,wake,stop,heartbeat,reserve.*}``, the uploaded
directories, ``output``, ``checkpoints``, ``input``, ``hostfile``, ``snapshots``. Imports are few, and late where they are costly: dozens of
nodes may be simulated on one machine.
"""

# Of signal, socket and json the C parts only: what their Python parts drag in (enum, re, selectors) is more than the whole rest.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import errno
import fcntl
import os
import select
import struct
import sys
import time

PROTOCOL = 1
MAGIC = b"\x00CML-RUNNER\x01\n"
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 20
PIECE = 1 << 18
FRAME_COST = 1024  # what a frame of a stream costs beside its body, in bytes of the receiver's window
HEARTBEAT = 5.0
TICK, IDLE_TICK = 0.05, 0.5
MARKER = "CML_UNIT"
ENDED = ("EXITED", "STOPPED", "LOST")
NAME_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
RESERVE, LOG_RESERVE = 4096, 1 << 16  # bytes put by for a state and for the last lines of a log
#: seconds of output that share a record of their time; a record's form: offset in the log, ms by the monotonic clock; most in a frame
MOMENT, TIME_FORM, MOST_TIMES = 0.1, ">QQ", 64
TIME_SIZE = struct.calcsize(TIME_FORM)
MOST_PROCESSES, MOST_THREADS = 64, 16  # that a look at where processes stand goes into
#: what a session may ask whose worker has lost the job, because it changes nothing
LOOKING = ("hello", "processes", "follow", "fetch", "gpus")
#: seconds that a file which is open for writing must have rested, and that a snapshot waits for that
SETTLE, SETTLE_LIMIT = 1.0, 10.0
GPU_TOOL = "nvidia-smi"
GPU_PATIENCE = 30  # seconds, until what it has listed by then is taken for all: where a GPU is broken, it may hang


class Refused(Exception):
    """A request that can't be done; the text goes to the worker."""


# ---------------------------------------------------------------------------------------------------- files and processes


def json_functions() -> tuple:
    """Give json's loads and dumps, made of its C part where that is as we know it."""
    class Context:
        strict, memo = True, {}  # type: ignore[var-annotated]
        object_hook = object_pairs_hook = None
        parse_float = parse_constant = float
        parse_int = int

    def loads(text: str) -> object:
        try:
            return scan(text, 0)[0]
        except StopIteration:
            raise ValueError("not JSON") from None

    def refuse(value: object) -> None:
        raise TypeError("not for JSON: %r" % (value,))

    try:
        import _json
        scan = _json.make_scanner(Context)  # type: ignore[arg-type]
        encode_chunks = _json.make_encoder(None, refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True)
        return loads, lambda value: "".join(encode_chunks(value, 0))
    except (ImportError, AttributeError, TypeError):
        import json
        return json.loads, json.dumps


from_json, to_json = json_functions()


def read_text(path: str) -> str:
    """Give a small file's content, or nothing where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees all of it or none."""
    temporary = "%s.%d.new" % (path, os.getpid())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def overwrite(path: str, data: bytes, size: int) -> None:
    """Write a file of a fixed size in place, padded with spaces: one that is there takes no more room, and the disk may be full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data.ljust(size))
    finally:
        os.close(fd)


def modified(path: str) -> int:
    """Tell when a file was last written or touched, in nanoseconds by the node's clock; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def close_fds(keep: tuple) -> None:
    """Close every descriptor above 2 but those; a child must not hold its parent's pipes and ports open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one that listed the directory


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


# ------------------------------------------------------------------------------------------------------------------ fencing


def highest_generation(root: str) -> int:
    text = read_text(os.path.join(root, "generation")).strip()
    return int(text) if text.isdigit() else 0


class Change:
    """A context in which a session changes something on the node: one at a time, and none of a worker that has lost the job.

    :param generation: in which the session's worker holds the job.
    :raises Refused: on entry, a session of a higher generation has been here.
    """

    def __init__(self, root: str, generation: int) -> None:
        self.root, self.generation = root, generation

    def __enter__(self) -> "Change":
        self.lock = open(os.path.join(self.root, "start.lock"), "wb")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        highest = highest_generation(self.root)
        if highest > self.generation:
            self.lock.close()
            raise Refused("the job is another worker's: generation %d of its lease is over, generation %d has begun" % (
                self.generation, highest))
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.close()

    def begin(self) -> None:
        """Let no session of a lower generation change anything any more."""
        if self.generation > highest_generation(self.root):
            overwrite(os.path.join(self.root, "generation"), b"%d" % self.generation, 20)


# ------------------------------------------------------------------------------------------------------------------- tasks


def check_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 128 or name[0] in ".-" or not NAME_SIGNS.issuperset(name):
        raise Refused("%s: not a usable name" % what)
    return name


def inside(root: str, name: object, what: str) -> str:
    """Give the path of a relative name below the root."""
    if not isinstance(name, str) or not name:
        raise Refused("%s: a relative path is needed" % what)
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part:
            raise Refused("%s: %r is not a plain relative path" % (what, name))
    return os.path.join(root, name)


class Task:
    """One process of one attempt, as the files say."""

    def __init__(self, root: str, attempt: int, name: str) -> None:
        self.attempt, self.name = attempt, name
        self.path = os.path.join(root, "tasks", str(attempt), name)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def log_size(self) -> int:
        try:
            return os.stat(self.file("log")).st_size
        except OSError:
            return 0

    def times(self, start: int, end: int) -> "list | None":
        """Give [offset, age in seconds] of the moments in which a part of the log came: from that offset on it is so old. At most
        MOST_TIMES and one more; None if they are not known.

        A clock that nobody can set counts from the machine's start: what is older than that seems to be younger.
        """
        try:
            with open(self.file("times"), "rb", 0) as file:
                fd = file.fileno()
                low, high = 0, os.fstat(fd).st_size // TIME_SIZE
                while low < high:
                    middle = (low + high) // 2
                    if struct.unpack(TIME_FORM, os.pread(fd, TIME_SIZE, TIME_SIZE * middle))[0] < start:
                        low = middle + 1
                    else:
                        high = middle
                found = os.pread(fd, TIME_SIZE * (MOST_TIMES + 1), TIME_SIZE * low)
        except (OSError, struct.error):
            return None
        now = time.monotonic()
        times: list = []
        for offset, at in struct.iter_unpack(TIME_FORM, found[:len(found) // TIME_SIZE * TIME_SIZE]):
            if (times[-1][0] + 1 if times else start) <= offset < end:
                times.append([offset, round(max(0.0, now - at / 1000), 3)])
        return times

    def lock(self) -> int:
        """Take the supervisor's lock; -1 if a supervisor has it. It lasts until the last copy of the descriptor is closed."""
        try:
            fd = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return -1
        return fd

    def supervised(self) -> bool:
        fd = self.lock()
        if fd >= 0:
            os.close(fd)
        return fd < 0

    def saved(self) -> "dict | None":
        """Give what the supervisor wrote last; None before it wrote anything."""
        text = read_text(self.file("state.json"))
        try:
            return from_json(text) if text else None
        except ValueError:
            return {"attempt": self.attempt, "task": self.name, "state": "LOST", "reason": "its state file is damaged"}

    def state(self) -> "dict | None":
        """Give the state, LOST when it says RUNNING and its supervisor is gone; None if the process was never started."""
        saved = self.saved()
        if saved and saved["state"] == "RUNNING" and not self.supervised():
            saved = self.saved()  # it may have ended between the two looks
            if saved and saved["state"] == "RUNNING":
                rebooted = saved["boot_id"] != boot_id()
                saved.update(state="LOST", reason="the machine was restarted" if rebooted else "its supervisor was killed")
        if saved:
            saved["log_size"] = self.log_size()
        return saved

    def alive(self) -> bool:
        state = self.state()
        return self.supervised() if state is None else state["state"] == "RUNNING"


def attempts(root: str) -> list:
    try:
        return sorted(int(name) for name in os.listdir(os.path.join(root, "tasks")) if name.isdigit())
    except FileNotFoundError:
        return []


def tasks_of(root: str, attempt: int) -> list:
    path = os.path.join(root, "tasks", str(attempt))
    try:
        return [Task(root, attempt, name) for name in sorted(os.listdir(path)) if os.path.isdir(os.path.join(path, name))]
    except FileNotFoundError:
        return []


def all_tasks(root: str) -> list:
    return [task for attempt in attempts(root) for task in tasks_of(root, attempt)]


# -------------------------------------------------------------------------------------------------------------- supervisor


class Supervisor:
    """Runs one process: starts it, keeps its log, ends it with all of its descendants, says how it ended."""

    def __init__(self, root: str, task: Task, spec: dict, environ: dict) -> None:
        self.root, self.task, self.spec, self.environ = root, task, spec, environ
        self.subreaper = prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.state = {"attempt": task.attempt, "task": task.name, "state": "RUNNING", "boot_id": boot_id(), "pid": None,
                      "supervisor": os.getpid(), "supervisor_ticks": start_ticks(os.getpid()), "started_at": time.time()}
        self.pid = 0
        self.status: "int | None" = None
        self.look = True
        self.deadline: "float | None" = None
        self.request = ""
        self.log_full = self.log_eof = False
        self.log_size = self.unkept = 0
        self.rest = b""  # the end of what could not be kept of the log
        self.woke = self.noted = 0.0
        self.moments, self.noted_at = 0, -1
        self.reserves = [task.file("reserve.%d" % number) for number in range(2)]

    def put_by(self) -> None:
        """Take the room that is needed even when the process has filled the disk."""
        for path in self.reserves:
            overwrite(path, b"", RESERVE)
        overwrite(self.task.file("reserve.log"), b"", LOG_RESERVE)
        overwrite(self.task.file("stop"), b"", RESERVE)

    def save(self, **changes: object) -> None:
        self.state.update(changes)
        data = to_json(self.state).encode()
        try:
            write_file(self.task.file("state.json"), data)
        except OSError:
            if not self.reserves:
                raise
            reserve = self.reserves.pop()
            overwrite(reserve, data, RESERVE)
            os.rename(reserve, self.task.file("state.json"))

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
        self.log = os.open(self.task.file("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.times = os.open(self.task.file("times"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not os.path.exists(self.task.file("wake")):
            os.mkfifo(self.task.file("wake"), 0o600)
        self.wake = os.open(self.task.file("wake"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        ooms = oom_kills()
        self.put_by()
        self.save()  # before the process exists: it must never be started a second time
        self.spawn()
        if report >= 0:
            os.close(report)
        self.attend()
        self.end_descendants()
        self.keep_the_rest()
        self.finish(ooms)

    def spawn(self) -> None:
        self.pipe, output = os.pipe()
        os.set_blocking(self.pipe, False)
        failed, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.become_process(output)
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
            self.keep(note)

    def become_process(self, output: int) -> None:
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
        os.chdir(inside(self.root, self.spec["cwd"], "cwd") if self.spec.get("cwd") else self.root)
        command = self.spec["command"]
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        # as bytes: the locale of a login over SSH may be "C"
        environ = {encode(key): encode(value) for key, value in self.environ.items()}
        os.execvpe(encode(argv[0]), [encode(word) for word in argv], environ)

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
                self.keep(("\ncml: a hang: where the processes are, by the kernel; SIGABRT comes next\n%s\n"
                           % whereabouts(self.below())).encode("utf-8", "replace"))
            for pid in self.below():
                kill(pid, signal.SIGABRT if dump else signal.SIGTERM)
        self.deadline = min(deadline, self.deadline)

    def wait(self, timeout: float) -> None:
        """Wait for output, a signal or the time; take in what output there is."""
        poller = select.poll()
        poller.register(self.wake_in, select.POLLIN)
        if not self.log_eof:
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
            self.keep(data)
        else:
            self.log_eof = True

    def keep(self, data: bytes) -> None:
        """Take in output: the log gets it up to its limit. The process goes on unharmed beyond that, and while the disk is full."""
        now = time.monotonic()
        if not self.log_full:
            self.note_time(now)
            self.append(data)
        elif now - self.woke >= 1:
            os.utime(self.log)  # that it still prints is a sign of life
        if now - self.woke >= (1 if self.log_full else TICK / 2):
            self.woke = now
            try:
                os.write(self.wake, b".")
            except BlockingIOError:
                pass  # nobody has listened for a long time

    def note_time(self, now: float) -> None:
        """Put down when the log gets what comes now, before it does: who reads that finds its time."""
        if self.moments and now - self.noted < MOMENT:
            return
        size = os.fstat(self.log).st_size
        number = self.moments - (size == self.noted_at)  # nothing came of what was to come then
        try:
            # Its number is its place: one that the disk has no room for, or only in part, is written over by the next.
            if os.pwrite(self.times, struct.pack(TIME_FORM, size, int(now * 1000)), TIME_SIZE * number) == TIME_SIZE:
                self.noted, self.noted_at, self.moments = now, size, number + 1
        except OSError:
            pass  # what comes without a time of its own has that of what came before

    def append(self, data: bytes) -> None:
        """Write to the log what its limit allows, and before it how much the disk had no room for; or count what it has none for now."""
        room = self.spec["max_log"] - self.log_size
        note = lost = b""
        if len(data) > room:
            self.log_full = True
            data, note = data[:room], b"\ncml: the log has reached its limit of %d bytes; the rest is not kept\n" % self.spec["max_log"]
        if self.unkept:
            lost = b"\ncml: %d bytes of output are missing here: %s\n" % (self.unkept, str(self.state["log_error"]).encode())
        whole, done = lost + data + note, 0
        try:
            while done < len(whole):
                done += os.write(self.log, memoryview(whole)[done:])
            self.unkept, self.rest = 0, b""
        except OSError as error:
            self.state["log_error"] = str(error)
            missing = data[max(0, done - len(lost)):]
            self.unkept, self.rest = self.unkept + len(missing), (self.rest + missing)[-RESERVE:]
            os.utime(self.log)
        self.log_size += len(data)
        self.state["log_truncated"] = self.log_full or "log_error" in self.state

    def keep_the_rest(self) -> None:
        """Where the disk is full to the end, give up what was put by for the last lines: they say why the process failed."""
        os.unlink(self.task.file("reserve.log"))
        if self.unkept:
            rest, self.unkept = self.rest, self.unkept - len(self.rest)
            self.append(rest)

    def end_descendants(self) -> None:
        """Kill what the process left behind, and take in the output up to then."""
        limit = time.monotonic() + 10
        while (self.reap() or (not self.subreaper and marked(self.task.path))) and time.monotonic() < limit:
            kill_all(self.below)
            self.wait(0.005)
        limit = time.monotonic() + 2  # the end of file is certain unless something that can't be killed holds the pipe
        while not self.log_eof and time.monotonic() < limit:
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
        for path in self.reserves:
            os.unlink(path)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def write_file_at(path: str, data: bytes) -> None:
    with open(path, "wb", 0) as file:
        file.write(data)


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


def supervise(root: str, task: Task, spec: dict, environ: dict, report: int = -1) -> None:
    """Be a task's supervisor until its process has ended; the caller holds the lock."""
    Supervisor(root, task, spec, environ).run(report)
    if spec["power_off_after"]:
        close_fds(())
        linger(root, task, spec["power_off_after"])


# ------------------------------------------------------------------------------------------------------------ start and stop


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


def service_manager() -> str:
    """Give the socket of the systemd that runs this login's units, where there is one that lets them live as long as the machine.

    A user's manager ends with the last login unless the user lingers, and would take the units with it.
    """
    if not os.path.isdir("/run/systemd/system"):
        return ""
    uid, path = os.getuid(), "/run/systemd/private"
    if uid:
        import pwd
        path = "/run/user/%d/systemd/private" % uid
        if not os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(uid).pw_name):
            return ""
    return path if os.path.exists(path) else ""


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


# ------------------------------------------------------------------------------------------------------------------ systemd


class Marshaller:
    """Writes values in D-Bus' wire format, little-endian: each aligned to its size (D-Bus specification, "Marshaling")."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def number(self, form: str, value: int) -> None:
        self.align(struct.calcsize(form))
        self.data += struct.pack("<" + form, value)

    def string(self, text: str) -> None:
        self.number("I", len(text.encode()))
        self.data += text.encode() + b"\0"

    def variant(self, signature: str, value: object) -> None:
        self.data += struct.pack("B", len(signature)) + signature.encode() + b"\0"
        if signature in ("s", "o"):
            self.string(value)  # type: ignore[arg-type]
        elif signature == "g":
            self.data += struct.pack("B", len(value)) + value.encode() + b"\0"  # type: ignore[arg-type, attr-defined]
        elif signature == "au":
            self.array(4, [lambda number=number: self.number("I", number) for number in value])  # type: ignore[attr-defined]
        else:
            self.number({"b": "I", "t": "Q"}[signature], value)  # type: ignore[arg-type]

    def array(self, alignment: int, writers: list) -> None:
        self.number("I", 0)
        size = len(self.data)
        self.align(alignment)
        first = len(self.data)
        for write in writers:
            self.align(alignment)
            write()
        self.data[size - 4:size] = struct.pack("<I", len(self.data) - first)

    def pair(self, key: str, signature: str, value: object) -> None:
        self.string(key)
        self.variant(signature, value)


def scope_request(name: str, pid: int) -> bytes:
    """Write the call that puts a process into a scope of its own: StartTransientUnit of org.freedesktop.systemd1."""
    properties = (("PIDs", "au", [pid]), ("Description", "s", "training process of cml_nova"), ("TasksMax", "t", 2 ** 64 - 1),
                  ("Delegate", "b", 1),  # what else it brings: that a kill for want of memory does not end the whole scope
                  ("CollectMode", "s", "inactive-or-failed"))
    body = Marshaller()
    body.string(name)
    body.string("fail")
    body.array(8, [lambda item=item: body.pair(*item) for item in properties])
    body.array(8, [])
    fields = ((1, "o", "/org/freedesktop/systemd1"), (2, "s", "org.freedesktop.systemd1.Manager"), (3, "s", "StartTransientUnit"),
              (8, "g", "ssa(sv)a(sa(sv))"))
    head = Marshaller()
    head.data += struct.pack("<cBBBII", b"l", 1, 0, 1, len(body.data), 1)

    def field(code: int, signature: str, value: str) -> None:
        head.data.append(code)
        head.variant(signature, value)

    head.array(8, [lambda item=item: field(*item) for item in fields])
    head.align(8)
    return bytes(head.data + body.data)


class Scope:
    """A transient scope of systemd, which this process asks to be put into, along with all that it starts from then on.

    What is in it survives the login, and the kernel counts its memory apart. The manager is spoken to directly: on a slow machine a
    command would take longer than all the rest of a start.

    :param manager: the manager's socket; empty where there is none, and then nothing is asked for.
    """

    def __init__(self, manager: str) -> None:
        self.name = "cml-%d-%d.scope" % (os.getpid(), start_ticks(os.getpid()))
        self.failure = ""
        self.connection: "socket.socket | None" = None
        if manager:
            try:
                self.connection = self.ask(manager)
            except OSError as error:
                self.failure = "systemd can't be reached: %s" % error

    def ask(self, manager: str) -> "socket.socket":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5)
        connection.connect(manager)
        login = b"\0AUTH EXTERNAL %s\r\nBEGIN\r\n" % str(os.getuid()).encode().hex().encode()
        connection.sendall(login + scope_request(self.name, os.getpid()))
        connection.settimeout(0.01)
        return connection

    def enter(self) -> None:
        """Wait until we are in it.

        :raises Refused: systemd does not want it, or takes too long.
        """
        if self.connection:
            self.failure = self.refusal(self.connection)
            self.connection.close()
            self.connection = None
        if self.failure:
            raise Refused(self.failure)

    def refusal(self, connection: "socket.socket") -> str:
        """Give nothing once we are in it, which is a moment after systemd's answer; or say why not."""
        answer, limit = b"", time.monotonic() + 15
        while "/" + self.name not in read_text("/proc/self/cgroup"):
            try:
                answer += connection.recv(4096) or b"(nothing more)"
            except socket.timeout:
                pass
            is_error = answer.partition(b"\r\n")[2][1:2] == b"\3"  # the type of a message is its second byte
            if is_error or not b"OK".startswith(answer[:2]) or time.monotonic() > limit:
                return "systemd gives no scope: %r" % answer
        return ""


class Stop:
    """A stop on its way: done when all of its tasks have ended."""

    def __init__(self, root: str, generation: int, attempt: int, grace: float, names: "list | None", dump: bool) -> None:
        with Change(root, generation):  # a start is either seen here or sees the mark
            if names is None:
                os.makedirs(os.path.join(root, "tasks", str(attempt)), exist_ok=True)
                write_file(os.path.join(root, "tasks", str(attempt), ".stopped"), b"")
            self.tasks = [task for task in tasks_of(root, attempt) if names is None or task.name in names]
        self.limit = time.monotonic() + grace + 20
        for task in self.tasks:
            state = task.state()
            if state and state["state"] == "RUNNING":
                overwrite(task.file("stop"), to_json({"grace": grace, "dump": dump}).encode(), RESERVE)
                if start_ticks(state["supervisor"]) == state["supervisor_ticks"]:
                    kill(state["supervisor"], signal.SIGTERM)
            elif state and state["state"] == "LOST":
                kill_all(lambda path=task.path: marked(path))

    def left(self) -> list:
        self.tasks = [task for task in self.tasks if task.alive()]
        return self.tasks


# ----------------------------------------------------------------------------------------------------------- tar in and out


def read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, PIECE))
        if not part:
            raise Refused("the files break off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def unpack(root: str, generation: int, name: str, digest: "str | None", before: "int | None", source: int) -> None:
    """Unpack what the worker sends beside its place, then put it there in one step; runs in a child of the session.

    Each member comes as a big-endian 32-bit length, a JSON object of that length, and its content; a length of 0 is the end. No
    archive that needs a library: importing one takes longer than unpacking the code of most jobs.

    :param before: the attempt that is to find it there; None for any time.
    :raises Refused: that attempt has begun already: whoever sends this is late.
    """
    target, mark = inside(root, name, "name"), digest_file(root, name)
    fresh, old = "%s.%d.new" % (target, os.getpid()), "%s.%d.old" % (target, os.getpid())
    os.makedirs(fresh)
    try:
        while True:
            size = struct.unpack(">I", read_exactly(source, 4))[0]
            if not size:
                break
            unpack_member(source, from_json(read_exactly(source, size).decode()), fresh)
        with Change(root, generation):
            if before is not None and attempts(root)[-1:] >= [before]:
                raise Refused("attempt %d has begun without this" % before)
            if os.path.exists(mark):
                os.unlink(mark)
            if os.path.lexists(target):
                os.rename(target, old)
            os.rename(fresh, target)
            if digest:
                write_file(mark, digest.encode())
    finally:
        for leftover in (fresh, old):
            if os.path.lexists(leftover):
                import shutil
                shutil.rmtree(leftover, ignore_errors=True)


def unpack_member(source: int, member: dict, directory: str) -> None:
    """Unpack files, directories, and links that stay inside; refuse everything else."""
    kind, name = member["type"], os.path.normpath(member["name"])
    if name == ".":
        return
    if name.startswith(("/", "..")):
        raise Refused("%r: leads out of the archive's directory" % member["name"])
    path = os.path.join(directory, name)
    parent = os.path.realpath(os.path.dirname(path))
    if (parent + "/").startswith(os.path.realpath(directory) + "/") is False:
        raise Refused("%r: leads out of the archive's directory" % member["name"])
    os.makedirs(parent, exist_ok=True)
    if kind == "directory":
        os.makedirs(path, exist_ok=True)
    elif kind == "file":
        if os.path.lexists(path):
            os.unlink(path)
        left = member["size"]
        with open(path, "wb", 0) as file:
            while left:
                piece = read_exactly(source, min(left, PIECE))
                write_all(file.fileno(), piece)
                left -= len(piece)
        os.chmod(path, member["mode"] & 0o755 | 0o600)
        os.utime(path, ns=(member["mtime_ns"], member["mtime_ns"]))
    elif kind == "link":
        inner = os.path.realpath(os.path.join(parent, member["target"]))
        if os.path.isabs(member["target"]) or not inner.startswith(os.path.realpath(directory) + "/"):
            raise Refused("%r: links to %r outside of the archive" % (member["name"], member["target"]))
        os.symlink(member["target"], path)
    else:
        raise Refused("%r: only files, directories and symbolic links are unpacked" % member["name"])


def digest_file(root: str, name: str) -> str:
    return inside(root, name, "name") + ".sha256"


def pack(root: str, name: str, most_files: int, sink: int) -> None:
    """Write a directory as a tar stream; files that change or vanish meanwhile do no harm. Runs in a child of the session.

    A symbolic link to a file inside the directory goes as a copy of that file, any other link or special file is left out.
    """
    top = inside(root, name, "name")
    check_number_of_files(top, most_files)
    real = os.path.realpath(top) + "/"
    for path, directories, files in os.walk(top):
        directories.sort()
        for file in sorted(files):
            full = os.path.join(path, file)
            if os.path.islink(full) and not os.path.realpath(full).startswith(real):
                continue
            try:
                fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue  # it has vanished, or is not ours to read
            try:
                status = os.fstat(fd)
                if status.st_mode & 0o170000 == 0o100000:
                    pack_file(sink, fd, status, os.path.relpath(full, top))
            finally:
                os.close(fd)
    write_all(sink, b"\0" * 1024)


def too_many_files(most: int) -> str:
    return ("there are more than %d files, which is the most that is brought back of a node's directory ([remote] max_output_files); "
            "put many small files into one archive" % most)


def check_number_of_files(top: str, most: int) -> None:
    """:raises Refused: there are more files than may be brought back; said before the first one goes over the wire."""
    found = 0
    for _, _, files in os.walk(top):
        found += len(files)
        if found > most:
            raise Refused(too_many_files(most))


def tar_header(name: str, size: int, mtime: int, mode: int) -> bytes:
    """Give a file's header in a tar archive: by hand where that is simple, which spares the import of a large library."""
    encoded = encode(name)
    if len(encoded) < 100 and name.isprintable() and 0 <= size < 8 ** 11 and 0 <= mtime < 8 ** 11:
        head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (encoded.ljust(100, b"\0"), mode, 0, 0, size, mtime)
        tail = (b"0" + bytes(100) + b"ustar\x0000").ljust(512 - 156, b"\0")
        return head + b"%06o\0 " % (sum(head + tail) + 8 * 32) + tail
    import tarfile
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def pack_file(sink: int, fd: int, status: os.stat_result, name: str) -> None:
    write_all(sink, tar_header(name, status.st_size, int(status.st_mtime), status.st_mode & 0o777))
    left = status.st_size
    while left:
        piece = os.read(fd, min(left, PIECE)) or b"\0" * min(left, PIECE)  # the file shrank: the header has promised the size
        write_all(sink, piece)
        left -= len(piece)
    write_all(sink, b"\0" * (-status.st_size % 512))


# --------------------------------------------------------------------------------------------------------------- snapshots


def list_files(top: str, most: int) -> list:
    """List the regular files below a directory as (path, size, mtime_ns, inode), sorted; one more than ``most`` at the utmost.

    What is unfinished by its name (``*.tmp``, ``.*``) is left out. A link to a file inside the directory counts as that file.
    """
    found: list = []
    real = os.path.realpath(top) + "/"
    for path, directories, files in os.walk(top):
        directories[:] = [name for name in directories if is_finished(name)]
        for name in filter(is_finished, files):
            full = os.path.join(path, name)
            try:
                status = os.stat(full)
            except OSError:
                continue  # it has vanished, or is a link to nothing
            if status.st_mode & 0o170000 == 0o100000 and (not os.path.islink(full) or os.path.realpath(full).startswith(real)):
                found.append((os.path.relpath(full, top), status.st_size, status.st_mtime_ns, status.st_ino))
                if len(found) > most:
                    return found
    return sorted(found)


def is_finished(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".tmp")


def snapshot(root: str, name: str, most: int, hold: bool, sink: int) -> None:
    """Write what files a directory has: a line with an id, then a line for each (JSON). Runs in a child of the session.

    :param most: of more files than that none is held.
    :param hold: hard links keep the files as they were all at one time, under this id, until the next snapshot or ``release``.
    :raises Refused: there is no such time, for files are being written all the while.
    """
    top, ident, limit = inside(root, name, "name"), os.urandom(16).hex(), time.monotonic() + SETTLE_LIMIT
    while True:
        files = list_files(top, most)
        if not hold or len(files) > most:
            break
        busy = being_written(top, files)
        if not busy:
            release(root)
            if hold_files(root, top, ident, files) and list_files(top, most) == files:
                break
        if time.monotonic() > limit:
            what = "%r is being written" % busy if busy else "files come and go"
            raise Refused("%s: %s all the time: write under a name that ends in .tmp, and rename at the end" % (name, what))
        time.sleep(0.1)
    lines = [to_json({"snapshot": ident}), *(to_json(file[:3]) for file in files)]
    write_all(sink, "".join(line + "\n" for line in lines).encode())


def being_written(top: str, files: list) -> str:
    """Name a file that was written to just now, and that a process has open for more; nothing if there is none.

    One that is open for long and rests, as a log may be, is taken as it is.
    """
    now = time.time()
    young = {inode: path for path, _, mtime_ns, inode in files if abs(now - mtime_ns / 1e9) < SETTLE}
    if not young:
        return ""
    device = os.stat(top).st_dev
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir("/proc/%s/fd" % pid)
        except OSError:
            continue  # it is gone, or another user's
        for fd in fds:
            try:
                status = os.stat("/proc/%s/fd/%s" % (pid, fd))
            except OSError:
                continue
            if status.st_dev == device and status.st_ino in young:
                flags = read_text("/proc/%s/fdinfo/%s" % (pid, fd)).partition("flags:")[2].split()
                if flags and int(flags[0], 8) & (os.O_WRONLY | os.O_RDWR):
                    return young[status.st_ino]
    return ""


def hold_files(root: str, top: str, ident: str, files: list) -> bool:
    """Link files into a directory of this id under their numbers; False if one has vanished meanwhile."""
    directory = os.path.join(root, "snapshots", ident)
    os.makedirs(directory)
    for number, file in enumerate(files):
        try:
            os.link(os.path.realpath(os.path.join(top, file[0])), os.path.join(directory, str(number)))
        except FileNotFoundError:
            return False
    write_file(os.path.join(directory, "list"), to_json(files).encode())
    return True


def pick(root: str, ident: str, ranges: list, sink: int) -> None:
    """Write files that a snapshot holds as a tar stream, under their numbers. Runs in a child of the session.

    :param ranges: [first, last] of the numbers.
    :raises Refused: one was written to in place since it was held.
    """
    directory = os.path.join(root, "snapshots", check_name(ident, "snapshot"))
    text = read_text(os.path.join(directory, "list"))
    if not text:
        raise Refused("the snapshot is gone: there is a newer one")
    files = from_json(text)
    for number in [number for first, last in ranges for number in range(first, last + 1)]:
        path, size, mtime_ns, _ = files[number]
        fd = os.open(os.path.join(directory, str(number)), os.O_RDONLY)
        try:
            before = os.fstat(fd)
            if (before.st_size, before.st_mtime_ns) == (size, mtime_ns):
                pack_file(sink, fd, before, str(number))
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if (after.st_size, after.st_mtime_ns) != (size, mtime_ns):
            raise Refused("%r was written to while it was saved: write under a name that ends in .tmp, and rename at the end" % path)
    write_all(sink, b"\0" * 1024)


def release(root: str) -> None:
    """Let go of what is held. Runs in a child of the session."""
    import shutil
    shutil.rmtree(os.path.join(root, "snapshots"), ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------- samples


def cpu_times() -> tuple:
    """Give (busy, all) processor time of the machine so far, in ticks."""
    fields = [int(word) for word in read_text("/proc/stat").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4], sum(fields)) if len(fields) > 4 else (0, 0)


def memory() -> tuple:
    """Give (used, total) memory of the machine in bytes."""
    found = {}
    for line in read_text("/proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        found[key] = int(rest.split()[0]) * 1024
    total = found.get("MemTotal", 0)
    return total - found.get("MemAvailable", total), total


def has_gpu_tool() -> bool:
    return any(os.access(os.path.join(part, GPU_TOOL), os.X_OK) for part in os.environ.get("PATH", "").split(":"))


def count_gpus(sink: int) -> None:
    """Write how many GPUs the driver shows; nothing where there is no tool that asks it. Runs in a child of the session."""
    if not has_gpu_tool():
        return
    import subprocess
    try:
        text = subprocess.run([GPU_TOOL, "-L"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=GPU_PATIENCE).stdout
    except subprocess.TimeoutExpired as expired:
        text = expired.stdout or b""
    write_all(sink, b"%d" % sum(line.startswith(b"GPU ") for line in text.splitlines()))


def gpu_rows(text: str) -> list:
    """Read nvidia-smi's table: utilisation in percent, memory in bytes; a field that a GPU does not have is None."""
    def number(word: str) -> "float | None":
        try:
            return float(word)
        except ValueError:
            return None

    rows = []
    for line in text.splitlines():
        words = [number(word) for word in line.split(",")]
        if len(words) == 4 and words[0] is not None:
            used, total = (None if word is None else int(word) << 20 for word in words[2:])
            rows.append({"index": int(words[0]), "utilization": words[1], "memory_used": used, "memory_total": total})
    return rows


# ----------------------------------------------------------------------------------------------------------------- session


class Child:
    """A forked helper of the session for what may block: it has one pipe for data, and one that brings its last word."""

    def __init__(self, work, sends: bool) -> None:  # type: ignore[no-untyped-def]
        read, write = os.pipe()
        word, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            ours = write if sends else read
            text = "internal"
            try:
                close_fds((ours, tell))
                work(ours)
                text = ""
            except Refused as error:
                text = str(error)
            except BaseException as error:
                text = "%s: %s" % (type(error).__name__, error)
            finally:
                os.write(tell, text.encode("utf-8", "replace")[:4096])
                os._exit(0 if not text else 1)
        os.close(tell)
        os.close(read if not sends else write)
        self.data, self.word = (read, word) if sends else (write, word)
        self.open = True
        for fd, size in ((self.data, 1 << 20),):
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, 1031, size)  # F_SETPIPE_SZ
            except OSError:
                pass  # a smaller pipe does as well

    def close_data(self) -> None:
        if self.open:
            self.open = False
            os.close(self.data)

    def end(self) -> str:
        """Wait for the end; give the error, or nothing if all went well."""
        self.close_data()
        text = os.read(self.word, 4096).decode("utf-8", "replace")
        os.close(self.word)
        _, status = os.waitpid(self.pid, 0)
        return text or ("" if status == 0 else "the helper process ended with status %d" % status)

    def abort(self) -> None:
        kill(self.pid, signal.SIGKILL)
        self.end()


class Upload:
    """Takes pieces in and feeds them to an unpacking child."""

    def __init__(self, session: "Session", number: int, name: str, digest: "str | None", before: "int | None") -> None:
        self.session, self.number = session, number
        self.buffer, self.complete = bytearray(), False
        self.child = Child(lambda fd: unpack(session.root, session.generation, name, digest, before, fd), sends=False)

    def fds(self) -> dict:
        found = {self.child.word: select.POLLIN}
        if self.buffer and self.child.open:
            found[self.child.data] = select.POLLOUT
        return found

    def piece(self, header: dict, body: bytes) -> None:
        if header.get("end"):
            self.complete = True
        self.buffer += body
        self.feed()

    def feed(self) -> None:
        try:
            while self.buffer and self.child.open:
                del self.buffer[:os.write(self.child.data, memoryview(self.buffer)[:PIECE].tobytes())]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.child.close_data()
        if not self.child.open:
            self.buffer.clear()
        elif self.complete:
            self.child.close_data()

    def ready(self, fd: int) -> None:
        if fd == self.child.word:
            self.session.answer(self.number, self.child.end())
        else:
            self.feed()

    def cancel(self) -> None:
        """Let the child see that the files break off, and remove what it has."""
        self.child.end()


class Fetch:
    """Sends what a child writes, as far as the receiver's window goes."""

    def __init__(self, session: "Session", number: int, window: int, work) -> None:  # type: ignore[no-untyped-def]
        self.session, self.number, self.credit = session, number, window
        self.child = Child(work, sends=True)

    def fds(self) -> dict:
        return {self.child.data: select.POLLIN} if self.credit > FRAME_COST and self.session.relaxed() else {}

    def ready(self, fd: int) -> None:
        data = os.read(fd, min(PIECE, self.credit - FRAME_COST))
        if data:
            self.credit -= FRAME_COST + len(data)
            self.session.send({"id": self.number, "data": True}, data)
        else:
            self.session.answer(self.number, self.child.end())

    def cancel(self) -> None:
        self.child.abort()


class Follow:
    """Sends logs and states as they come. A state that ends a process goes out after all of its log."""

    def __init__(self, session: "Session", number: int, offsets: dict, window: int, idle_interval: float) -> None:
        self.session, self.number, self.offsets, self.credit = session, number, offsets, window
        self.idle_interval, self.told_idle = idle_interval, time.monotonic()
        self.signs: dict = {}  # task key -> times of its signs of life by the node's clock, and since when they have stood, by our own
        self.sent: dict = {}
        self.cache: dict = {}
        self.wakes: dict = {}  # descriptor -> task key: readable when the log has grown, hung up when the supervisor is gone
        self.next, self.pause = 0.0, TICK
        self.samples = False

    def fds(self) -> dict:
        return {fd: select.POLLIN for fd in self.wakes} if self.next - time.monotonic() > TICK or self.pause > TICK else {}

    def ready(self, fd: int) -> None:
        try:
            if not os.read(fd, 4096):  # hung up
                self.cache.pop(self.wakes.pop(fd), None)
                os.close(fd)
        except BlockingIOError:
            pass
        self.pause = TICK
        self.tick()

    def cancel(self) -> None:
        for fd in self.wakes:
            os.close(fd)

    def tasks(self) -> list:
        root = self.session.root
        newest = attempts(root)[-1:]
        named = [Task(root, attempt, name) for attempt, name in self.offsets if [attempt] != newest]
        return [task for task in named if os.path.isdir(task.path)] + (tasks_of(root, newest[0]) if newest else [])

    def state_of(self, task: Task) -> "dict | None":
        """Give a task's state; the lock of a running one is looked at once a second only."""
        key = (task.attempt, task.name)
        try:
            status = os.stat(task.file("state.json"))
        except FileNotFoundError:
            return None
        version = (status.st_ino, status.st_mtime_ns)
        known = self.cache.get(key)
        if not known or known[0] != version or time.monotonic() - known[1] > 1:
            known = self.cache[key] = (version, time.monotonic(), task.state())
            if known[2] and known[2]["state"] == "RUNNING" and key not in self.wakes.values():
                try:
                    self.wakes[os.open(task.file("wake"), os.O_RDONLY | os.O_NONBLOCK)] = key
                except OSError:
                    pass  # the look at every tick does as well
        return known[2]

    def tick(self) -> None:
        moved, done = False, True
        for task in self.tasks():
            key = (task.attempt, task.name)
            state = self.state_of(task)  # before the log: what an ended process wrote is all there
            moved |= self.send_log(task, key)
            if state is None:
                done = False
                continue
            ended = state["state"] in ENDED
            summary = (state["state"], state["pid"])
            if self.sent.get(key) != summary and not (ended and self.offsets.get(key, 0) < task.log_size()):
                if self.credit > FRAME_COST:
                    self.credit -= FRAME_COST
                    self.sent[key] = summary
                    self.session.send({"id": self.number, "state": dict(state, log_size=task.log_size())})
                    moved = True
            done = done and ended and self.sent.get(key) == summary
        if done:
            self.cancel()
            self.session.answer(self.number, "")
        elif self.idle_interval and time.monotonic() - self.told_idle >= self.idle_interval and self.credit > FRAME_COST:
            self.tell_idle()
        self.pause = TICK if moved else min(self.pause * 1.5, IDLE_TICK)
        self.next = time.monotonic() + self.pause

    def tell_idle(self) -> None:
        """Say for how long running processes have given no sign of life, and which of them have a heartbeat."""
        self.told_idle = time.monotonic()
        running = [task for task in self.tasks() if (self.state_of(task) or {}).get("state") == "RUNNING"]
        self.credit -= FRAME_COST
        self.session.send({"id": self.number, "idle": [[task.attempt, task.name, *self.idle(task)] for task in running]})

    def idle(self, task: Task) -> tuple:
        """Give seconds since a process last wrote a line or touched its heartbeat file, and whether it ever did the latter.

        The node's clock may be set at any time, so it is asked once a session only, for what was before.
        """
        now, key = time.monotonic(), (task.attempt, task.name)
        signs = modified(task.file("log")), modified(task.file("heartbeat"))
        known = self.signs.get(key)
        if known is None or known[0] != signs:
            before = 0.0 if known else min(max(0.0, time.time() - max(signs) / 1e9), age((task.saved() or {}).get("supervisor", 0)))
            known = self.signs[key] = (signs, now - before)
        return round(now - known[1], 1), signs[1] > 0

    def send_log(self, task: Task, key: tuple) -> bool:
        offset = self.offsets.setdefault(key, 0)
        if task.log_size() <= offset:
            return False
        with open(task.file("log"), "rb", 0) as log:
            while self.credit > FRAME_COST and self.session.relaxed():
                data = os.pread(log.fileno(), min(PIECE, self.credit - FRAME_COST), offset)
                if not data:
                    break
                times = task.times(offset, offset + len(data))  # after the data: theirs are there
                if times and len(times) > MOST_TIMES:
                    data = data[:times.pop()[0] - offset]
                self.credit -= FRAME_COST + len(data)
                self.session.send({"id": self.number, "log": key, "offset": offset, "times": times}, data)
                offset += len(data)
        self.offsets[key] = offset
        return True


class Session:
    """Serves one SSH connection: requests in, replies and streams out, one thread, nothing blocks for long."""

    def __init__(self) -> None:
        self.root = ""
        self.input, self.output = bytearray(), bytearray(MAGIC)
        self.streams: dict = {}  # number -> Upload, Fetch or Follow
        self.stops: dict = {}
        self.ports: dict = {}
        self.beat = self.stuck = time.monotonic()
        self.options: dict = {}
        self.generation = 0
        self.scope: "Scope | None" = None
        self.sampled, self.cpu = 0.0, cpu_times()
        self.smi: "Child | None" = None

    # frames

    def send(self, header: dict, body: bytes = b"") -> None:
        head = to_json(header).encode()
        if not self.output:
            self.stuck = time.monotonic()
        self.output += struct.pack(">II", len(head), len(body)) + head + body

    def answer(self, number: int, error: str = "", **result: object) -> None:
        """Send the last frame of a request."""
        self.streams.pop(number, None)
        self.send({"id": number, "error": error} if error else {"id": number, "result": result})

    def relaxed(self) -> bool:
        """Tell whether the output has room for more of a stream."""
        return len(self.output) < 4 * PIECE

    def run(self) -> None:
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        while self.turn() and self.housekeeping():
            pass

    def turn(self) -> bool:
        """Wait for something to happen and see to it; False at the end of the input."""
        owners: dict = {fd: (events, stream) for stream in self.streams.values() for fd, events in stream.fds().items()}
        poller = select.poll()
        for fd, (events, _) in owners.items():
            poller.register(fd, events)
        if not any(isinstance(stream, Upload) and len(stream.buffer) > MAX_BODY for stream in self.streams.values()):
            poller.register(0, select.POLLIN)
        if self.output:
            poller.register(1, select.POLLOUT)
        if self.smi:
            poller.register(self.smi.word, select.POLLIN)
        for fd, _ in poller.poll(self.timeout()):
            if fd in owners:
                stream = owners[fd][1]
                if stream in self.streams.values():  # an event before may have ended it
                    stream.ready(fd)
            elif fd == 1:
                self.flush()
            elif fd == 0:
                if not self.take():
                    return False
            elif self.smi:
                self.end_sample()
        return True

    def timeout(self) -> int:
        """Give the milliseconds until something is to be done unasked."""
        times = [self.beat + HEARTBEAT] + [stream.next for stream in self.streams.values() if isinstance(stream, Follow)]
        if self.stops:
            times.append(time.monotonic() + 0.02)
        return max(0, int((min(times) - time.monotonic()) * 1000) + 1)

    def take(self) -> bool:
        try:
            data = os.read(0, 1 << 16)
        except BlockingIOError:
            return True
        self.input += data
        while len(self.input) >= 8:
            head, body = struct.unpack(">II", self.input[:8])
            if head > MAX_HEADER or body > MAX_BODY:
                raise SystemExit("a frame is too large")
            if len(self.input) < 8 + head + body:
                break
            header = from_json(self.input[8:8 + head].decode())
            payload = bytes(self.input[8 + head:8 + head + body])
            del self.input[:8 + head + body]
            self.handle(header, payload)
        return bool(data)

    def flush(self) -> None:
        try:
            del self.output[:os.write(1, memoryview(self.output)[:PIECE].tobytes())]
            self.stuck = time.monotonic()
        except BlockingIOError:
            pass

    def housekeeping(self) -> bool:
        """Do what is due; False when nobody takes our output any more."""
        now = time.monotonic()
        if now - self.beat >= HEARTBEAT:
            self.beat = now
            self.touch()
            if self.output:
                return now - self.stuck < 120
            self.send({"beat": time.time()})
        for number, stop in list(self.stops.items()):
            left = stop.left()
            if not left or now > stop.limit:
                del self.stops[number]
                self.answer(number, "can't be killed: " + ", ".join(task.name for task in left) if left else "")
        follows = [stream for stream in self.streams.values() if isinstance(stream, Follow)]
        for follow in follows:
            if now >= follow.next:
                follow.tick()
        if any(follow.samples for follow in follows) and not self.smi and now - self.sampled >= self.options["sample_interval"]:
            self.begin_sample(now)
        return True

    def touch(self) -> None:
        if self.root:
            try:
                os.utime(os.path.join(self.root, "contact"))  # takes no room
            except FileNotFoundError:
                write_file(os.path.join(self.root, "contact"), b"")

    # samples

    def begin_sample(self, now: float) -> None:
        first, self.sampled = not self.sampled, now
        if first:
            self.cpu = cpu_times()
            return
        path = self.root
        if has_gpu_tool():
            path = os.path.join(path, ".gpu")

            def work(_: int) -> None:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(fd, 1)
                signal.alarm(8)
                os.execvp(GPU_TOOL, [GPU_TOOL, "--query-gpu=index,utilization.gpu,memory.used,memory.total",
                                     "--format=csv,noheader,nounits"])

            self.smi = Child(work, sends=True)
        else:
            self.send_sample([])

    def end_sample(self) -> None:
        if self.smi:
            self.smi.end()
            self.smi = None
            self.send_sample(gpu_rows(read_text(os.path.join(self.root, ".gpu"))))

    def send_sample(self, gpus: list) -> None:
        busy, total = cpu_times()
        share = (busy - self.cpu[0]) / max(1, total - self.cpu[1])
        self.cpu = busy, total
        used, size = memory()
        sample = {"at": time.time(), "cpu_percent": round(100 * share, 1), "memory_used": used, "memory_total": size, "gpus": gpus}
        for stream in self.streams.values():
            if isinstance(stream, Follow) and stream.samples and stream.credit > FRAME_COST:
                stream.credit -= FRAME_COST
                self.send({"id": stream.number, "sample": sample})

    # requests

    def handle(self, header: dict, body: bytes) -> None:
        number, op = header["id"], header["op"]
        stream = self.streams.get(number)
        if op == "credit":
            if stream:
                stream.credit += header["bytes"]
        elif op == "piece":
            if stream:
                stream.piece(header, body)
        elif op == "cancel":
            if stream:
                stream.cancel()
                self.answer(number)
        else:
            try:
                if op not in LOOKING:
                    with Change(self.root, self.generation):
                        pass  # what takes longer asks again when it takes effect
                getattr(self, "do_" + op)(number, header, body)
            except Refused as error:
                self.answer(number, str(error))
            except (OSError, ValueError) as error:
                self.answer(number, "%s: %s" % (op, error))

    def do_hello(self, number: int, header: dict, body: bytes) -> None:
        self.root = os.path.join(os.path.expanduser("~"), header["root"])
        self.options = header["options"]
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.root = os.path.realpath(self.root)
        self.generation = header["generation"]
        try:
            with Change(self.root, self.generation) as change:
                change.begin()
        except Refused:
            pass  # it may still look
        self.touch()
        self.answer(number, protocol=PROTOCOL, python=sys.version.split()[0], root=self.root, boot_id=boot_id(),
                    cpus=os.cpu_count() or 0, memory=memory()[1], user=os.getuid(), pid=os.getpid(), now=time.time())
        self.flush()
        self.scope = Scope(service_manager())  # will be there by the time that something is to be started

    def do_upload(self, number: int, header: dict, body: bytes) -> None:
        name, digest = header["name"], header["digest"]
        if digest and read_text(digest_file(self.root, name)) == digest and os.path.isdir(inside(self.root, name, "name")):
            self.answer(number, have=True)
        else:
            self.streams[number] = Upload(self, number, name, digest, header.get("before"))
            self.send({"id": number, "go": True})

    def do_write(self, number: int, header: dict, body: bytes) -> None:
        path = inside(self.root, header["name"], "name")
        with Change(self.root, self.generation):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_file(path, body, header["mode"])
        self.answer(number)

    def do_ports(self, number: int, header: dict, body: bytes) -> None:
        self.answer(number, ports=[self.hold_port() for _ in range(header["count"])])

    def hold_port(self) -> int:
        """Bind a free port on all addresses, outside of the range that the kernel gives to outgoing connections."""
        low, high = ([int(word) for word in read_text("/proc/sys/net/ipv4/ip_local_port_range").split()] or [32768, 60999])[:2]
        choice = [port for port in range(10000, 32000) if not low <= port <= high] or range(10000, 32000)
        for _ in range(10000):
            port = choice[int.from_bytes(os.urandom(4), "big") % len(choice)]
            held = bind(port)
            if held:
                self.ports[port] = held
                return port
        raise Refused("there is no free port")

    def do_gpus(self, number: int, header: dict, body: bytes) -> None:
        self.streams[number] = Fetch(self, number, header["window"], count_gpus)

    def do_start(self, number: int, header: dict, body: bytes) -> None:
        spec = from_json(body.decode())
        for port in list(self.ports) if spec["ports"] is None else spec["ports"]:
            held = self.ports.pop(port, None)
            if held:
                held.close()
        spec.update(max_log=self.options["max_log"], power_off_after=self.options["power_off_after"])
        if self.scope:
            self.scope.enter()
        self.answer(number, started=start(self.root, self.generation, spec))

    def do_processes(self, number: int, header: dict, body: bytes) -> None:
        states = [task.state() for task in all_tasks(self.root)]
        self.answer(number, processes=[state for state in states if state])

    def do_follow(self, number: int, header: dict, body: bytes) -> None:
        offsets = {(attempt, check_name(name, "task")): offset for attempt, name, offset in header["offsets"]}
        self.streams[number] = follow = Follow(self, number, offsets, header["window"], header["idle_interval"])
        follow.samples = header["samples"]
        follow.tick()

    def do_stop(self, number: int, header: dict, body: bytes) -> None:
        self.stops[number] = Stop(self.root, self.generation, header["attempt"], header["grace"], header["tasks"], header["dump"])

    def do_fetch(self, number: int, header: dict, body: bytes) -> None:
        name = header["name"]
        if self.empty(name):
            # Two empty blocks are the end of a tar.
            self.send({"id": number, "data": True}, bytes(1024))
            self.answer(number)
        else:
            self.streams[number] = Fetch(self, number, header["window"], lambda fd: pack(self.root, name, self.options["max_files"], fd))

    def empty(self, name: str) -> bool:
        """Tell whether a directory has nothing in it: the usual case on most nodes of a job, and no child is needed for that."""
        path = inside(self.root, name, "name")
        return not os.path.isdir(path) or not os.listdir(path)

    def do_snapshot(self, number: int, header: dict, body: bytes) -> None:
        name, most, hold = header["name"], header["most"], header["hold"]
        if self.empty(name):
            self.send({"id": number, "data": True}, to_json({"snapshot": ""}).encode() + b"\n")
            self.answer(number)
        else:
            self.streams[number] = Fetch(self, number, header["window"], lambda fd: snapshot(self.root, name, most, hold, fd))

    def do_pick(self, number: int, header: dict, body: bytes) -> None:
        ident, ranges = header["snapshot"], from_json(body.decode())
        self.streams[number] = Fetch(self, number, header["window"], lambda fd: pick(self.root, ident, ranges, fd))

    def do_release(self, number: int, header: dict, body: bytes) -> None:
        self.streams[number] = Fetch(self, number, header["window"], lambda fd: release(self.root))


def bind(port: int) -> "socket.socket | None":
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            held = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a kernel without IPv6
        try:
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            held.bind((address, port))
            return held
        except OSError as error:
            held.close()
            if error.errno == errno.EADDRINUSE:
                return None
    return None


if __name__ == "__main__":
    Session().run()
