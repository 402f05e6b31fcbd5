"""Forty mistakes, and what the commands say to each: kept in mistakes.txt, to be read by people."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from cml_nova.clients.osc import job, job_artifact, job_create, job_log, job_wait
from tests.unit.clients.osc.conftest import Shell

GOLDEN = Path(__file__).with_name("mistakes.txt")
GOOD = """\
name: digits
framework: {name: tensorflow}
flavor: gpu.small
workers: 2
command: python train.py
"""
FILE = "--file job.yaml"


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


#: what is wrong, the command, its options, the job file
MISTAKES: list[tuple[str, Any, str, str]] = [
    ("a misspelt key", job_create.CreateJob, FILE, changed("flavor:", "flavr:")),
    ("a key that there is not", job_create.CreateJob, FILE, GOOD + "gpus: 4\n"),
    ("a misspelt key in a role", job_create.CreateJob, FILE, changed("workers: 2", "roles:\n  worker:\n    cuont: 2")),
    ("a misspelt role", job_create.CreateJob, FILE, changed("workers: 2", "roles:\n  wroker: {count: 2}")),
    ("workers and roles", job_create.CreateJob, FILE, GOOD + "roles: {worker: {count: 2}}\n"),
    ("no command", job_create.CreateJob, FILE, changed("command: python train.py\n", "")),
    ("no name", job_create.CreateJob, FILE, changed("name: digits\n", "")),
    ("no framework", job_create.CreateJob, FILE, changed("framework: {name: tensorflow}\n", "")),
    ("no flavor", job_create.CreateJob, FILE, changed("flavor: gpu.small\n", "")),
    ("a misspelt flavor", job_create.CreateJob, FILE, changed("gpu.small", "gpu.smal")),
    ("a misspelt flavor in an option", job_create.CreateJob, f"{FILE} --flavor gpu.lage", GOOD),
    ("a misspelt framework", job_create.CreateJob, FILE, changed("tensorflow", "tensorflwo")),
    ("a version that there is not", job_create.CreateJob, f"{FILE} --framework tensorflow:1.15", GOOD),
    ("a misspelt image", job_create.CreateJob, f"{FILE} --image tensrflow", GOOD),
    ("an image of another framework", job_create.CreateJob, f"{FILE} --image mxnet", GOOD),
    ("a flavor too small for the image", job_create.CreateJob, "big --image huge --flavor cpu.small --command true", ""),
    ("too many workers", job_create.CreateJob, f"{FILE} --workers 1000", GOOD),
    ("no workers", job_create.CreateJob, FILE, changed("workers: 2", "workers: 0")),
    ("a number in words", job_create.CreateJob, FILE, changed("workers: 2", "workers: two")),
    ("a number in words in an option", job_create.CreateJob, f"{FILE} --workers two", GOOD),
    ("a time in words", job_create.CreateJob, f"{FILE} --max-run-time tomorrow", GOOD),
    ("a list for a variable", job_create.CreateJob, FILE, GOOD + "env:\n  A: 1\n  B: [1, 2]\n"),
    ("a variable that the service sets", job_create.CreateJob, f"{FILE} --env CML_RANK=0", GOOD),
    ("a variable without a value", job_create.CreateJob, f"{FILE} --env LEARNING_RATE", GOOD),
    ("a secret that the environment does not have", job_create.CreateJob, f"{FILE} --secret NO_SUCH_TOKEN", GOOD),
    ("a package that there is not", job_create.CreateJob, f"{FILE} --package 11111111-2222-4333-8444-555555555555", GOOD),
    ("a directory that there is not", job_create.CreateJob, FILE, GOOD + "source: {directory: code}\n"),
    ("a network that there is not", job_create.CreateJob, f"{FILE} --network other-net", GOOD),
    ("no public key", job_create.CreateJob, f"{FILE} --set ssh_authorized_keys=[nonsense]", GOOD),
    ("a key given twice", job_create.CreateJob, FILE, GOOD + "name: again\n"),
    ("a tab in YAML", job_create.CreateJob, FILE, GOOD + "env:\n\tA: 1\n"),
    ("a list in place of a job", job_create.CreateJob, FILE, "- name: digits\n"),
    ("a job file that there is not", job_create.CreateJob, "--file jobs.yaml", GOOD),
    ("--set without a value", job_create.CreateJob, f"{FILE} --set workers", GOOD),
    ("--role in another form", job_create.CreateJob, f"{FILE} --role worker", GOOD),
    ("an option that there is not", job_create.CreateJob, f"{FILE} --max-runtime 2h", GOOD),
    ("a job that there is not", job_wait.WaitJob, "digits", ""),
    ("a time-out in words", job_wait.WaitJob, "digits --timeout soon", ""),
    ("a list of nothing", job.ListJobs, "--limit 0", ""),
    ("a time that is none", job.ListJobs, "--changes-since yesterday", ""),
    ("nothing to set", job.SetJob, "digits", ""),
    ("jobs to delete that there are not", job.DeleteJob, "one two", ""),
    ("lines in words", job_log.ShowLog, "digits --lines few", ""),
    ("a time to begin with that is none", job_log.ShowLog, "digits --since yesterday", ""),
    ("files of a job that there is not", job_artifact.SaveArtifacts, "digits 'output/*'", ""),
]


def test_what_is_said_to_mistakes(shell: Shell, tmp_path: Path) -> None:
    said = []
    for title, command, line, text in MISTAKES:
        Path("job.yaml").write_text(text)
        done = shell.run(command, line)
        name = {"CreateJob": "job create", "WaitJob": "job wait", "ListJobs": "job list", "SetJob": "job set", "DeleteJob": "job delete",
                "ShowLog": "job log show", "SaveArtifacts": "job artifact save"}[command.__name__]
        said.append(f"# {title}\n$ openstack ml {name} {line}\n{done.err.replace(str(tmp_path), '...').rstrip()}\n[{done.code}]\n")
        assert done.code in (1, 2), said[-1]
    now = "\n".join(said)
    (tmp_path / "mistakes.txt").write_text(now)
    difference = "\n".join(difflib.unified_diff(GOLDEN.read_text().splitlines(), now.splitlines(), "expected", "said", lineterm=""))
    assert not difference, f"{difference}\nIf what is said now is better, copy {tmp_path / 'mistakes.txt'} over {GOLDEN}."


def test_there_are_forty() -> None:
    assert len(MISTAKES) >= 40
