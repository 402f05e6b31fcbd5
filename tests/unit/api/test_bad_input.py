"""Bad input: each is a clear 4xx that names field and way out, and leaves nothing behind in database or storage."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from tests.unit.api.conftest import Api, archive, job

LONG = "x" * 300
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDvbWZiyzwjv2Mvs3mOjGYzMOyzqYYQ1cVw5Yo4L0Xx4"

#: what is wrong, changed keys of a good job, words that the message must have
JOBS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("misspelt key", {"comand": "x"}, ["comand", "did you mean 'command'"]),
    ("unknown key", {"zzz": 1}, ["zzz: unknown key", "known keys are", "max_run_time"]),
    ("guessed key", {"gpus": 4}, ["gpus: unknown key", "GPUs come with the flavor"]),
    ("misspelt key of a role", {"workers": None, "roles": {"worker": {"cuont": 1}}}, ["roles.worker.cuont", "'count'"]),
    ("misspelt key of the framework", {"framework": {"nmae": "tensorflow"}}, ["framework.nmae", "'name'"]),
    ("misspelt role", {"workers": None, "roles": {"wroker": {"count": 1}}}, ["roles.wroker", "did you mean 'worker'"]),
    ("no name", {"name": None}, ["name is required"]),
    ("no command", {"command": None}, ["command is required"]),
    ("name not text", {"name": 5}, ["name", "a string", "an integer (5)"]),
    ("name too long", {"name": LONG}, ["name", "300 characters", "255"]),
    ("name empty", {"name": ""}, ["name", "must not be empty"]),
    ("name with a control character", {"name": "a\x07b"}, ["name", "\\x07", "control characters"]),
    ("name with a line feed at its end", {"name": "a\n"}, ["name", "control characters"]),
    ("name with half a character", {"name": "a\ud800"}, ["not valid UTF-8"]),
    ("description with a NUL", {"description": "a\0"}, ["description", "control characters"]),
    ("metadata not an object", {"metadata": ["a"]}, ["metadata", "an object", "a list"]),
    ("metadata with a bad key", {"metadata": {"a b": "c"}}, ["metadata", "'a b'", "letters, digits"]),
    ("metadata with a number", {"metadata": {"a": 1}}, ["metadata.a", "a string"]),
    ("metadata too long", {"metadata": {"a": LONG}}, ["metadata.a", "255"]),
    ("too much metadata", {"metadata": {f"k{i}": "" for i in range(65)}}, ["metadata", "65 keys", "64"]),
    ("client token with a blank", {"client_token": "a b"}, ["client_token", "'a b'"]),
    ("count 0", {"workers": 0}, ["workers must be at least 1, not 0"]),
    ("count negative", {"workers": -1}, ["workers", "-1"]),
    ("count 10000", {"workers": 10000}, ["workers", "10000", "at most 256", "max_nodes"]),
    ("count beyond any number", {"workers": 10**30}, ["workers", "at most 256"]),
    ("count as text", {"workers": "2"}, ["workers", "an integer", "a string ('2')"]),
    ("count true", {"workers": True}, ["workers", "an integer", "a boolean"]),
    ("count 2.0", {"workers": 2.0}, ["workers", "an integer", "a number"]),
    ("count of a role 0", {"workers": None, "roles": {"worker": {"count": 0}}}, ["roles.worker.count", "0"]),
    ("counts of roles too high together",
     {"workers": None, "roles": {"worker": {"count": 250}, "ps": {"count": 10}, "chief": {"count": 1}}},
     ["roles", "261 nodes", "256"]),
    ("workers and roles", {"roles": {"worker": {"count": 1}}},
     ["workers", "'workers: 2' is short for 'roles: {worker: {count: 2}}'", "remove one"]),
    ("no roles", {"workers": None, "roles": {}}, ["roles", "must not be empty"]),
    ("roles the framework can't start with", {"workers": None, "roles": {"worker": {"count": 1}, "chief": {"count": 2}}},
     ["roles.chief.count", "2"]),
    ("unknown flavor", {"flavor": "gpu.smal"}, ["flavor", "gpu.smal", "did you mean 'gpu.small'", "cpu.small"]),
    ("unknown flavor of a role", {"workers": None, "roles": {"worker": {"count": 1, "flavor": "no"}}},
     ["roles.worker.flavor", "gpu.large"]),
    ("no flavor", {"flavor": None}, ["flavor is required", "known flavors are", "gpu.small"]),
    ("no flavor for one role",
     {"flavor": None, "workers": None, "roles": {"worker": {"count": 1, "flavor": "1"}, "evaluator": {"count": 1}}},
     ["flavor", "evaluator"]),
    ("flavor too small for the image", {"image": "huge", "framework": None},
     ["flavor", "gpu.small", "4 GiB of RAM", "'huge' needs 1024 GiB of RAM", "no flavor is large"]),
    ("unknown image", {"image": "nope"}, ["image", "nope", "tensorflow"]),
    ("unknown framework", {"framework": {"name": "caffe"}}, ["framework.name", "caffe", "tensorflow"]),
    ("unknown framework version", {"framework": {"name": "tensorflow", "version": "1.0"}}, ["framework.version", "1.0", "2.21.0"]),
    ("neither image nor framework", {"framework": None}, ["framework", "image", "known frameworks are"]),
    ("image of another framework", {"image": "mxnet"}, ["image", "mxnet", "tensorflow", "remove the image or the framework"]),
    ("image of another version", {"image": "tensorflow", "framework": {"name": "tensorflow", "version": "2.0"}},
     ["framework.version", "2.21.0", "2.0"]),
    ("framework as text", {"framework": "tensorflow"}, ["framework", "an object", "a string"]),
    ("unknown network", {"network": "nope"}, ["network", "nope", "local-net"]),
    ("empty command", {"command": ""}, ["command", "must not be empty"]),
    ("blank command", {"command": "  \n"}, ["command", "a shell command line"]),
    ("empty list as command", {"command": []}, ["command", "must not be empty"]),
    ("number in command", {"command": ["a", 1]}, ["command.1", "a string"]),
    ("NUL in command", {"command": ["a\0"]}, ["command.0", "NUL"]),
    ("command too long", {"command": ["x" * 65537]}, ["larger than"]),
    ("environment as list", {"env": ["A=1"]}, ["env", "an object"]),
    ("bad name of a variable", {"env": {"A-B": "1"}}, ["env", "'A-B'", "letters, digits"]),
    ("name of a variable with a line feed", {"env": {"A\n": "1"}}, ["env", "letters, digits"]),
    ("reserved variable", {"env": {"CML_JOB_ID": "1"}}, ["env.CML_JOB_ID", "set by the service"]),
    ("number as variable", {"env": {"A": 1}}, ["env.A", "a string"]),
    ("variable too long", {"env": {"A": "x" * 32769}}, ["env.A", "32769", "32768"]),
    ("variable twice", {"env": {"A": "1"}, "secrets": {"A": "2"}}, ["secrets.A", "env"]),
    ("secret is a number", {"secrets": {"A": 987654}}, ["secrets.A", "a string"]),
    ("unknown package", {"source": {"package": "33333333-0000-4000-8000-000000000000"}}, ["source.package", "upload the code"]),
    ("source unknown key", {"source": {"git": "https://example.org"}}, ["source.git", "package"]),
    ("run time 0", {"max_run_time": 0}, ["max_run_time", "0"]),
    ("run time too long", {"max_run_time": 10**12}, ["max_run_time must be at most"]),
    ("wait time negative", {"max_wait_time": -5}, ["max_wait_time", "-5"]),
    ("restarts too many", {"max_restarts": 101}, ["max_restarts", "101", "100"]),
    ("exit code 0", {"recover_on_exit_codes": [0]}, ["recover_on_exit_codes.0", "0"]),
    ("exit code twice", {"recover_on_exit_codes": [1, 1]}, ["recover_on_exit_codes", "twice"]),
    ("priority too high", {"priority": 1001}, ["priority", "1001", "1000"]),
    ("zone empty", {"availability_zone": ""}, ["availability_zone", "empty"]),
    ("key not a key", {"ssh_authorized_keys": ["hello"]}, ["ssh_authorized_keys.0", "public key"]),
    ("key with broken data", {"ssh_authorized_keys": ["ssh-ed25519 AAAA"]}, ["ssh_authorized_keys.0", "public key"]),
    ("key with a second line", {"ssh_authorized_keys": [f"{KEY}\nssh-rsa x"]}, ["ssh_authorized_keys.0"]),
]


def unchanged(api: Api) -> None:
    assert not any(count for table, count in api.rows().items())
    assert api.stored() == []
    assert api.conductor.woken == []


def refused(answer: Any, status: int, words: list[str]) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json["error"]
    assert error["code"] == status
    assert error["title"]
    for word in words:
        assert word in error["message"]
    return error


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in JOBS], ids=[case[0] for case in JOBS])
def test_job(shared_api: Api, path: str, changes: dict[str, Any], words: list[str]) -> None:
    error = refused(shared_api.post(path, data=json.dumps({"job": job(**changes)})), 413 if words == ["larger than"] else 400, words)
    assert "987654" not in json.dumps(error)
    unchanged(shared_api)


@pytest.mark.parametrize(("body", "status", "words"), [
    (b"", 400, ["empty"]),
    (b"{", 400, ["not JSON", "line 1"]),
    (b"name=x", 400, ["not JSON"]),
    (b"\xff\xfe{}", 400, ["not JSON"]),
    (b"[]", 400, ["body", "an object", "a list"]),
    (b"null", 400, ["body", "an object"]),
    (b"{}", 400, ["job is required"]),
    (b'{"job": {}, "jbo": {}}', 400, ["jbo", "'job'"]),
    (b'{"job": NaN}', 400, ["NaN"]),
    (b'{"job": {"name": "a", "name": "b"}}', 400, ["'name'", "twice"]),
    (b'{"job": ' + b"[" * 30000, 400, ["not JSON"]),
    (b'{"job": ' + b"9" * 5000 + b"}", 400, ["not JSON"]),
    (b'{"job": {"name": "' + b"x" * 70000 + b'"}}', 413, ["65536", "max_body_bytes"]),
])
def test_body(shared_api: Api, body: bytes, status: int, words: list[str]) -> None:
    refused(shared_api.post("/v1/jobs", data=body), status, words)
    unchanged(shared_api)


def test_a_body_without_a_length_is_cut_at_the_limit(shared_api: Api) -> None:
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = shared_api.post("/v1/jobs", input_stream=io.BytesIO(b" " * 100_000), environ_overrides=environ)
    refused(answer, 413, ["65536"])
    unchanged(shared_api)


def test_all_faults_are_listed(shared_api: Api) -> None:
    error = refused(shared_api.post("/v1/jobs", json={"job": job(wrokers=1, priority=-1, name="")}), 400, ["wrokers", "'workers'"])
    assert [fault["field"] for fault in error["errors"]] == ["job.wrokers", "job.name", "job.priority"]


def test_each_missing_key_is_told_of_but_none_that_is_misspelt(shared_api: Api) -> None:
    error = refused(shared_api.post("/v1/jobs", json={"job": {"flavr": "x"}}), 400, ["flavr"])
    assert [fault["message"] for fault in error["errors"]][1:] == [
        "job.name is required.", "job.command is required: a shell command line, or a list of a program and its arguments."]
    error = refused(shared_api.post("/v1/jobs", json={"job": {"nmae": "a", "comand": "x"}}), 400, ["nmae"])
    assert [fault["field"] for fault in error["errors"]] == ["job.nmae"]


def test_the_other_key_of_a_clash_is_named(shared_api: Api) -> None:
    error = refused(shared_api.post("/v1/jobs", json={"job": job(image="mxnet")}), 400, ["image"])
    assert (error["field"], error["conflicts_with"]) == ("image", "framework")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = archive(("train.py", b"print()"))
PACKAGES: list[tuple[str, str, bytes, int, list[str]]] = [
    ("path to above", "", archive(("../evil.py", b"x")), 400, ["../evil.py", ".."]),
    ("path to above inside", "", archive(("a/../../evil.py", b"x")), 400, ["a/../../evil.py"]),
    ("absolute path", "", archive(("/etc/passwd", b"x")), 400, ["/etc/passwd", "absolute"]),
    ("symbolic link", "", archive(member("l", tarfile.SYMTYPE, "/etc/passwd")), 400, ["'l'", "symbolic link", "dereference"]),
    ("hard link", "", archive(("a", b"x"), member("l", tarfile.LNKTYPE, "a")), 400, ["'l'", "hard link"]),
    ("device", "", archive(member("d", tarfile.CHRTYPE)), 400, ["'d'", "device"]),
    ("named pipe", "", archive(member("p", tarfile.FIFOTYPE)), 400, ["'p'", "pipe"]),
    ("not an archive", "", b"hello world" * 100, 400, ["not a tar archive", "tar czf"]),
    ("cut off", "", archive(("a", bytes(range(256)) * 100))[:150], 400, ["not a tar archive"]),
    ("cut off plain", "", archive(("a", b"x" * 20000), mode="w:")[:5000], 400, ["not a tar archive"]),
    ("gzip of something else", "", __import__("gzip").compress(b"hello" * 1000), 400, ["not a tar archive"]),
    ("empty archive", "", archive(), 400, ["empty"]),
    ("empty body", "", b"", 400, ["empty"]),
    ("unpacks to too much", "", archive(("a", b"\0" * 300_000)), 413, ["200000", "max_package_unpacked_bytes"]),
    ("too large", "", archive(("a", __import__("os").urandom(100_000))), 413, ["65536", "max_package_bytes"]),
    ("wrong sha256", f"sha256={'0' * 64}", GOOD, 400, ["sha256", "0000"]),
    ("sha256 of the wrong form", "sha256=abc", GOOD, 400, ["sha256", "64"]),
    ("name too long", f"name={LONG}", GOOD, 400, ["name", "300", "255"]),
    ("name with a control character", "name=a%07", GOOD, 400, ["name", "control"]),
    ("unknown parameter", "nmae=a", GOOD, 400, ["nmae", "'name'"]),
    ("parameter twice", "name=a&name=b", GOOD, 400, ["name", "2 times"]),
]


@pytest.mark.parametrize(("query", "body", "status", "words"), [case[1:] for case in PACKAGES], ids=[case[0] for case in PACKAGES])
def test_package(shared_api: Api, query: str, body: bytes, status: int, words: list[str]) -> None:
    refused(shared_api.upload(body, query), status, words)
    unchanged(shared_api)


QUERIES: list[tuple[str, list[str]]] = [
    ("/v1/jobs?limit=0", ["limit", "0"]),
    ("/v1/jobs?limit=-1", ["limit"]),
    ("/v1/jobs?limit=ten", ["limit", "'ten'", "integer"]),
    ("/v1/jobs?limit=1&limit=2", ["limit", "2 times"]),
    ("/v1/jobs?marker=nope", ["marker", "nope"]),
    ("/v1/jobs?sort_key=secret", ["sort_key", "created_at"]),
    ("/v1/jobs?sort_dir=up", ["sort_dir", "asc, desc"]),
    ("/v1/jobs?stauts=QUEUED", ["stauts", "'status'"]),
    ("/v1/jobs?status=Done", ["status", "SUCCEEDED"]),
    ("/v1/jobs?metadata=nokey", ["metadata", "key=value"]),
    ("/v1/jobs?changes_since=yesterday", ["changes_since", "2026-01-31T12:00:00Z"]),
    ("/v1/jobs?all_projects=maybe", ["all_projects", "neither true nor false"]),
    ("/v1/jobs?project_id=blue", ["project_id", "all_projects"]),
    ("/v1/jobs?name=a%00", ["name"]),
    ("/v1/packages?marker=nope", ["marker", "nope"]),
    ("/v1/flavors?x=1", ["x", "no query"]),
]


@pytest.mark.parametrize(("path", "words"), QUERIES, ids=[case[0] for case in QUERIES])
def test_query(shared_api: Api, path: str, words: list[str]) -> None:
    refused(shared_api.get(path), 400, words)


@pytest.mark.parametrize(("query", "words"), [
    ("task=nope", ["task", "worker:0"]),
    ("offset=-1", ["offset", "-1"]),
    ("offset=1&tail=1", ["tail", "offset"]),
    ("limit=99999999", ["limit", "1048576"]),
    ("wait=x", ["wait", "integer"]),
    ("attempt=-1", ["attempt"]),
])
def test_query_of_a_log(api: Api, query: str, words: list[str]) -> None:
    refused(api.get(f"/v1/jobs/{api.create()['id']}/log?{query}"), 400, words)


@pytest.mark.parametrize(("body", "words"), [
    ({}, ["job is required"]),
    ({"job": {}}, ["job", "empty"]),
    ({"job": {"command": "x"}}, ["job.command", "unknown key", "priority"]),
    ({"job": {"status": "DONE"}}, ["job.status", "unknown key"]),
    ({"job": {"priority": 5000}}, ["job.priority", "1000"]),
    ({"job": {"name": "a\0"}}, ["job.name", "control"]),
    ({"job": {"metadata": {"a": None}}}, ["job.metadata.a", "a string", "null"]),
])
def test_update(api: Api, body: Any, words: list[str]) -> None:
    before = api.create()
    path = f"/v1/jobs/{before['id']}"
    refused(api.request("PATCH", path, json=body), 400, words)
    assert api.get(path).json["job"] == before  # type: ignore[index]


@pytest.mark.parametrize(("version", "status"), [
    ("machine-learning 9.9", 406), ("machine-learning 0.1", 406), ("machine-learning one", 400), ("machine-learning 1.1.1", 400),
])
def test_version(shared_api: Api, version: str, status: int) -> None:
    answer = shared_api.get("/v1/jobs", headers={"OpenStack-API-Version": version})
    refused(answer, status, [version.split()[1]])


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nope", 404), ("GET", "/v1/nope", 404), ("GET", "/v2/jobs", 404), ("PUT", "/v1/jobs", 405), ("DELETE", "/v1/flavors", 405),
    ("GET", "/v1/jobs/some-name", 404), ("GET", "/v1/jobs/some%00name", 404),
    ("GET", "/v1/jobs/33333333-0000-4000-8000-000000000000", 404), ("DELETE", "/v1/jobs/33333333-0000-4000-8000-000000000000", 404),
    ("POST", "/v1/jobs/33333333-0000-4000-8000-000000000000/cancel", 404), ("GET", "/v1/packages/nope", 404),
])
def test_nothing_there(shared_api: Api, method: str, path: str, status: int) -> None:
    refused(shared_api.request(method, path), status, [])


@pytest.mark.parametrize("path", ["../../../etc/passwd", "%2e%2e/%2e%2e/secrets", "a%00b", "nope", "..", "a/"])
def test_artifacts_stay_in_their_directory(api: Api, path: str) -> None:
    created = api.create()
    (outside := api.conf.storage.path + "/objects/secrets") and open(outside, "w").close()
    assert api.get(f"/v1/jobs/{created['id']}/artifacts/{path}").status_code == 404
