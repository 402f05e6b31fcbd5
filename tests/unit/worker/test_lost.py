"""Which nodes are given up, from what cloud and SSH show of them."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.compute.fleet import Server
from cml_nova.worker import losses


class Cell:
    """Tells which servers a list without a filter names."""

    def __init__(self, *known: str, away: bool = False) -> None:
        self.known, self.away = set(known), away

    def remaining(self, server_ids: Iterable[str]) -> set[str]:
        if self.away:
            raise exception.CloudError("503")
        return self.known & set(server_ids)


@pytest.fixture
def work() -> Any:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    conf.set_override("unreachable_timeout", 100, "conductor")
    job = SimpleNamespace(id="job", nodes=[{"rank": 0, "server_id": "a"}, {"rank": 1, "server_id": "b"}])
    return SimpleNamespace(conf=conf, job=job, tools=SimpleNamespace(fleet=Cell()))


def server(ident: str, status: str = "ACTIVE", *, host_down: bool = False) -> Server:
    return Server(ident, ident, status, "10.0.0.1", None, "job", 0, 1, None, host_down=host_down)


@pytest.mark.parametrize(("other", "silent", "word"), [
    (server("b"), {}, None),
    (server("b", "ERROR"), {}, "is ERROR"),
    (server("b", "SHUTOFF"), {}, "is SHUTOFF"),
    (None, {}, "gone from the cloud"),
    (server("b"), {1: 99.0}, None),
    (server("b"), {1: 101.0}, "has not answered for 100 s"),
    (server("b", host_down=True), {}, None),
    (server("b", host_down=True), {1: 1.0}, "the host of its server is down"),
])
def test_one_of_two(work: Any, other: Server | None, silent: dict[int, float], word: str | None) -> None:
    lost = losses.find(work, [server("a"), *([other] if other else [])], silent)
    assert set(lost) == ({1} if word else set())
    assert word is None or word in lost[1]


def test_no_answer_of_the_cloud_loses_nothing(work: Any) -> None:
    assert losses.find(work, None, {0: 1e6, 1: 1e6}) == {}


def test_silence_may_be_borne_for_ever(work: Any) -> None:
    work.conf.set_override("unreachable_timeout", 0, "conductor")
    assert losses.find(work, [server("a"), server("b")], {1: 1e9}) == {}


@pytest.mark.parametrize(("cell", "lost"), [(Cell("a", "b"), {0}), (Cell("a"), {0, 1}), (Cell(away=True), {0})])
def test_what_only_lists_by_tag_lack_is_not_lost(work: Any, cell: Cell, lost: set[int]) -> None:
    """Node 0 is in ERROR, node 1 is in no list by tag."""
    work.tools.fleet = cell
    assert set(losses.find(work, [server("a", "ERROR")], {})) == lost
