from __future__ import annotations

import time
from pathlib import Path

import pytest

from cml_nova.localcloud.serve import ServeError, check_network, listen
from cml_nova.localcloud.store import Store
from cml_nova.localcloud.timers import Timers

from .conftest import Client, Site


def test_a_request_that_fails_before_its_effect(site: Site, demo: Client) -> None:
    site.fault(kind="http", service="compute", method="POST", path="^/servers$", status=503, when="before", count=2)
    for _ in range(2):
        assert demo.boot(status=503) == {"serviceUnavailable": {"code": 503, "message": "The fault API made this request fail."}}
    assert demo.servers() == []
    demo.boot()


def test_a_request_that_fails_after_its_effect(site: Site, demo: Client) -> None:
    site.fault(kind="http", service="compute", method="POST", path="/v2.1/servers", status=503, when="after")
    demo.boot("n", 2, status=503)
    assert len(demo.servers()) == 2


def test_for_ever_until_it_is_deleted(site: Site, demo: Client) -> None:
    site.fault(kind="http", service="network", path="security-groups", status=500, count=None)
    for _ in range(3):
        assert demo.request("GET", "network/v2.0/security-groups").json["NeutronError"]["type"] == "InjectedFault"
    assert demo.request("GET", "network/v2.0/networks").status_code == 200
    http = site.app.test_client()
    assert http.get("/faults").json["faults"][0]["count"] is None
    assert http.delete("/faults").status_code == 204
    assert demo.request("GET", "network/v2.0/security-groups").status_code == 200


def test_one_fault_is_disarmed_and_tells_what_was_left_of_it(site: Site, demo: Client) -> None:
    http = site.app.test_client()
    ids = [http.post("/faults", json={"kind": "http", "service": "compute", "method": method, "status": 503, "count": 2}).json["id"]
           for method in ("POST", "DELETE")]
    demo.boot(status=503)
    answer = http.delete(f"/faults/{ids[0]}")
    assert (answer.status_code, answer.json["count"]) == (200, 1)
    demo.boot()
    assert [fault["id"] for fault in http.get("/faults").json["faults"]] == [ids[1]]
    assert http.delete(f"/faults/{ids[0]}").status_code == 404


def test_too_many_requests_say_when_to_come_again(site: Site, demo: Client) -> None:
    site.fault(kind="http", service="compute", status=429, retry_after=7)
    answer = demo.request("GET", "compute/v2.1/servers")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert list(answer.json) == ["overLimit"]


def test_a_late_answer(site: Site, demo: Client) -> None:
    slept: list[float] = []
    site.cloud.faults.sleep = slept.append
    site.fault(kind="http", service="image", delay=3)
    demo.get("image/v2/images")
    assert slept == [3]


@pytest.mark.parametrize(("result", "status"), [("error", "ERROR"), ("never", "BUILD")])
def test_servers_that_do_not_boot(site: Site, demo: Client, result: str, status: str) -> None:
    site.fault(kind="boot", result=result, count=1)
    demo.boot("n", 2)
    site.after(1)
    assert sorted(server["status"] for server in demo.servers()) == sorted(["ACTIVE", status])
    for server in demo.servers():
        demo.request("DELETE", f"compute/v2.1/servers/{server['id']}")
    site.after(1)
    assert demo.servers() == []


def test_a_server_that_is_active_and_never_answers(site: Site, demo: Client) -> None:
    site.fault(kind="boot", result="silent", count=1)
    demo.boot("n", 2)
    site.after(1)
    assert [server["status"] for server in demo.servers()] == ["ACTIVE", "ACTIVE"]
    assert [fault for _, fault in site.hypervisor.faults] == ["cut"]


def test_what_happens_to_a_server(site: Site, demo: Client) -> None:
    server_id = demo.boot()["server"]["id"]
    site.after(1)
    for fault in ("hang", "resume", "cut", "mend", "rekey"):
        assert site.fault(kind="server", server=server_id, fault=fault).status_code == 201
    assert [fault for _, fault in site.hypervisor.faults] == ["hang", "resume", "cut", "mend", "rekey"]
    assert demo.servers()[0]["status"] == "ACTIVE"
    site.fault(kind="server", server=server_id, fault="crash")
    assert demo.servers()[0]["status"] == "SHUTOFF"
    assert site.fault(kind="server", server=server_id, fault="cut").status_code == 409
    site.fault(kind="server", server=server_id, fault="error")
    site.after(1)
    assert (demo.servers()[0]["status"], demo.servers()[0]["fault"]["code"]) == ("ERROR", 500)
    site.fault(kind="server", server=server_id, fault="vanish")
    assert demo.servers() == []
    assert site.fault(kind="server", server=server_id, fault="crash").status_code == 404


