"""What is made of saved checkpoints at a job's end, and what users are told of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.storage.file import FileStorage
from cml_nova.worker.checkpoints import Checkpoint, File, Store
from cml_nova.worker.saving import Saver, adopt, rescue, told_of_restore
from cml_nova.worker.work import Work


@pytest.fixture
def work(tmp_path: Path) -> Any:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf.set_override("path", str(tmp_path), group="storage")
    nodes = [{"rank": rank, "role": "worker", "index": rank} for rank in range(3)]
    job = SimpleNamespace(id="j", attempt=2, runtime={}, nodes=nodes, spec={})
    return SimpleNamespace(job=job, lease=SimpleNamespace(generation=4), tools=SimpleNamespace(storage=FileStorage(conf)))


def save(work: Any) -> None:
    store = Store(work.tools.storage, "j", 4)
    for key in ("3/a/0", "4/b/0", "4/b/1"):
        store.put(key, iter([key.encode()]))
    checkpoint = Checkpoint("4/b", 2, time.time() - 7, base={"old": File(5, 1, "3/a/0"), "gone": File(5, 1, "3/a/0")},
                            written={0: {"x": File(5, 2, "4/b/0")}, 1: {"d/y": File(5, 2, "4/b/1")}}, deleted={1: frozenset({"gone"})})
    store.save(checkpoint)
    work.job.runtime["checkpoint"] = checkpoint.summary()


def artifacts(work: Any) -> dict[str, bytes]:
    storage = work.tools.storage
    return {entry.key.removeprefix("jobs/j/artifacts/"): storage.read(entry.key, 0, 100) for entry in storage.list("jobs/j/artifacts")}


def test_copies_on_lost_nodes_are_taken_from_what_was_saved(work: Any) -> None:
    save(work)
    told = rescue(cast(Work, work), [1, 2])
    assert told == "In place of the checkpoints there is what was saved of them: 3 files, 15 bytes, saved 7 seconds ago in attempt 2."
    assert artifacts(work) == {
        "checkpoints/worker-1/old": b"3/a/0", "checkpoints/worker-1/d/y": b"4/b/1",
        "checkpoints/worker-2/old": b"3/a/0", "checkpoints/worker-2/gone": b"3/a/0",
    }


@pytest.mark.parametrize(("known", "has"), [
    ({}, True), ({"attempt": 1}, False), ({"files": 0}, False), (None, False)])
def test_what_was_saved_in_this_attempt_needs_no_question(work: Any, known: dict[str, Any] | None, has: bool) -> None:
    """What an attempt was only given may have been deleted by it since."""
    work.conf = cfg.ConfigOpts()
    cml_conf.register_opts(work.conf)
    work.conf([])
    if known is not None:
        save(work)
        work.job.runtime["checkpoint"] |= known
    assert Saver(work, cast(Any, None), lambda **report: None).has_saved() is has


def test_nothing_saved_is_nothing_to_take(work: Any) -> None:
    assert rescue(cast(Work, work), [1]) == ""
    save(work)
    assert rescue(cast(Work, work), []) == ""
    assert artifacts(work) == {}


def test_attempt_says_from_what_it_goes_on(work: Any) -> None:
    assert "from the beginning" in told_of_restore(cast(Work, work), 3, {})[1]
    save(work)
    kind, message, detail = told_of_restore(cast(Work, work), 3, {0: False, 1: True, 2: False})
    assert kind == "checkpoint"
    assert message == "Attempt 3 goes on from the checkpoint: 3 files, 15 bytes, saved 7 seconds ago in attempt 2. It was sent to node 1."
    assert detail.pop("age") == pytest.approx(7, abs=0.5)
    assert detail == {"attempt": 3, "saved_in": 2, "files": 3, "bytes": 15, "sent_to": [1]}
    assert told_of_restore(cast(Work, work), 3, {0: True, 1: True})[1].endswith("It was sent to all nodes.")
    assert told_of_restore(cast(Work, work), 3, {0: False})[1].endswith("in attempt 2.")


def restart(work: Any) -> Any:
    """Make of a job with a saved checkpoint one that goes on from it."""
    save(work)
    checkpoint = work.job.runtime["checkpoint"]
    return SimpleNamespace(
        job=SimpleNamespace(id="k", attempt=0, runtime={}, nodes=work.job.nodes, spec={"restart": {"job": "j", "checkpoint": checkpoint}}),
        lease=SimpleNamespace(generation=1), tools=work.tools)


def test_a_restart_has_a_copy_of_the_checkpoint_of_its_own(work: Any) -> None:
    again = restart(work)
    adopted = adopt(cast(Work, again), threading.Event())
    assert adopted is not None
    work.tools.storage.delete("jobs/j")
    store = Store(work.tools.storage, "k", 1)
    assert store.load(adopted.id) == adopted
    assert {path: b"".join(store.content(file)) for path, file in adopted.files.items()} == {
        "old": b"3/a/0", "x": b"4/b/0", "d/y": b"4/b/1"}
    assert {path: file.version for path, file in adopted.files.items()} == {"old": (5, 1), "x": (5, 2), "d/y": (5, 2)}
    assert adopted.for_attempt(1).base == adopted.files
    again.job.runtime["checkpoint"] = adopted.summary()
    assert "3 files, 15 bytes, saved 7 seconds ago by the job that was restarted. It was sent" in told_of_restore(again, 1, {0: True})[1]


def test_a_checkpoint_is_adopted_once(work: Any) -> None:
    again = restart(work)
    again.job.runtime["checkpoint"] = {"id": "1/own"}
    assert adopt(cast(Work, again), threading.Event()) is None
    again.job.runtime, again.job.attempt = {}, 1
    assert adopt(cast(Work, again), threading.Event()) is None
    again.job.attempt, again.job.spec["restart"]["checkpoint"] = 0, None
    assert adopt(cast(Work, again), threading.Event()) is None


def test_a_checkpoint_that_was_deleted_meanwhile(work: Any) -> None:
    again = restart(work)
    work.tools.storage.delete("jobs/j")
    with pytest.raises(FileNotFoundError):
        adopt(cast(Work, again), threading.Event())


def test_a_job_that_is_not_wanted_any_more_adopts_nothing(work: Any) -> None:
    again, stop = restart(work), threading.Event()
    stop.set()
    with pytest.raises(exception.RemoteError):
        adopt(cast(Work, again), stop)
