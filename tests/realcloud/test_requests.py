"""What a job costs the cloud's APIs, counted where they are asked."""

from __future__ import annotations

from collections import Counter

from tests.harness.realcloud import RealCloud
from tests.harness.stack import Stack
from tests.realcloud.conftest import document, need

#: how often the servers are looked at goes with the time that the cloud takes
_WATCHING = ("GET /v2.1/servers/detail", "GET /v2.1/servers")


def cost(stack: Stack[RealCloud], workers: int) -> tuple[Counter[str], Counter[str]]:
    """Run a job; give the service's requests to Nova and to Keystone meanwhile."""
    cloud = stack.cloud
    nova, keystone = cloud.nova_requests(), cloud.keystone.counts()
    stack.demo.succeed(stack.demo.submit(document(cloud.settings, workers=workers, command="true")))
    return cloud.nova_requests() - nova, cloud.keystone.counts() - keystone


def test_requests_do_not_grow_with_the_nodes(stack: Stack[RealCloud]) -> None:
    """But for deletions, of which Nova takes one for each server. The first job finds endpoints and networks for those after it."""
    need(stack.cloud.settings, "cloud_logs")
    cost(stack, 1)
    nova, keystone = zip(*(cost(stack, workers) for workers in (1, 3)), strict=True)
    print("Nova:", *nova, "Keystone:", *keystone, sep="\n")
    assert [counts["DELETE /v2.1/servers/{id}"] for counts in nova] == [1, 3]
    assert [counts["POST /v2.1/servers"] for counts in nova] == [1, 1]
    one, three = ({what: n for what, n in counts.items() if what not in _WATCHING and not what.startswith("DELETE ")} for counts in nova)
    assert one == three
    for counts in keystone:
        assert counts["POST /v3/auth/tokens"] == 0, "a token was asked for that the service had"
