#!/usr/bin/python3 -IS
"""What the cloud tells a node at its first boot: host key, login, network. The part of cloud-init that the service needs.

Reads OpenStack's config drive or, where there is none, its metadata service. Of the user data it understands cloud-config written
as JSON (which is YAML): users, ssh_authorized_keys, ssh_keys, write_files and runcmd. The SSH server waits for this program and
not for the commands of runcmd. Standard library only, and few imports: a slow guest feels each of them.
"""

import json
import os
import socket
import subprocess
import sys
import time

USER = "cml"  # the login that the image has
LABELS = ("/dev/disk/by-label/config-2", "/dev/disk/by-label/CONFIG-2")
MOUNT_POINT = "/run/cml/config-drive"
METADATA = "http://169.254.169.254/openstack/latest/"
DEADLINE = 300  # seconds that the metadata service may take to answer
SEEN = "/var/lib/cml/instance"
HEADER = "#cloud-config"
UNDERSTOOD = {"users", "ssh_authorized_keys", "ssh_keys", "write_files", "runcmd"}
GIVEN = {"disable_root", "ssh_pwauth", "ssh_deletekeys", "ssh_genkeytypes"}  # the image is like that anyway


class FirstBootError(Exception):
    """What the cloud gave can't be used."""


def say(text):
    """Write a line to the console and the journal."""
    print("firstboot: " + text, file=sys.stderr, flush=True)


# where the data comes from