def test_settings(site: Site, demo: Client) -> None:
    site.fault(kind="settings", boot_time=10, gpus=1)
    demo.boot(flavor="gpu.small")
    demo.boot(flavor="gpu.small")
    site.after(9)
    assert sorted(server["status"] for server in demo.servers()) == ["BUILD", "ERROR"]
    site.after(2)
    assert sorted(server["status"] for server in demo.servers()) == ["ACTIVE", "ERROR"]


def test_an_image_goes_and_comes_back(site: Site, demo: Client) -> None:
    def names() -> list[str]:
        return [image["name"] for image in demo.get("image/v2/images")["images"]]

    before = names()
    site.fault(kind="image", image="plain")
    assert "plain" not in names()
    site.fault(kind="image", image="plain", gone=0)
    assert names() == before


def test_all_tokens_expire(site: Site, demo: Client) -> None:
    site.fault(kind="tokens", expire="all")
    assert demo.request("GET", "compute/v2.1/servers").status_code == 401
    assert site.client().servers() == []


@pytest.mark.parametrize("body", [
    {}, {"kind": "meteor"}, {"kind": "http"}, {"kind": "http", "status": 503, "path": "("},
    {"kind": "http", "status": 503, "when": "never"},
    {"kind": "http", "status": 503, "count": 0}, {"kind": "http", "status": 503, "colour": 1}, {"kind": "boot", "result": "ok"},
    {"kind": "settings", "gpus": -1}, {"kind": "tokens"},
])
def test_refused_faults(site: Site, body: dict) -> None:
    answer = site.fault(**body)
    assert answer.status_code == 400
    assert answer.json["error"]["message"]


def test_a_web_page_can_not_arm_a_fault(site: Site) -> None:
    answer = site.app.test_client().post("/faults", data='{"kind": "tokens", "expire": "all"}', content_type="text/plain")
    assert answer.status_code == 400


def test_requests_are_counted_without_ids(site: Site, demo: Client) -> None:
    http = site.app.test_client()
    http.delete("/requests")
    server_id = demo.boot()["server"]["id"]
    demo.get(f"compute/v2.1/servers/{server_id}")
    demo.get(f"compute/v2.1/servers/{server_id}/tags")
    demo.request("GET", "compute/v2.1/nothing")
    record = http.get("/requests").json
    assert {kind: len(times) for kind, times in record["times"].items()} == record["counts"]
    assert record["counts"] == {"compute POST /servers": 1, "compute GET /servers/{id}": 1, "compute GET /servers/{id}/tags": 1,
                      "compute GET /flavors": 1, "image GET /images": 1, "compute GET /nothing": 1}


def test_only_loopback() -> None:
    for host in ("0.0.0.0", "10.0.0.1", "example.org", "::1"):
        with pytest.raises(ServeError, match="loopback"):
            listen(host, 0)
    with pytest.raises(ServeError, match=r"127\.0\.0\.0/8"):
        check_network("10.0.0.0/16")


def test_a_taken_port() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(ServeError, match="--port"):
            listen("127.0.0.1", first.getsockname()[1])


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    with store:
        store.put("thing", {"id": "1", "n": 1})
    with pytest.raises(ZeroDivisionError), store:
        store.update("thing", "1", n=2)
        store.put("thing", {"id": "2"})
        _ = 1 / 0
    assert store.all("thing") == [{"id": "1", "n": 1}]
    assert Store(tmp_path / "state").all("thing") == [{"id": "1", "n": 1}]
    with pytest.raises(RuntimeError, match="transaction"):
        store.put("thing", {"id": "3"})


def test_timers_call_in_order_and_survive_an_error() -> None:
    timers = Timers(time.monotonic)
    called: list[int] = []
    import threading
    done = threading.Event()
    timers.after(0.03, done.set)
    timers.after(0.01, lambda: called.append(1))
    timers.after(0.0, lambda: called.append(0) or _fail())
    timers.start()
    assert done.wait(5)
    timers.stop()
    assert called == [0, 1]


def _fail() -> None:
    raise ValueError("on purpose")
