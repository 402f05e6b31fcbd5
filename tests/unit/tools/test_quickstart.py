"""The parts of tools/quickstart that need no daemons."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[3] / "tools" / "lib"


@pytest.fixture(autouse=True)
def _lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(LIB), *sys.path])


@pytest.mark.parametrize(("argv", "word"), [
    (["--workers", "0"], "0 workers"),
    (["--workers", "9"], "1 to 8"),
    (["--port", "70000"], "70000 is no port"),
    (["--port", "9000", "--cloud-port", "9000"], "must be different"),
    (["--framework", "mxnet", "--strategy", "ps"], "TensorFlow"),
    (["--framework", "caffe"], "caffe"),
])
def test_wrong_options_are_refused_with_a_reason(argv: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    import quickstart_options
    with pytest.raises(SystemExit) as refused:
        quickstart_options.parse(argv)
    assert refused.value.code == 2
    assert word in capsys.readouterr().err


def test_the_same_files_make_the_same_package(tmp_path: Path) -> None:
    import quickstart
    (tmp_path / "train.py").write_text("print(1)")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "train.pyc").write_bytes(b"x")
    first = quickstart.pack(tmp_path)
    os.utime(tmp_path / "train.py", (1, 1))
    assert quickstart.pack(tmp_path) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        assert archive.getnames() == ["train.py"]


def test_a_daemon_of_a_dead_run_is_not_taken_for_a_process_that_has_its_id_now(tmp_path: Path) -> None:
    import daemons
    found = daemons.Daemons(tmp_path, tmp_path, str)
    record = {"pid": os.getpid(), "born": "1", "port": 9}  # this very process, but born at another time
    found._write({"kept": True, "daemons": {"standalone": record, "localcloud": record}})
    assert found.running() is None
    assert found.stop() == []


def test_two_runs_keep_out_of_each_others_way(tmp_path: Path) -> None:
    import daemons
    first, second = (daemons.Daemons(tmp_path, tmp_path, str) for _ in range(2))
    with first.locked(), pytest.raises(daemons.DaemonError, match="--state-dir"), second.locked():
        pass


def test_logs_and_progress_are_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import watching
    screen = watching.Screen()
    screen.progress("RUNNING", 5, {})
    screen.progress("RUNNING", 10, {"loss": 0.5})
    screen.line("worker:0    | hello")
    screen.progress("RUNNING", 19, {"loss": 0.4})
    screen.progress("RUNNING", 20, {"test_accuracy": 0.9})
    assert capsys.readouterr().out == (
        "  progress 10 %  loss 0.5000\nworker:0    | hello\n  progress 20 %  test accuracy 0.9000\n")
