"""What a node is told at its first boot: its host key, and who may log in."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cml_nova import exception

#: Nova's limit is 65535 bytes after base64, EC2-style clouds and some images take 16 KiB only
MAX_BYTES = 16 * 1024
_HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


def cloud_config(host_private: str, host_public: str, authorized_keys: Sequence[str], user: str) -> str:
    """Write a cloud-config document. It holds one secret: the private part of the node's own host key.

    cloud-init understands all of it. An image's own script needs ``ssh_authorized_keys``, ``write_files`` and ``runcmd``, and a login
    of that name that is there already.

    :param authorized_keys: public keys, one line each; all may log in as ``user``.
    :raises BadRequest: a key has more than one line, or the document exceeds 16 KiB.
    """
    keys = [key.strip() for key in authorized_keys]
    for key in keys:
        if not key or any(ord(sign) < 32 for sign in key):
            raise exception.BadRequest(f"ssh_authorized_keys: {key[:40]!r} is not one line with one public key.")
    document = {
        "disable_root": user != "root",
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": host_private.strip() + "\n", "ed25519_public": host_public.strip()},
        "ssh_authorized_keys": keys,
        "users": [{
            "name": user, "shell": "/bin/sh", "lock_passwd": True, "ssh_authorized_keys": keys,
        }],
        "write_files": [
            # the user's service manager has to outlive the last login: the training runs in a unit of it. What loginctl would
            # write, but before the first login rather than when cloud-init ends
            {"path": f"/var/lib/systemd/linger/{user}", "content": "", "permissions": "0644"},
            # small images read cloud-config by a script of their own, which knows files and commands but not ssh_keys
            {"path": _HOST_KEY, "content": host_private.strip() + "\n", "permissions": "0600"},
            {"path": _HOST_KEY + ".pub", "content": host_public.strip() + "\n", "permissions": "0644"},
        ],
        # and start the SSH server before they read it; under systemd it starts after cloud-init has written the key
        "runcmd": [["sh", "-c", "[ -d /run/systemd/system ] || kill -HUP $(cat /run/sshd.pid)"]],
    }
    # JSON is YAML, and leaves no doubt about quoting
    text = "#cloud-config\n" + json.dumps(document, indent=1) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise exception.BadRequest(f"ssh_authorized_keys: the user data of a node would be {len(text.encode())} bytes; "
                                   f"at most {MAX_BYTES} are possible. Give fewer keys.")
    return text
