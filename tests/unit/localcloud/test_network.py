from __future__ import annotations

import ipaddress

import pytest

from .conftest import Client, Site

GROUPS, RULES = "network/v2.0/security-groups", "network/v2.0/security-group-rules"


def group(client: Client, name: str = "g") -> str:
    return str(client.post(GROUPS, {"security_group": {"name": name, "description": "d"}})["security_group"]["id"])


def test_the_shared_network(site: Site, demo: Client) -> None:
    network, = demo.get("network/v2.0/networks?name=local-net")["networks"]
    assert network["shared"] is True
    subnet = demo.get(f"network/v2.0/subnets/{network['subnets'][0]}")["subnet"]
    assert subnet["cidr"] == "127.64.0.0/16"
    assert site.client("local-other").get("network/v2.0/networks?shared=true")["networks"] == [network]


def test_a_server_has_a_port_in_its_groups(site: Site, demo: Client) -> None:
    key = group(demo)
    server_id = demo.boot(security_groups=[{"name": key}])["server"]["id"]
    port, = demo.get(f"network/v2.0/ports?device_id={server_id}")["ports"]
    assert port["security_groups"] == [key]
    assert ipaddress.ip_address(port["fixed_ips"][0]["ip_address"]) in ipaddress.ip_network("127.64.0.0/16")
    assert demo.get(f"compute/v2.1/servers/{server_id}/os-interface")["interfaceAttachments"][0]["port_id"] == port["id"]
    answer = demo.request("DELETE", f"{GROUPS}/{key}")
    assert (answer.status_code, answer.json) == (409, {"NeutronError": {
        "type": "SecurityGroupInUse", "message": f"Security Group {key} in use.", "detail": ""}})
    demo.request("DELETE", f"compute/v2.1/servers/{server_id}")
    site.after(1)
    assert demo.request("DELETE", f"{GROUPS}/{key}").status_code == 204
    assert demo.request("DELETE", f"{GROUPS}/{key}").json["NeutronError"]["type"] == "SecurityGroupNotFound"


def test_tags_and_filters_of_groups(demo: Client) -> None:
    one, two = group(demo, "one"), group(demo, "two")
    assert demo.request("PUT", f"{GROUPS}/{one}/tags", {"tags": ["cml-nova", "cml:job:1"]}).status_code == 200
    assert demo.request("PUT", f"{GROUPS}/{two}/tags/cml-nova").status_code == 201
    for query, names in (("tags=cml-nova", {"one", "two"}), ("tags=cml-nova,cml:job:1", {"one"}), ("tags-any=cml:job:1,x", {"one"}),
                         ("not-tags-any=cml-nova", {"default"}), ("name=two", {"two"}), ("description=d", {"one", "two"}),
                         (f"id={one}", {"one"})):
        assert {found["name"] for found in demo.get(f"{GROUPS}?{query}")["security_groups"]} == names, query
    assert demo.get(f"{GROUPS}?fields=id&name=one")["security_groups"] == [{"id": one}]
    answer = demo.request("GET", f"{GROUPS}?colour=red")
    assert (answer.status_code, answer.json["NeutronError"]["type"]) == (400, "HTTPBadRequest")


