"""What an image of tools/build-image understands of the data that the cloud gives it at first boot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cml_nova.remote import userdata

PROGRAM = Path(__file__).resolve().parents[3] / "etc/image/rootfs/usr/local/lib/cml/firstboot.py"


@pytest.fixture
def firstboot() -> Any:
    specification = importlib.util.spec_from_file_location("firstboot", PROGRAM)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Node:
    """A machine that is being told; nothing of this one is touched."""

    def __init__(self, firstboot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.firstboot = firstboot
        self.files: dict[str, tuple[str, int]] = {}
        self.logins: dict[str, tuple[str, list[str]]] = {}
        self.ran: list[Any] = []
        self.said: list[str] = []
        monkeypatch.setattr(firstboot, "SEEN", str(tmp_path / "instance"))
        monkeypatch.setattr(firstboot, "write", self._write)
        monkeypatch.setattr(firstboot, "add_login", lambda name, shell, keys: self.logins.update({name: (shell, keys)}))
        monkeypatch.setattr(firstboot, "say", self.said.append)
        monkeypatch.setattr(firstboot.socket, "sethostname", lambda name: None)
        monkeypatch.setattr(firstboot.subprocess, "run", lambda command, **_: self.ran.append(command))

    def _write(self, path: str, text: str, mode: int = 0o644, owner: Any = None) -> None:
        self.files[path] = (text, mode)
        if path == self.firstboot.SEEN:
            Path(path).write_text(text)

    def boot(self, user_data: str = "", network: dict[str, Any] | None = None, **meta: Any) -> Any:
        data = {"meta_data.json": json.dumps({"uuid": "one", "hostname": "job-1.novalocal", **meta}), "user_data": user_data,
                "network_data.json": json.dumps(network or {})}
        read: Callable[[str], str] = data.__getitem__
        return self.firstboot.apply(read)


@pytest.fixture
def node(firstboot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    return Node(firstboot, monkeypatch, tmp_path)


def test_understands_all_that_the_service_writes(node: Node) -> None:
    commands = node.boot(userdata.cloud_config("PRIVATE", "ssh-ed25519 PUBLIC", ["ssh-ed25519 A", "ssh-ed25519 B"], "cml"))
    assert node.files["/etc/ssh/ssh_host_ed25519_key"] == ("PRIVATE\n", 0o600)
    assert node.files["/etc/ssh/ssh_host_ed25519_key.pub"] == ("ssh-ed25519 PUBLIC\n", 0o644)
    assert node.logins == {"cml": ("/bin/sh", ["ssh-ed25519 A", "ssh-ed25519 B"])}
    assert node.files["/etc/hostname"] == ("job-1\n", 0o644)
    assert "/var/lib/systemd/linger/cml" in node.files
    assert isinstance(commands, list)
    assert not node.said, "nothing was left out"


def test_a_second_boot_changes_nothing(node: Node) -> None:
    text = userdata.cloud_config("PRIVATE", "ssh-ed25519 PUBLIC", ["ssh-ed25519 A"], "cml")
    node.boot(text)
    node.files.clear()
    assert node.boot(text) == []
    assert not node.files


def test_a_server_made_from_a_snapshot_is_told_anew(node: Node) -> None:
    node.boot(userdata.cloud_config("OLD", "ssh-ed25519 OLD", ["ssh-ed25519 A"], "cml"))
    node.boot(userdata.cloud_config("NEW", "ssh-ed25519 NEW", ["ssh-ed25519 A"], "cml"), uuid="two")
    assert node.files["/etc/ssh/ssh_host_ed25519_key"] == ("NEW\n", 0o600)


def test_a_key_pair_of_nova_opens_the_images_own_login(node: Node) -> None:
    node.boot(public_keys={"mine": "ssh-ed25519 K\n"})
    assert node.logins == {"cml": ("/bin/sh", ["ssh-ed25519 K"])}
    assert any("ssh-keygen" in command for command in node.ran), "no host key was given, so one is made"


@pytest.mark.parametrize("text", ["#!/bin/sh\nreboot\n", "#cloud-config\nusers: [a]\n", "#cloud-config\n[1]", "{}"])
def test_other_user_data_is_named_and_left_out(node: Node, text: str) -> None:
    assert node.boot(text, public_keys={"mine": "ssh-ed25519 K"}) == []
    assert "no cloud-config in JSON" in node.said[0]
    assert node.logins["cml"] == ("/bin/sh", ["ssh-ed25519 K"])


def test_what_it_does_not_understand_is_named(node: Node) -> None:
    node.boot('#cloud-config\n{"packages": ["vim"], "write_files": [{"path": "/etc/x", "content": "y", "permissions": "0600"}]}')
    assert node.said == ["not understood and left out: packages"]
    assert node.files["/etc/x"] == ("y", 0o600)


def test_addresses_without_dhcp(node: Node) -> None:
    link = {"id": "tap1", "type": "ovs", "ethernet_mac_address": "fa:16:3e:00:00:01"}
    network = {"links": [link], "services": [{"type": "dns", "address": "192.0.2.53"}], "networks": [
        {"type": "ipv4", "link": "tap1", "ip_address": "192.0.2.7", "netmask": "255.255.255.0",
         "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"}]},
        {"type": "ipv6", "link": "tap1", "ip_address": "2001:db8::7", "netmask": "ffff:ffff:ffff:ffff::", "routes": []},
    ]}
    node.boot(network=network)
    text, mode = node.files["/run/systemd/network/10-tap1.network"]
    assert mode == 0o644
    for line in ("MACAddress=fa:16:3e:00:00:01", "Address=192.0.2.7/24", "Destination=0.0.0.0/0", "Gateway=192.0.2.1",
                 "Address=2001:db8::7/64", "DNS=192.0.2.53", "DHCP=no"):
        assert line in text.splitlines()
    assert ["networkctl", "reload"] in node.ran


def test_dhcp_is_left_to_the_image(node: Node) -> None:
    link = {"id": "tap1", "ethernet_mac_address": "fa:16:3e:00:00:01"}
    node.boot(network={"links": [link], "networks": [{"type": "ipv4_dhcp", "link": "tap1"}], "services": []})
    assert not [path for path in node.files if path.startswith("/run/systemd/network")]


def test_a_secret_is_private_before_it_is_written(firstboot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    really = firstboot.os.fdopen

    def fdopen(fd: int, *args: Any, **kwargs: Any) -> Any:
        modes.append(firstboot.os.fstat(fd).st_mode & 0o777)
        return really(fd, *args, **kwargs)
    monkeypatch.setattr(firstboot.os, "fdopen", fdopen)
    firstboot.write(str(tmp_path / "etc" / "key"), "secret", 0o644)
    assert modes == [0o600]
    assert (tmp_path / "etc" / "key").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["key"]
