"""Which servers count when a job's nodes are to have theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cml_nova.compute.fleet import Server, parse_server
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
