"""What a worker may ask a session for."""

import os
import sys
import time

from cml_nova.remote.runner.archive import pack, unpack
from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.fencing import Change
from cml_nova.remote.runner.files import read_text, write_file
from cml_nova.remote.runner.follow import Follow
from cml_nova.remote.runner.framing import PROTOCOL, Connection
from cml_nova.remote.runner.gpus import count_gpus
from cml_nova.remote.runner.paths import check_name, digest_file, inside
from cml_nova.remote.runner.ports import Ports
from cml_nova.remote.runner.processes import boot_id
from cml_nova.remote.runner.samples import memory
from cml_nova.remote.runner.scopes import Scope, service_manager
from cml_nova.remote.runner.serialization import from_json, to_json
from cml_nova.remote.runner.snapshots import pick, release, snapshot
from cml_nova.remote.runner.start import start
from cml_nova.remote.runner.stop import Stop
from cml_nova.remote.runner.tasks import all_tasks
from cml_nova.remote.runner.transfers import Fetch, Upload

#: what may be asked by a session whose worker has lost the job, because it changes nothing
LOOKING = ("hello", "processes", "follow", "fetch", "gpus")


class Requests:
    """The requests of one session, and what is kept of them: ``do_<op>`` begins each, and sends its answer or leaves that to a stream.

    :ivar root: the directory of all that is the job's; empty before the worker's greeting.
    :ivar generation: in which the session's worker holds the job.
    :ivar stops: number of a request -> the stop that is on its way.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.root = ""
        self.options: dict = {}
        self.generation = 0
        self.stops: dict = {}
        self.ports = Ports()
        self.scope: "Scope | None" = None

    def touch(self) -> None:
        """Leave word that a session is there."""
        if self.root:
            try:
                os.utime(os.path.join(self.root, "contact"))  # takes no room
            except FileNotFoundError:
                write_file(os.path.join(self.root, "contact"), b"")

    def end_stops(self, now: float) -> None:
        """Answer for those that have done their work, or had time enough."""
        for number, stop in list(self.stops.items()):
            left = stop.left()
            if not left or now > stop.limit:
                del self.stops[number]
                self.connection.answer(number, "can't be killed: " + ", ".join(task.name for task in left) if left else "")

    def handle(self, header: dict, body: bytes) -> None:
        """See to one frame of the worker's: it begins a request, or is about one that is under way."""
        number, op = header["id"], header["op"]
        stream = self.connection.streams.get(number)
        if op == "credit":
            if stream:
                stream.credit += header["bytes"]
        elif op == "piece":
            if stream:
                stream.piece(header, body)
        elif op == "cancel":
            if stream:
                stream.cancel()
                self.connection.answer(number)
        else:
            try:
                if op not in LOOKING:
                    with Change(self.root, self.generation):
                        pass  # what takes longer asks again when it takes effect
                getattr(self, "do_" + op)(number, header, body)
            except Refused as error:
                self.connection.answer(number, str(error))
            except (OSError, ValueError) as error:
                self.connection.answer(number, "%s: %s" % (op, error))

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
        self.connection.answer(number, protocol=PROTOCOL, python=sys.version.split()[0], root=self.root, boot_id=boot_id(),
                               cpus=os.cpu_count() or 0, memory=memory()[1], user=os.getuid(), pid=os.getpid(), now=time.time())
        self.connection.flush()
        self.scope = Scope(service_manager())  # will be there by the time that something is to be started

    def do_upload(self, number: int, header: dict, body: bytes) -> None:
        name, digest = header["name"], header["digest"]
        if digest and read_text(digest_file(self.root, name)) == digest and os.path.isdir(inside(self.root, name, "name")):
            self.connection.answer(number, have=True)
        else:
            before = header.get("before")
            self.connection.streams[number] = Upload(
                self.connection, number, lambda fd: unpack(self.root, self.generation, name, digest, before, fd))
            self.connection.send({"id": number, "go": True})

    def do_write(self, number: int, header: dict, body: bytes) -> None:
        path = inside(self.root, header["name"], "name")
        with Change(self.root, self.generation):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_file(path, body, header["mode"])
        self.connection.answer(number)

    def do_ports(self, number: int, header: dict, body: bytes) -> None:
        self.connection.answer(number, ports=[self.ports.hold() for _ in range(header["count"])])

    def do_gpus(self, number: int, header: dict, body: bytes) -> None:
        self.send_from(number, header, count_gpus)

    def do_start(self, number: int, header: dict, body: bytes) -> None:
        spec = from_json(body.decode())
        self.ports.let_go(spec["ports"])
        spec.update(max_log=self.options["max_log"], power_off_after=self.options["power_off_after"])
        if self.scope:
            self.scope.enter()
        self.connection.answer(number, started=start(self.root, self.generation, spec))

    def do_processes(self, number: int, header: dict, body: bytes) -> None:
        states = [task.state() for task in all_tasks(self.root)]
        self.connection.answer(number, processes=[state for state in states if state])

    def do_follow(self, number: int, header: dict, body: bytes) -> None:
        offsets = {(attempt, check_name(name, "task")): offset for attempt, name, offset in header["offsets"]}
        follow = Follow(self.connection, number, self.root, offsets, header["window"], header["idle_interval"])
        follow.samples = header["samples"]
        self.connection.streams[number] = follow
        follow.tick()

    def do_stop(self, number: int, header: dict, body: bytes) -> None:
        self.stops[number] = Stop(self.root, self.generation, header["attempt"], header["grace"], header["tasks"], header["dump"])

    def do_fetch(self, number: int, header: dict, body: bytes) -> None:
        name = header["name"]
        if self.empty(name):
            # Two empty blocks are the end of a tar.
            self.connection.send({"id": number, "data": True}, bytes(1024))
            self.connection.answer(number)
        else:
            self.send_from(number, header, lambda fd: pack(self.root, name, self.options["max_files"], fd))

    def send_from(self, number: int, header: dict, work) -> None:  # type: ignore[no-untyped-def]
        """Answer with what ``work(fd)`` writes in a child, as far as the worker's window goes."""
        self.connection.streams[number] = Fetch(self.connection, number, header["window"], work)

    def empty(self, name: str) -> bool:
        """Tell whether a directory has nothing in it: the usual case on most nodes of a job, and no child is needed for that."""
        path = inside(self.root, name, "name")
        return not os.path.isdir(path) or not os.listdir(path)

    def do_snapshot(self, number: int, header: dict, body: bytes) -> None:
        name, most, hold = header["name"], header["most"], header["hold"]
        if self.empty(name):
            self.connection.send({"id": number, "data": True}, to_json({"snapshot": ""}).encode() + b"\n")
            self.connection.answer(number)
        else:
            self.send_from(number, header, lambda fd: snapshot(self.root, name, most, hold, fd))

    def do_pick(self, number: int, header: dict, body: bytes) -> None:
        ident, ranges = header["snapshot"], from_json(body.decode())
        self.send_from(number, header, lambda fd: pick(self.root, ident, ranges, fd))

    def do_release(self, number: int, header: dict, body: bytes) -> None:
        self.send_from(number, header, lambda fd: release(self.root))
