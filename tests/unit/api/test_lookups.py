"""What the API remembers of the cloud: for whom, for how long, and what is never decided by it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cml_nova.api.memory import Memory
from tests.unit.api import conftest
from tests.unit.api.conftest import Api, FakeCatalog, job


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what the cloud is asked."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        method: Callable[..., Any] = getattr(FakeCatalog, name)

        def call(self: FakeCatalog, *arguments: Any) -> Any:
            counts[name] += 1
            return method(self, *arguments)

        monkeypatch.setattr(FakeCatalog, name, call)

    for name in ("images", "get_image", "find_image", "flavors", "get_network"):
        counted(name)
    return counts


def test_many_jobs_ask_the_cloud_once(api: Api, asked: Counter[str]) -> None:
    for _ in range(5):
        api.create(network="local-net")
    assert asked == {"find_image": 1, "flavors": 1, "get_network": 1}
    api.create(framework=None, image="debian")
    api.create(framework=None, image="plain")
    assert asked == {"find_image": 1, "flavors": 1, "get_network": 1, "get_image": 2}


@pytest.mark.parametrize("other", [{"project": "blue"}, {"user": "bob"}, {"roles": "member,admin"}])
def test_nobody_is_told_what_another_one_sees(api: Api, asked: Counter[str], other: dict[str, str]) -> None:
    api.create()
    assert api.post("/v1/jobs", json={"job": job()}, **other).status_code == 202
    assert asked == {"find_image": 2, "flavors": 2}


def test_what_is_new_is_found_at_once(api: Api, asked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    api.create()
    new = dataclasses.replace(conftest.FLAVORS[1], id="9", name="gpu.new")
    monkeypatch.setattr(conftest, "FLAVORS", [*conftest.FLAVORS, new])
    assert api.create(flavor="gpu.new")["roles"]["worker"]["flavor"]["id"] == "9"
    assert asked == {"find_image": 2, "flavors": 2}
    api.create(flavor="gpu.new")
    assert asked == {"find_image": 2, "flavors": 2}


def test_a_refusal_is_never_remembered(api: Api, asked: Counter[str]) -> None:
    for path in ("/v1/jobs", "/v1/jobs/plan", "/v1/jobs"):
        answer = api.post(path, json={"job": job(framework=None, image="nope")})
        assert answer.status_code == 400
        assert "nope" in answer.json["error"]["message"]  # type: ignore[index]
    assert asked == {"get_image": 3}


def test_nothing_is_remembered_where_the_operator_says_so(api: Api, asked: Counter[str]) -> None:
    api.conf.set_override("lookup_cache_time", 0, "api")
    api.create()
    api.create()
    assert asked == {"find_image": 2, "flavors": 2}


def test_lists_are_what_the_cloud_says_now(api: Api, asked: Counter[str]) -> None:
    api.create()
    api.get("/v1/flavors")
    api.get("/v1/flavors")
    assert asked["flavors"] == 3


def test_memory_forgets_in_time_and_does_not_grow() -> None:
    now = [0.0]
    memory: Memory[bytes] = Memory(size=2, clock=lambda: now[0])
    memory.set("a", b"1", time=10)
    now[0] = 9.9
    assert memory.get("a") == b"1"
    now[0] = 10
    assert memory.get("a") is None
    for key in "abc":
        memory.set(key, b"", time=10)
    assert [memory.get(key) for key in "abc"] == [None, b"", b""]
