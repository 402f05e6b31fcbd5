"""What is asked again and what isn't, and which answer is which error."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1 import adapter, noauth, session
from keystoneauth1 import exceptions as ksa

from cml_nova import exception
from cml_nova.compute import errors, rest
from cml_nova.compute.session import unpaced
from tests.unit.compute.conftest import FakeConnection, response

# Bodies as the services send them.
NOVA_QUOTA = {"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 2, but already used 10 of 10 instances"}}
NEUTRON_QUOTA = {"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['security_group'].", "detail": ""}}
NEUTRON_IN_USE = {"NeutronError": {"type": "SecurityGroupInUse", "message": "Security Group 1 in use.", "detail": ""}}
NOVA_BAD_FLAVOR = {"badRequest": {"code": 400, "message": "Flavor gpu.huge could not be found."}}


@pytest.mark.parametrize(("status", "body", "error", "says"), [
    (400, NOVA_BAD_FLAVOR, exception.CloudRefused, "Flavor gpu.huge could not be found."),
    (403, {"forbidden": {"message": "Policy doesn't allow it"}}, exception.CloudRefused, "Policy doesn't allow it"),
    (403, NOVA_QUOTA, exception.CloudQuota, "already used 10 of 10"),
    (409, NEUTRON_QUOTA, exception.CloudQuota, "security_group"),
    (413, {"overLimit": {"message": "Quota exceeded for cores"}}, exception.CloudQuota, "cores"),
    (403, {"forbidden": {"message": "Maximum number of ports exceeded"}}, exception.CloudQuota, "ports"),
    (403, {"forbidden": {"message": "The number of defined ports: 2 is over the limit: 0"}}, exception.CloudQuota, "ports"),
    (400, {"badRequest": {"message": "No valid host was found. There are not enough hosts available."}}, exception.NoCapacity, "hosts"),
    (409, NEUTRON_IN_USE, exception.CloudError, "in use"),
    (401, {"error": {"message": "The request you have made requires authentication."}}, exception.Unauthorized, "authentication"),
    (404, {"itemNotFound": {"message": "Instance x could not be found."}}, exception.NotFound, "Instance x"),
    (429, "<html><body>slow down</body></html>", exception.CloudError, "slow down"),
    (500, {"computeFault": {"message": "Unexpected API Error."}}, exception.CloudError, "Unexpected API Error."),
    (502, "<html><h1>Bad Gateway</h1></html>", exception.CloudError, "Bad Gateway"),
    (503, None, exception.CloudError, "Service Unavailable"),
])
def test_answers_become_errors(status: int, body: object, error: type[Exception], says: str) -> None:
    with pytest.raises(exception.CMLError) as caught:
        errors.raise_for(response(status, body), "create 2 servers")
    assert type(caught.value) is error
    assert says in caught.value.message
    assert "create 2 servers" in caught.value.message


@pytest.mark.parametrize("status", [200, 201, 202, 204, 300])
def test_success_is_no_error(status: int) -> None:
    errors.raise_for(response(status, None), "x")


@pytest.mark.parametrize(("fault", "error"), [
    ("No valid host was found. There are not enough hosts available.", exception.NoCapacity),
    ("Exceeded maximum number of retries. Exhausted all hosts available for retrying build failures", exception.NoCapacity),
    ("Build of instance 1 aborted: Quota exceeded for resources: ['port'].", exception.CloudQuota),
    ("internal error: qemu unexpectedly closed the monitor", exception.CloudError),
    (None, exception.CloudError),
])
def test_faults_become_errors(fault: str | None, error: type[Exception]) -> None:
    assert type(errors.of_fault(fault)) is error


def test_reads_are_repeated(cloud: FakeConnection, pauses: list[float], refused_connection: Exception) -> None:
    cloud.compute.answers = [refused_connection, (503, None), (200, {"servers": []})]
    assert rest.get(cloud, "compute", "/servers", "list") == {"servers": []}
    assert len(pauses) == 2
    assert all(0 <= pause <= 3 for pause in pauses)


def test_reads_are_given_up(cloud: FakeConnection) -> None:
    cloud.compute.answers = [(503, None)] * 10
    with pytest.raises(exception.CloudError):
        rest.get(cloud, "compute", "/servers", "list")
    assert len(cloud.compute.calls) == rest.ATTEMPTS


def test_a_pause_that_the_cloud_asks_for_is_kept(cloud: FakeConnection, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [response(429, None, {"Retry-After": "7"}), response(200, {"servers": []})]
    monkeypatch.setattr(cloud.compute, "request", lambda *args, **kwargs: answers.pop(0))
    rest.get(cloud, "compute", "/servers", "list")
    assert pauses == [7.0]


@pytest.mark.parametrize("answer", [(400, None), (403, None), (404, None), (409, None), ksa.ConnectTimeout("60 s")])
def test_reads_that_would_fail_again_are_not_repeated(cloud: FakeConnection, answer: object) -> None:
    cloud.compute.handler = lambda call: answer  # type: ignore[assignment,return-value]
    with pytest.raises(exception.CMLError):
        rest.get(cloud, "compute", "/servers", "list")
    assert len(cloud.compute.calls) == 1


@pytest.mark.parametrize("answer", [(503, None), (500, None), (429, None), ksa.ConnectFailure("reset"), ksa.ConnectTimeout("60 s")])
def test_creations_are_never_repeated(cloud: FakeConnection, answer: object) -> None:
    cloud.compute.handler = lambda call: answer  # type: ignore[assignment,return-value]
    with pytest.raises(exception.CloudError):
        rest.post(cloud, "compute", "/servers", "create", {})
    assert len(cloud.compute.calls) == 1
    # and keystoneauth is told not to either
    assert cloud.compute.calls[0]["connect_retries"] == 0
    assert cloud.compute.calls[0]["status_code_retries"] == 0


def test_deletions_are_repeated_and_gone_is_fine(cloud: FakeConnection) -> None:
    cloud.compute.answers = [(503, None), (404, None)]
    rest.delete(cloud, "compute", "/servers/1", "delete")
    assert len(cloud.compute.calls) == 2


def test_the_microversion_is_pinned_for_compute_alone(cloud: FakeConnection) -> None:
    for service in ("compute", "network"):
        getattr(cloud, service).answers = [(200, {"x": []})]
        list(rest.pages(cloud, service, "/x", "x", "list"))  # type: ignore[arg-type]
    assert cloud.compute.calls[0]["microversion"] == "2.90"
    assert "microversion" not in cloud.network.calls[0]


def test_pages_follow_links_and_ask_nothing_after_the_last(cloud: FakeConnection) -> None:
    more = [{"rel": "next", "href": "http://behind.a.proxy/servers?marker=b"}]
    cloud.compute.answers = [(200, {"servers": [{"id": "a"}, {"id": "b"}], "servers_links": more}), (200, {"servers": [{"id": "c"}]})]
    found = list(rest.pages(cloud, "compute", "/servers", "servers", "list", {"tags": "t"}))
    assert [item["id"] for item in found] == ["a", "b", "c"]
    assert [call["params"] for call in cloud.compute.calls] == [{"tags": "t"}, {"tags": "t", "marker": "b"}]


@pytest.mark.parametrize("body", [{}, {"servers": None}, [], "<html>login</html>"])
def test_an_answer_that_is_no_list_is_an_error(cloud: FakeConnection, body: object) -> None:
    cloud.compute.handler = lambda call: (200, body)
    with pytest.raises(exception.CloudError):
        list(rest.pages(cloud, "compute", "/servers", "servers", "list"))


class Cloud(requests.adapters.BaseAdapter):
    """Answers every request with an empty document."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        answer = response(200, {})
        answer.request, answer.url = request, request.url or ""
        return answer

    def close(self) -> None: ...


def test_no_request_waits_until_a_clock_that_was_set_back_shows_the_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    http = requests.Session()
    http.mount("http://", Cloud())
    ahead = time.time() + 3600
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: ahead)
        keystone = unpaced(session.Session(noauth.NoAuth(endpoint="http://cloud"), session=http))
        compute = adapter.Adapter(keystone, service_type="compute")
    assert rest.get(SimpleNamespace(compute=compute), "compute", "/servers", "list") == {}  # type: ignore[arg-type]
