"""The cloud-config of a node."""

from __future__ import annotations

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from cml_nova import exception
from cml_nova.remote import cloud_config, generate_keypair


def test_it_is_a_cloud_config_with_the_host_key_and_the_logins() -> None:
    private, public = generate_keypair()
    text = cloud_config(private, public, ["ssh-ed25519 AAAA job", "ssh-rsa BBBB user's: #key\n"], "cml")
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert document["ssh_keys"]["ed25519_public"] == public
    assert document["ssh_keys"]["ed25519_private"] == private
    assert document["users"][0]["name"] == "cml"
    for keys in (document["users"][0]["ssh_authorized_keys"], document["ssh_authorized_keys"]):
        assert keys == ["ssh-ed25519 AAAA job", "ssh-rsa BBBB user's: #key"]
    assert document["ssh_pwauth"] is False


def test_the_pair_belongs_together() -> None:
    private, public = generate_keypair()
    key = serialization.load_ssh_private_key(private.encode(), None)
    assert key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() == public
    assert generate_keypair() != (private, public)


@pytest.mark.parametrize("key", ["", "one\ntwo", "a\x00b"])
def test_a_key_is_one_line(key: str) -> None:
    with pytest.raises(exception.BadRequest, match="ssh_authorized_keys"):
        cloud_config(*generate_keypair(), [key], "cml")


def test_it_fits_where_the_least_room_is() -> None:
    keys = ["ssh-ed25519 " + "A" * 400] * 10
    assert len(cloud_config(*generate_keypair(), keys, "cml")) <= 16384
    with pytest.raises(exception.BadRequest, match="at most 16384"):
        cloud_config(*generate_keypair(), keys * 4, "cml")


def test_an_image_that_only_writes_files_and_runs_commands_gets_the_host_key_too() -> None:
    private, public = generate_keypair()
    document = yaml.safe_load(cloud_config(private, public, ["ssh-ed25519 AAAA job"], "cml"))
    files = {file["path"]: (file["content"], file["permissions"]) for file in document["write_files"]}
    assert files["/etc/ssh/ssh_host_ed25519_key"] == (private.strip() + "\n", "0600")
    assert files["/etc/ssh/ssh_host_ed25519_key.pub"] == (public.strip() + "\n", "0644")
    assert "HUP" in document["runcmd"][0][-1]


def test_the_login_lingers_from_the_first_boot_on() -> None:
    document = yaml.safe_load(cloud_config(*generate_keypair(), ["ssh-ed25519 AAAA job"], "ubuntu"))
    assert "/var/lib/systemd/linger/ubuntu" in [file["path"] for file in document["write_files"]]


@pytest.mark.parametrize(("user", "disabled"), [("cml", True), ("root", False)])
def test_root_is_shut_out_unless_it_is_the_login(user: str, disabled: bool) -> None:
    assert yaml.safe_load(cloud_config(*generate_keypair(), ["ssh-ed25519 AAAA job"], user))["disable_root"] is disabled
