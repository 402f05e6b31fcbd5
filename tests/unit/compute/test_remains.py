"""Deleting what a job has in the cloud: each part by itself, and gone means gone."""

from __future__ import annotations

from typing import Any

import pytest

from cml_nova import exception
from cml_nova.compute import remains
from cml_nova.compute.fleet import Census, Fleet, Server


class Floating:
    def __init__(self, fleet: Cloud) -> None:
        self._fleet = fleet

    def delete(self, job_id: str) -> None:
        self._fleet.remove("floating", job_id)

    def ids(self, job_id: str) -> list[str]:
        return self._fleet.there("floating")


class Cloud:
    """Stands where a Fleet stands. What is in ``stuck`` can't be deleted; ``hidden`` servers are in no list by tag."""

    def __init__(self, **things: list[str]) -> None:
        self.things = things
        self.stuck: set[str] = set()
        self.hidden: set[str] = set()
        self.floating = Floating(self)

    def there(self, kind: str) -> list[str]:
        return list(self.things.get(kind, ()))

    def remove(self, kind: str, *_: object) -> None:
        if kind in self.stuck:
            raise exception.CloudError(f"{kind} can't be deleted")
        self.things[kind] = []

    def servers(self, job_id: str) -> list[Server]:
        return [Server(id_, id_, "ACTIVE", None, None, job_id, 0, 1, None) for id_ in self.there("server") if id_ not in self.hidden]

    def census(self) -> Census:
        there = set(self.there("server"))
        return Census(frozenset(there), frozenset(there & self.hidden), frozenset({"j"} if there - self.hidden else ()), whole=True)

    def remaining(self, known: set[str], census: Census | None = None) -> set[str]:
        return known & (census or self.census()).ids

    def delete(self, ids: list[str]) -> None:
        if ids:
            self.remove("server")

    def leftover_ports(self, job_id: str) -> list[str]:
        return self.there("port")

    def delete_ports(self, ids: list[str]) -> None:
        self.remove("port")

    def groups(self, job_id: str) -> list[str]:
        return self.there("group")

    def delete_groups(self, job_id: str) -> None:
        self.remove("group")


def clear(cloud: Any, **options: Any) -> bool:
    return remains.clear(cloud, "j", **options)


def test_all_of_it_goes() -> None:
    cloud = Cloud(server=["s"], floating=["f"], group=["g"])
    waits: list[bool] = []
    assert clear(cloud, wait=lambda: waits.append(True))
    assert not any(cloud.things.values())
    assert waits == [True]


def test_ports_that_were_there_are_looked_for_once_more() -> None:
    """Their deletion was accepted; that they are gone is another matter."""
    cloud = Cloud(port=["p"])
    assert not clear(cloud)
    assert clear(cloud)


@pytest.mark.parametrize("stuck", ["server", "port", "floating", "group"])
def test_a_part_that_fails_skips_no_other(stuck: str) -> None:
    cloud = Cloud(server=["s"], port=["p"], floating=["f"], group=["g"])
    cloud.stuck = {stuck}
    assert not clear(cloud)
    assert [kind for kind, left in cloud.things.items() if left] == [stuck]


def test_a_known_server_that_no_list_by_tag_has_is_deleted() -> None:
    cloud = Cloud(server=["s"])
    cloud.hidden = {"s"}
    assert clear(cloud, known=["s"])
    assert not cloud.there("server")


@pytest.mark.parametrize("known", [[], ["s"]])
def test_nothing_is_gone_while_servers_are_hidden(known: list[str]) -> None:
    """Nobody may have told of one: a worker that died, or a create whose servers had not been given to nodes yet."""
    cloud = Cloud(server=["s"])
    cloud.hidden, cloud.stuck = {"s"}, {"server"}
    assert not clear(cloud, known=known)
    cloud.hidden, cloud.stuck = set(), set()
    assert clear(cloud, known=known)
    assert not cloud.there("server")


def test_who_has_never_asked_for_servers_does_not_wait_for_those_that_are_hidden() -> None:
    cloud = Cloud(server=["another's"])
    cloud.hidden = {"another's"}
    assert clear(cloud, asked=False)
    assert cloud.there("server")


def test_no_job_is_not_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="id is needed"):
        Fleet.servers(object(), "")  # type: ignore[arg-type]
