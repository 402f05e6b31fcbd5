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
