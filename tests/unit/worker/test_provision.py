"""Which servers count when a job's nodes are to have theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cml_nova import exception
from cml_nova.compute.fleet import Census, Server, parse_server
from cml_nova.worker.steps import provision


def server(ident: str, **body: Any) -> Server:
    address = {"net": [{"addr": f"10.0.0.{ident}", "version": 4, "OS-EXT-IPS:type": "fixed"}]}
    return parse_server({"id": ident, "name": f"n-{ident}", "status": "ACTIVE", "tags": ["cml:job:j"], "addresses": address, **body})


@pytest.mark.parametrize(("body", "taken"), [
    ({}, True),
    ({"status": "BUILD"}, True),
    ({"status": "ERROR"}, False),
    ({"OS-EXT-STS:task_state": "deleting"}, False),
])
def test_a_node_without_a_server_takes_one_that_stays(body: dict[str, Any], taken: bool) -> None:
    nodes = [{"rank": 0, "server_id": "1", "server_name": "n-1", "address": "10.0.0.1", "status": "ACTIVE", "fault": None},
             {"rank": 1, "server_id": None, "server_name": None, "address": None, "status": "LOST", "fault": None}]
    work: Any = SimpleNamespace(job=SimpleNamespace(nodes=nodes))
    changes = provision._assign(work, [("f", [0, 1])], [server("1"), server("2", **body)])
    assert [(change["rank"], change["server_id"]) for change in changes] == ([(1, "2")] if taken else [])


@pytest.mark.parametrize(("asked", "hides", "refused"), [(False, True, False), (True, False, False), (True, True, True)])
def test_nothing_is_built_in_the_place_of_servers_that_may_be_hidden(asked: bool, hides: bool, refused: bool) -> None:
    """Who has never asked for any has none."""
    hidden = frozenset({"1"} if hides else ())
    fleet = SimpleNamespace(census=lambda: Census(frozenset({"1"}), hidden, frozenset(), whole=True))
    work: Any = SimpleNamespace(job=SimpleNamespace(asked_for_servers=asked), tools=SimpleNamespace(fleet=fleet))
    if not refused:
        return provision._check_for_hidden(work)
    with pytest.raises(exception.CloudError, match="does not answer"):
        provision._check_for_hidden(work)


def test_a_server_that_is_only_hidden_is_not_gone() -> None:
    work: Any = SimpleNamespace(tools=SimpleNamespace(fleet=SimpleNamespace(remaining=lambda ids: set(ids) & {"1"})))
    gone = provision._gone(work, [server("1"), server("2"), server("3")], [server("3")])
    assert [(s.id, s.status) for s in gone] == [("2", "DELETED")]