def read_drive():
    """Give a function that reads a file of the config drive as text, or None without a drive."""
    subprocess.run(["udevadm", "settle", "--timeout=20", "--exit-if-exists=" + LABELS[0]], check=False)
    device = next((label for label in LABELS if os.path.exists(label)), None)
    if not device:
        return None
    os.makedirs(MOUNT_POINT, mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-o", "ro,nosuid,nodev,noexec", device, MOUNT_POINT], check=True)

    def read(name):
        try:
            with open(os.path.join(MOUNT_POINT, "openstack/latest", name), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""
    return read


def read_metadata():
    """Give a function that reads a file of the metadata service as text, as soon as that answers.

    :raises FirstBootError: it did not in time.
    """
    import urllib.error
    import urllib.request
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(name):
        try:
            with opener.open(METADATA + name, timeout=10) as answer:
                return answer.read().decode("utf-8")
        except urllib.error.HTTPError as error:
            if error.code == 404 and name != "meta_data.json":
                return ""
            raise
    limit = time.monotonic() + DEADLINE
    while True:
        try:
            read("meta_data.json")
            return read
        except OSError as error:
            if time.monotonic() > limit:
                raise FirstBootError("no config drive, and %s did not answer: %s" % (METADATA, error)) from error
            time.sleep(0.5)


# what it says

def parse_user_data(text):
    """Give the cloud-config document, empty without one.

    :raises FirstBootError: it is user data of another kind.
    """
    text = text.strip()
    if not text:
        return {}
    header, _, body = text.partition("\n")
    try:
        document = json.loads(body) if header.strip() == HEADER else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise FirstBootError("the user data is no cloud-config in JSON; this image understands nothing else (cloud-init is not in it)")
    strange = sorted(set(document) - UNDERSTOOD - GIVEN)
    if strange:
        say("not understood and left out: " + ", ".join(strange))
    return document


def logins(document, public_keys):
    """Give the shell and the keys of every login: {name: (shell, [key, ...])}. Without ``users`` the keys are the image's own login's."""
    users = [user for user in document.get("users", []) if isinstance(user, dict)] or [{"name": USER}]
    common = list(document.get("ssh_authorized_keys", [])) + list(public_keys)
    found = {}
    for position, user in enumerate(users):
        keys = list(user.get("ssh_authorized_keys", [])) + (common if position == 0 else [])
        found[user["name"]] = (user.get("shell", "/bin/sh"), list(dict.fromkeys(key.strip() for key in keys)))
    return found


def network_files(network):
    """Give the networkd files for interfaces without DHCP: {name: text}. Everything else has DHCP from the image.

    :param network: OpenStack's network_data.json.
    """
    links = {link["id"]: link for link in network.get("links", [])}
    servers = [service["address"] for service in network.get("services", []) if service.get("type") == "dns"]
    files = {}
    for entry in network.get("networks", []):
        link = links.get(entry.get("link"), {})
        if entry.get("type") not in ("ipv4", "ipv6") or "ethernet_mac_address" not in link:
            continue
        name = "10-%s.network" % link["id"]
        head = "[Match]\nMACAddress=%s\n[Network]\nDHCP=no\n" % link["ethernet_mac_address"]
        lines = [files.get(name, head), "[Address]\nAddress=%s/%d\n" % (entry["ip_address"], prefix(entry))]
        for route in entry.get("routes", []):
            lines.append("[Route]\nDestination=%s/%d\nGateway=%s\n" % (route["network"], prefix(route), route["gateway"]))
        lines += ["[Network]\nDNS=%s\n" % server for server in servers]
        files[name] = "".join(lines)
    return files


def prefix(entry):
    """Give the length of the network's prefix from a netmask, or from an address that has it in it."""
    mask = entry.get("netmask", "")
    if not mask:
        return int(entry["ip_address"].partition("/")[2] or 128)
    family = socket.AF_INET6 if ":" in mask else socket.AF_INET
    return bin(int.from_bytes(socket.inet_pton(family, mask), "big")).count("1")


# doing it

def write(path, text, mode=0o644, owner=None):
    """Write a file so that nobody sees a part of it, nor a secret before it is private."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = path + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        if owner:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)
    os.rename(temporary, path)


def add_login(name, shell, keys):
    """Let the keys' holders log in under a name, which is made if need be."""
    import pwd
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", shell, "--", name], check=True)
        account = pwd.getpwnam(name)
    owner = (account.pw_uid, account.pw_gid)
    directory = os.path.join(account.pw_dir, ".ssh")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chown(directory, *owner)
    write(os.path.join(directory, "authorized_keys"), "".join(key + "\n" for key in keys), 0o600, owner)


def add_host_keys(keys):
    """Write the host keys that were given; make one if there is none at all."""
    for name, text in keys.items():
        kind, _, part = name.partition("_")
        path = "/etc/ssh/ssh_host_%s_key" % kind
        write(path if part == "private" else path + ".pub", text.strip() + "\n", 0o600 if part == "private" else 0o644)
    if not os.path.exists("/etc/ssh/ssh_host_ed25519_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"], check=True)


def apply(read):
    """Do what the data says, unless this very server was told before; give the commands that are left to run."""
    meta = json.loads(read("meta_data.json"))
    network = network_files(json.loads(read("network_data.json") or "{}"))
    for name, text in network.items():
        write("/run/systemd/network/" + name, text)
    if network:
        subprocess.run(["networkctl", "reload"], check=False)  # fails where networkd is yet to start: it will read them then
    try:
        with open(SEEN, encoding="utf-8") as file:
            if file.read() == meta["uuid"]:
                return []
    except FileNotFoundError:
        pass
    try:
        document = parse_user_data(read("user_data"))
    except FirstBootError as error:
        say(str(error))
        document = {}
    name = str(meta.get("hostname", "node")).partition(".")[0]
    write("/etc/hostname", name + "\n")
    socket.sethostname(name)
    for entry in document.get("write_files", []):
        write(entry["path"], entry.get("content", ""), int(entry.get("permissions", "0644"), 8))
    add_host_keys(document.get("ssh_keys", {}))
    for login, (shell, keys) in logins(document, meta.get("public_keys", {}).values()).items():
        add_login(login, shell, keys)
    write(SEEN, meta["uuid"])
    return document.get("runcmd", [])


def ready():
    """Tell systemd that the SSH server may start."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def main():
    """Read, apply, report, and run the commands."""
    drive = read_drive()
    commands = apply(drive or read_metadata())
    if drive:
        subprocess.run(["umount", MOUNT_POINT], check=False)
    ready()
    for command in commands:
        subprocess.run(command, shell=isinstance(command, str), check=False)


if __name__ == "__main__":
    try:
        main()
    except (FirstBootError, subprocess.CalledProcessError, OSError, ValueError, KeyError) as error:
        say(repr(error) if isinstance(error, KeyError) else str(error))
        sys.exit(1)
