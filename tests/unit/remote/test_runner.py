"""The runner's own functions, on directories of ours."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jeepney
import pytest

from cml_nova.remote import archive, runner
from cml_nova.remote.session import COMMAND


def test_it_is_python_3_6_and_standard_library_only() -> None:
    tree = ast.parse(Path(runner.__file__).read_text(), feature_version=(3, 6))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)]
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    new_methods = {"removeprefix", "removesuffix", "waitstatus_to_exitcode", "isascii", "pidfd_open", "capture_output"}
    assert not [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in new_methods]


def test_the_start_costs_no_heavy_modules() -> None:
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r}); import runner; "
         "print(*sys.modules)"], capture_output=True, text=True, check=True)
    assert not {"subprocess", "tarfile", "hashlib", "ctypes", "threading", "argparse", "shutil", "typing"} & set(done.stdout.split())


@pytest.mark.parametrize("without", ["", "call_function"])
def test_a_process_option_is_set(without: str) -> None:
    forget = f"import _ctypes; del _ctypes.{without}; " if without else ""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r}); import runner; {forget}"
         "print(runner.prctl(runner.PR_SET_CHILD_SUBREAPER, 1), 'ctypes' in sys.modules)"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", str(bool(without))]


def test_the_request_for_a_scope_is_as_the_bus_wants_it() -> None:
    parser = jeepney.Parser()
    [message] = parser.feed(runner.scope_request("cml-1-worker-0-77.scope", 77))
    fields = jeepney.HeaderFields
    assert message.header.message_type is jeepney.MessageType.method_call
    assert message.header.fields == {
        fields.path: "/org/freedesktop/systemd1", fields.interface: "org.freedesktop.systemd1.Manager",
        fields.member: "StartTransientUnit", fields.signature: "ssa(sv)a(sa(sv))"}
    name, mode, properties, others = message.body
    assert (name, mode, others) == ("cml-1-worker-0-77.scope", "fail", [])
    assert dict(properties) == {
        "PIDs": ("au", [77]), "Description": ("s", "training process of cml_nova"), "TasksMax": ("t", 2 ** 64 - 1),
        "Delegate": ("b", True), "CollectMode": ("s", "inactive-or-failed")}


def test_the_command_is_one_line_for_any_shell() -> None:
    assert "\n" not in COMMAND
    assert COMMAND.count("'") == 2


@pytest.mark.parametrize("name", ["worker:0", "ps:12", "a", "A-b_c.d"])
def test_good_names(name: str) -> None:
    assert runner.check_name(name, "task") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a b", "a\n", "é", "x" * 129, None, 5])
def test_bad_names(name: object) -> None:
    with pytest.raises(runner.Refused):
        runner.check_name(name, "task")


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", "./a", "a\0b", None])
def test_paths_stay_below_the_root(name: object) -> None:
    assert runner.inside("/r", "a/b", "name") == "/r/a/b"
    with pytest.raises(runner.Refused):
        runner.inside("/r", name, "name")


def saved(root: Path, **fields: object) -> runner.Task:
    task = runner.Task(str(root), 1, "worker:0")
    os.makedirs(task.path, exist_ok=True)
    state = {"attempt": 1, "task": "worker:0", "state": "RUNNING", "boot_id": runner.boot_id(), "pid": 5, **fields}
    runner.write_file(task.file("state.json"), json.dumps(state).encode())
    return task


def test_a_state_is_running_only_while_its_supervisor_lives(tmp_path: Path) -> None:
    task = saved(tmp_path)
    held = task.lock()
    assert held >= 0
    assert (task.state()["state"], task.alive()) == ("RUNNING", True)
    os.close(held)
    assert (task.state()["state"], task.state()["reason"], task.alive()) == ("LOST", "its supervisor was killed", False)
    assert saved(tmp_path, boot_id="x").state()["reason"] == "the machine was restarted"
    assert saved(tmp_path, state="EXITED").state()["state"] == "EXITED"
    Path(task.file("state.json")).write_text('{"attempt":')
    assert (task.state()["state"], task.state()["reason"]) == ("LOST", "its state file is damaged")


def test_a_task_that_never_started_may_be_started(tmp_path: Path) -> None:
    task = runner.Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)  # a session was killed here
    assert (task.state(), task.alive()) == (None, False)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    runner.write_file(str(path), b"one", 0o644)
    runner.write_file(str(path), b"two", 0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def packed(root: Path, name: str) -> tarfile.TarFile:
    with open(root / "tar", "wb") as file:
        runner.pack(str(root), name, 1000, file.fileno())
    return tarfile.open(fileobj=io.BytesIO((root / "tar").read_bytes()))


def test_packing_takes_files_and_what_links_inside_mean(tmp_path: Path) -> None:
    top = tmp_path / "output"
    (top / "deep").mkdir(parents=True)
    (top / "deep" / ("n" * 150)).write_bytes(b"1" * 1000)
    (top / "empty").touch()
    (top / "inner").symlink_to("empty")
    (top / "outer").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo")
    with packed(tmp_path, "output") as tar:
        assert {member.name: member.size for member in tar} == {"empty": 0, "inner": 0, "deep/" + "n" * 150: 1000}
    with packed(tmp_path, "missing") as tar:
        assert tar.getnames() == []


def test_a_file_that_shrinks_while_it_is_packed_keeps_the_archive_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123")
    with open(path, "rb") as source, open(tmp_path / "tar", "wb") as sink:
        status = os.stat_result([0o100644, 0, 0, 1, 0, 0, 2000, 0, 0, 0])
        runner.pack_file(sink.fileno(), source.fileno(), status, "file")
        runner.write_all(sink.fileno(), bytes(1024))
    with tarfile.open(tmp_path / "tar") as tar:
        assert tar.extractfile("file").read() == b"123" + bytes(1997)


Member = tuple[dict[str, object], bytes]


def upload(root: Path, *members: Member, end: bool = True) -> None:
    with open(root / "in", "wb") as file:
        for fields, content in members:
            header = json.dumps({**fields, "size": len(content)}).encode()
            file.write(struct.pack(">I", len(header)) + header + content)
        file.write(bytes(4 if end else 0))
    with open(root / "in", "rb") as file:
        runner.unpack(str(root), 0, "source", None, None, file.fileno())


def member(name: str, kind: str = "file", target: str = "", content: bytes = b"") -> Member:
    return {"type": kind, "name": name, "target": target, "mode": 0o4755, "mtime_ns": 1_500_000_000}, content


def test_unpacking_replaces_the_directory(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/old").touch()
    upload(tmp_path, member("./a/b.py", content=b"1"), member("link", "link", "a/b.py"), member("dir", "directory"))
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == ["a", "dir", "link"]
    assert (tmp_path / "source/link").read_bytes() == b"1"
    assert (tmp_path / "source/a/b.py").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("members", [
    [member("../x")], [member("/x")], [member("a/../../x")], [member("l", "link", "/etc")], [member("l", "link", "../..")],
    [member("d", "link", "."), member("d/l", "link", "../.."), member("d/l/x")], [member("h", "hard link", "x")],
])
def test_an_archive_that_leads_elsewhere_changes_nothing(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    root = tmp_path / "root"
    (root / "source").mkdir(parents=True)
    (root / "source/kept").touch()
    with pytest.raises(runner.Refused):
        upload(root, *members)
    assert sorted(path.name for path in root.iterdir()) == ["in", "source"]
    assert [path.name for path in (root / "source").iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_files_that_break_off_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(runner.Refused, match="break off"):
        upload(tmp_path, member("a", content=b"1"), end=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "source"]
    assert not list((tmp_path / "source").iterdir())


def test_a_package_arrives_as_it_was(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    with tarfile.open(tmp_path / "package", "w:gz") as tar:
        for name, kind, data in (("./a/b.py", tarfile.REGTYPE, content), ("d", tarfile.DIRTYPE, b""), ("l", tarfile.SYMTYPE, b"")):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(data), "a/b.py" if kind == tarfile.SYMTYPE else "", 0o750
            tar.addfile(info, io.BytesIO(data))
    package = (tmp_path / "package").read_bytes()
    (tmp_path / "in").write_bytes(b"".join(archive.gathered(archive.members([package], hashlib.sha256(package).hexdigest()), 1000)))
    with open(tmp_path / "in", "rb") as file:
        runner.unpack(str(tmp_path), 0, "source", None, None, file.fileno())
    assert (tmp_path / "source/l").read_bytes() == content
    assert (tmp_path / "source/d").is_dir()
    assert (tmp_path / "source/a/b.py").stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize("name", ["a", "deep/" + "n" * 93, "deep/" + "n" * 95, "\u00e9" * 60, "line\nbreak"])
def test_headers_are_those_of_tarfile(name: str) -> None:
    header = runner.tar_header(name, 1000, 1700000000, 0o640)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(2048)), encoding="utf-8") as tar:
        info = tar.next()
    assert (info.name, info.size, info.mtime, info.mode, info.isreg()) == (name, 1000, 1700000000, 0o640, True)


def test_nvidia_smi_is_read() -> None:
    text = "0, 35, 1024, 40960\n1, [N/A], [N/A], 40960\nFailed to initialize NVML\n"
    assert runner.gpu_rows(text) == [
        {"index": 0, "utilization": 35.0, "memory_used": 1 << 30, "memory_total": 40 << 30},
        {"index": 1, "utilization": None, "memory_used": None, "memory_total": 40 << 30}]


def test_the_machine_is_read() -> None:
    busy, total = runner.cpu_times()
    assert 0 < busy < total
    used, size = runner.memory()
    assert 0 < used < size
    assert runner.start_ticks(os.getpid()) > 0
    assert runner.start_ticks(4_000_000) == 0


def test_descendants_are_found_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    try:
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= set(runner.descendants(os.getpid()))
        monkeypatch.setattr(os.path, "exists", lambda path: False)  # a kernel without the list of children
        assert {child.pid, grandchild} <= set(runner.descendants(os.getpid()))
    finally:
        runner.kill_all(lambda: runner.descendants(os.getpid()))
        child.wait()
        child.stdout.close()


def test_too_many_files_are_refused_before_the_first_one_goes(tmp_path: Path) -> None:
    (tmp_path / "output" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/c"):
        (tmp_path / "output" / name).touch()
    runner.check_number_of_files(str(tmp_path / "output"), 3)
    read, write = os.pipe()
    with pytest.raises(runner.Refused, match="more than 2 files"):
        runner.pack(str(tmp_path), "output", 2, write)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[runner.Supervisor]:
    """A supervisor without a process, whose log has a limit of 100 bytes."""
    monkeypatch.setattr(runner, "prctl", lambda *_: True)
    task = runner.Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)
    found = runner.Supervisor(str(tmp_path), task, {"max_log": 100}, {})
    found.wake, found.log, found.times = (os.open(task.file(name), os.O_WRONLY | os.O_CREAT) for name in ("wake", "log", "times"))
    found.put_by()
    yield found
    for fd in (found.log, found.wake, found.times):
        os.close(fd)


def test_a_log_says_what_a_full_disk_has_cost_it(supervisor: runner.Supervisor) -> None:
    good, supervisor.log = supervisor.log, os.open("/dev/full", os.O_WRONLY)
    supervisor.keep(b"lost")
    supervisor.keep(b"lost too")
    os.close(supervisor.log)
    supervisor.log = good
    supervisor.keep(b"kept\n")
    assert Path(supervisor.task.file("log")).read_bytes() == (
        b"\ncml: 12 bytes of output are missing here: [Errno 28] No space left on device\nkept\n")
    assert supervisor.state["log_truncated"] is True
    assert supervisor.state["log_error"] == "[Errno 28] No space left on device"


def test_the_times_of_a_log_share_records_and_say_how_old_its_parts_are(
        supervisor: runner.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    for at, line in ((1000.0, b"a\n"), (1000.05, b"b\n"), (1000.2, b"c\n"), (1007.0, b"d\n")):
        now[0] = at
        supervisor.keep(line)
    now[0] = 1010.0
    assert supervisor.task.times(0, 8) == [[0, 10.0], [4, 9.8], [6, 3.0]], "b came in the same moment as a"
    assert supervisor.task.times(1, 6) == [[4, 9.8]]
    os.truncate(supervisor.task.file("times"), 40)
    assert supervisor.task.times(0, 8) == [[0, 10.0], [4, 9.8]], "a torn one is none"
    os.unlink(supervisor.task.file("times"))
    assert supervisor.task.times(0, 8) is None


def test_times_where_the_disk_was_full(supervisor: runner.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    good, supervisor.times = supervisor.times, os.open("/dev/full", os.O_WRONLY)
    supervisor.keep(b"a\n")
    os.close(supervisor.times)
    supervisor.times = good
    log, supervisor.log = supervisor.log, os.open(supervisor.task.file("log"), os.O_RDONLY)
    for now[0] in (1001.0, 1002.0):
        supervisor.keep(b"no room\n")
    os.close(supervisor.log)
    supervisor.log = log
    now[0] = 1003.0
    supervisor.keep(b"b\n")
    assert [place for place, _ in supervisor.task.times(0, 100) or ()] == [2], "one for what came at last"


def test_what_is_sent_of_a_log_has_few_times_a_frame(supervisor: runner.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_TIMES", 2)
    now = [1000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    for _ in range(5):
        supervisor.keep(b"x\n")
        now[0] += 1
    sent: list[tuple[dict[str, Any], bytes]] = []
    session = SimpleNamespace(relaxed=lambda: True, send=lambda header, body: sent.append((header, body)))
    follow = runner.Follow(session, 7, {}, 1 << 20, 0)  # type: ignore[arg-type]
    assert follow.send_log(supervisor.task, (1, "worker:0"))
    assert [(header["offset"], header["times"], body) for header, body in sent] == [
        (0, [[0, 5.0], [2, 4.0]], b"x\nx\n"), (4, [[4, 3.0], [6, 2.0]], b"x\nx\n"), (8, [[8, 1.0]], b"x\n")]


def test_the_last_lines_find_room_on_a_full_disk(supervisor: runner.Supervisor) -> None:
    good, supervisor.log = supervisor.log, os.open("/dev/full", os.O_WRONLY)
    supervisor.keep(b"why it failed\n")
    os.close(supervisor.log)
    supervisor.log = good
    supervisor.keep_the_rest()
    assert Path(supervisor.task.file("log")).read_bytes() == b"why it failed\n"
    assert not os.path.exists(supervisor.task.file("reserve.log"))


def test_a_log_at_its_limit_is_marked_once_and_what_is_printed_then_is_a_sign_of_life(supervisor: runner.Supervisor) -> None:
    supervisor.keep(b"x" * 99)
    supervisor.keep(b"y" * 50)
    supervisor.keep(b"z")
    log = Path(supervisor.task.file("log"))
    assert log.read_bytes() == b"x" * 99 + b"y" + b"\ncml: the log has reached its limit of 100 bytes; the rest is not kept\n"
    os.utime(log, (0, 0))
    supervisor.woke = 0.0
    supervisor.keep(b"more")
    assert log.stat().st_mtime > 0


def test_a_state_is_written_although_there_is_no_room_for_a_new_file(
        supervisor: runner.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    supervisor.save(state="RUNNING")
    monkeypatch.setattr(runner, "write_file", full)
    for number in range(2):
        supervisor.save(exit_code=number)
        saved = supervisor.task.saved()
        assert saved is not None and saved["exit_code"] == number
    with pytest.raises(OSError, match="No space left"):
        supervisor.save(exit_code=3)


def test_a_stop_is_obeyed_once_and_one_that_is_being_written_not_yet(
        supervisor: runner.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(supervisor, "begin_stop", lambda **wanted: asked.append(wanted))
    for text in ("", '{"grace": 5, "du', '{"grace": 5, "dump": false}', '{"grace": 5, "dump": false}', '{"grace": 0, "dump": true}'):
        supervisor.obey(text)
    assert asked == [{"grace": 5, "dump": False}, {"grace": 0, "dump": True}]


def test_where_processes_are_is_told() -> None:
    told = runner.whereabouts([os.getpid(), 2 ** 22 + 1])
    assert re.search(rf"cml: process {os.getpid()}, thread {os.getpid()} \(.*\): R \(running\), in ", told)


def test_silence_is_measured_between_looks_and_not_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = runner.Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)
    log, heartbeat = Path(task.file("log")), Path(task.file("heartbeat"))
    log.touch()
    runner.write_file(task.file("state.json"), runner.to_json({"state": "RUNNING", "supervisor": os.getpid()}).encode())
    clock = [1000.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])
    follow = runner.Follow(None, 1, {}, 0, 5)  # type: ignore[arg-type]
    os.utime(log, (0, 0))
    first, beats = follow.idle(task)
    assert 0 < first <= runner.age(os.getpid()) + 0.1 and not beats, "no longer than the process lives, whatever the clock says"
    clock[0] += 30
    assert follow.idle(task)[0] == pytest.approx(first + 30, abs=0.2)
    os.utime(log, (2 ** 31, 2 ** 31))
    assert follow.idle(task) == (0.0, False), "a new line, be its time in the future"
    clock[0] += 7
    assert follow.idle(task) == (7.0, False)
    heartbeat.touch()
    assert follow.idle(task) == (0.0, True)
