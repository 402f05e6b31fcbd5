"""Packages through HTTP: upload, list, show, delete."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import update

from cml_nova.db import packages as db_packages
from cml_nova.db.models import Job
from cml_nova.storage.base import package_key
from tests.unit.api.conftest import Api, archive, job

CODE = archive(("train.py", b"print('hello')"), ("lib/util.py", b"x = 1"))


@pytest.mark.parametrize("data", [CODE, archive(("./train.py", b"x"), mode="w:"), archive(("a..b", b""))])
def test_upload(api: Api, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    answer = api.upload(data, f"name=code&sha256={digest}")
    assert answer.status_code == 201
    package = answer.json["package"]  # type: ignore[index]
    assert (package["sha256"], package["size"], package["name"]) == (digest, len(data), "code")
    with api.storage.open(package_key("red", digest)) as file:
        assert file.read() == data
    assert api.get(f"/v1/packages/{package['id']}").json == {"package": package}
    assert api.get("/v1/packages").json["packages"] == [package]  # type: ignore[index]


def test_the_same_content_again_is_the_same_package(api: Api) -> None:
    first, again = api.upload(CODE), api.upload(CODE, "name=other")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json == again.json
    assert len(api.stored()) == 1


def test_an_upload_mends_content_that_was_lost(api: Api) -> None:
    first = api.upload(CODE)
    api.storage.delete("packages/red")
    assert api.upload(CODE).json == first.json
    assert len(api.stored()) == 1


def test_two_uploads_of_one_content_at_the_same_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.upload(CODE).json
    found, misses = db_packages.get_by_content, [None]
    monkeypatch.setattr(db_packages, "get_by_content", lambda *a: misses.pop() if misses else found(*a))
    answer = api.upload(CODE)
    assert (answer.status_code, answer.json) == (200, first)
    assert api.rows()["packages"] == 1


def test_an_upload_while_the_same_content_is_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other request deletes row and content after this one stored the content, before it writes its row."""
    create = db_packages.create

    def late(session: Any, package: Any) -> Any:
        api.storage.delete(package_key("red", package.sha256))
        return create(session, package)

    monkeypatch.setattr(db_packages, "create", late)
    assert api.upload(CODE).status_code == 201
    assert len(api.stored()) == 1


def test_paging_and_name(api: Api) -> None:
    packed = [archive(("a", bytes([index]))) for index in range(5)]  # once each: gzip writes the time into it
    for index, data in enumerate(packed):
        assert api.upload(data, f"name=p{index}").status_code == 201
    seen, path = [], "/v1/packages?limit=2"
    while path:
        page = api.get(path).json
        seen += [entry["name"] for entry in page["packages"]]  # type: ignore[index]
        path = page.get("packages_links", [{"href": ""}])[0]["href"]  # type: ignore[union-attr]
    assert seen == ["p4", "p3", "p2", "p1", "p0"]
    assert [entry["name"] for entry in api.get("/v1/packages?name=p3").json["packages"]] == ["p3"]  # type: ignore[index]
    digest = hashlib.sha256(packed[1]).hexdigest()
    assert [entry["name"] for entry in api.get(f"/v1/packages?sha256={digest}").json["packages"]] == ["p1"]  # type: ignore[index]
    assert api.get(f"/v1/packages?sha256={'0' * 64}").json["packages"] == []  # type: ignore[index]
    assert api.request("GET", "/v1/packages?sha256=1").status_code == 400


def test_delete_waits_for_the_jobs_that_need_it(api: Api) -> None:
    package = api.upload(CODE).json["package"]  # type: ignore[index]
    path = f"/v1/packages/{package['id']}"
    created = api.create(source={"package": package["id"]})
    answer = api.request("DELETE", path)
    assert answer.status_code == 409
    assert "needed by a job" in answer.json["error"]["message"]  # type: ignore[index]
    assert len(api.stored()) == 1
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == created["id"]).values(phase="DONE", outcome="SUCCEEDED"))
    assert api.request("DELETE", path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.stored() == []
    source = api.get(f"/v1/jobs/{created['id']}").json["job"]["source"]  # type: ignore[index]
    assert source["sha256"] == package["sha256"]
    assert api.post("/v1/jobs", json={"job": job(source={"package": package["id"]})}).status_code == 400