def test_rules(demo: Client) -> None:
    key = group(demo)
    rule = {"security_group_id": key, "direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
    inside = {"security_group_id": key, "direction": "ingress", "remote_group_id": key}
    made = demo.post(RULES, {"security_group_rules": [rule, inside]})["security_group_rules"]
    assert len(made) == 2
    shown = demo.get(f"{GROUPS}/{key}")["security_group"]["security_group_rules"]
    assert sorted(rule["direction"] for rule in shown) == ["egress", "egress", "ingress", "ingress"]
    answer = demo.request("POST", RULES, {"security_group_rule": rule})
    assert answer.status_code == 409
    assert made[0]["id"] in answer.json["NeutronError"]["message"]
    assert demo.request("DELETE", f"{RULES}/{made[0]['id']}").status_code == 204
    assert demo.request("GET", f"{RULES}/{made[0]['id']}").status_code == 404


def test_bulk_rules_are_all_or_none(demo: Client) -> None:
    key = group(demo)
    good = {"security_group_id": key, "direction": "ingress", "protocol": "tcp", "port_range_min": 1, "port_range_max": 2}
    assert demo.request("POST", RULES, {"security_group_rules": [good, {**good, "port_range_max": 0}]}).status_code == 400
    assert len(demo.get(f"{RULES}?security_group_id={key}")["security_group_rules"]) == 2


@pytest.mark.parametrize("change", [
    {"direction": "sideways"}, {"port_range_min": 5, "port_range_max": 1}, {"protocol": None}, {"ethertype": "IPX"},
    {"remote_ip_prefix": "10.0.0.0/99"}, {"remote_ip_prefix": "::/0"}, {"colour": "red"},
])
def test_refused_rules(demo: Client, change: dict) -> None:
    rule = {"security_group_id": group(demo), "direction": "ingress", "protocol": "tcp", "port_range_min": 1, "port_range_max": 2}
    assert demo.request("POST", RULES, {"security_group_rule": {**rule, **change}}).status_code == 400


def test_the_default_group_stays(demo: Client) -> None:
    default, = demo.get(GROUPS)["security_groups"]
    assert len(default["security_group_rules"]) == 4
    assert demo.request("DELETE", f"{GROUPS}/{default['id']}").status_code == 409
    assert demo.request("POST", GROUPS, {"security_group": {"name": "default"}}).status_code == 409


def test_projects_and_roles(site: Site, demo: Client) -> None:
    key = group(demo)
    other, reader, admin = site.client("local-other"), site.client("local-reader"), site.client("local-admin")
    assert key not in {found["id"] for found in other.get(GROUPS)["security_groups"]}
    assert other.request("DELETE", f"{GROUPS}/{key}").status_code == 404
    assert other.request("PUT", f"{GROUPS}/{key}/tags/x").status_code == 404
    assert reader.get(f"{GROUPS}/{key}")["security_group"]["name"] == "g"
    answer = reader.request("DELETE", f"{GROUPS}/{key}")
    assert (answer.status_code, answer.json["NeutronError"]["type"]) == (403, "PolicyNotAuthorized")
    assert admin.request("DELETE", f"{GROUPS}/{key}").status_code == 204
    network = demo.get("network/v2.0/networks")["networks"][0]["id"]
    assert demo.request("PUT", f"network/v2.0/networks/{network}/tags/x").status_code == 403


def test_quota(site: Site, demo: Client) -> None:
    path = f"network/v2.0/quotas/{demo.project}"
    assert demo.request("PUT", path, {"quota": {"security_group": 1}}).status_code == 403
    site.client("local-admin").request("PUT", path, {"quota": {"security_group": 2, "port": 1}})
    group(demo)
    answer = demo.request("POST", GROUPS, {"security_group": {"name": "more"}})
    assert (answer.status_code, answer.json["NeutronError"]["type"]) == (409, "OverQuota")
    assert demo.get(f"{path}/details")["quota"]["security_group"] == {"limit": 2, "used": 2, "reserved": 0}
    assert demo.boot(count=2, status=403)["forbidden"]["message"] == "Maximum number of ports exceeded"
    assert demo.servers() == [] and demo.get("network/v2.0/ports")["ports"] == []
    assert site.client("local-admin").request("DELETE", path).status_code == 204
    demo.boot(count=2)


def test_ports(demo: Client) -> None:
    network = demo.get("network/v2.0/networks")["networks"][0]["id"]
    port = demo.post("network/v2.0/ports", {"port": {"network_id": network, "name": "p"}})["port"]
    assert demo.request("PUT", f"network/v2.0/ports/{port['id']}/tags", {"tags": ["x"]}).status_code == 200
    assert demo.get("network/v2.0/ports?tags=x")["ports"][0]["id"] == port["id"]
    assert demo.get(f"network/v2.0/ports?fixed_ips=ip_address%3D{port['fixed_ips'][0]['ip_address']}")["ports"][0]["name"] == "p"
    assert demo.request("DELETE", f"network/v2.0/ports/{port['id']}").status_code == 204
    assert demo.request("GET", f"network/v2.0/ports/{port['id']}").json["NeutronError"]["type"] == "PortNotFound"
