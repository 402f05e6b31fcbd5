"""Makes what the service needs on a cloud, with an administrator's account named by OS_CLOUD: roles, projects, the service's user, the
endpoints, and the nodes' quota and network. What is there already is kept; a second run changes nothing.

Runs inside the virtual environment that tools/register-service has prepared.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bootstrap
import openstack
import registration
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions as sdk_exceptions
from openstack.connection import Connection
from registration import INTERFACES, QUOTAS, Identity, Ledger, Networks, RegistrationError

#: exit code of --check when something is missing
MISSING = 2
#: how often the new account is tried, a second apart
_TRIES = 4
#: what a password may consist of: the configuration file gives other characters a meaning
_PASSWORD = re.compile(r"[A-Za-z0-9._~+=:,/@!-]+")


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/register-service", allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", help="where the tools' virtual environment is kept")
    parser.add_argument("--check", action="store_true", help=f"only tell what is missing; the exit code is {MISSING} then")
    accounts = parser.add_argument_group("accounts")
    accounts.add_argument("--password-file", type=Path, required=True, metavar="FILE",
                          help="holds the password of the service's user; made with a new one where there is no such file")
    accounts.add_argument("--set-password", action="store_true", help="give a user that is there already the password of the file")
    accounts.add_argument("--domain", default="Default", help="domain of the user and the projects (Default)")
    accounts.add_argument("--user", default="cml_nova", help="the service's user (cml_nova)")
    accounts.add_argument("--service-project", default="service", help="project in which it checks tokens (service)")
    accounts.add_argument("--project", default="cml-nodes", help="project that owns the nodes of all jobs (cml-nodes)")
    accounts.add_argument("--quota", type=_quota, default={}, metavar="NAME=N,...",
                          help=f"quota of that project, -1 for no limit: {', '.join(QUOTAS)}")
    catalog = parser.add_argument_group("catalog")
    catalog.add_argument("--endpoint", required=True, metavar="URL", help="of the API, as users reach it")
    catalog.add_argument("--internal-endpoint", metavar="URL", help="as services of the cloud reach it, if that is another")
    catalog.add_argument("--admin-endpoint", metavar="URL", help="as administrators reach it, if that is another")
    catalog.add_argument("--region", help="region of the endpoints and nodes (that of the administrator's account)")
    catalog.add_argument("--replace-endpoints", action="store_true", help="change endpoints that are there with other URLs")
    network = parser.add_argument_group("network of the nodes")
    which = network.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", metavar="NAME", help="one that is there, which the workers reach directly")
    which.add_argument("--create-network", metavar="CIDR", help="make a private one with these addresses")
    network.add_argument("--network-name", default="cml-nodes", metavar="NAME", help="name of the one to be made (cml-nodes)")
    network.add_argument("--external", metavar="NET",
                         help="external network from which the nodes get floating addresses; with --create-network a router to it is made")
    config = parser.add_argument_group("configuration")
    config.add_argument("--write-config", type=Path, metavar="FILE",
                        help="write [keystone_authtoken] and [cloud] there, for the owner only")
    config.add_argument("--interface", default="public", choices=INTERFACES, help="endpoints that the service itself uses (public)")
    return parser.parse_args(argv)


def _quota(text: str) -> dict[str, int]:
    wanted = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in QUOTAS or not re.fullmatch(r"-1|[0-9]{1,9}", value):
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=NUMBER with a name of {', '.join(QUOTAS)}")
        wanted[name] = int(value)
    return wanted


class Password:
    """The password and the file that it is kept in.

    :raises RegistrationError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = not path.exists()
        self.text = secrets.token_urlsafe(32) if self.is_new else path.read_text().rstrip("\r\n")
        if not _PASSWORD.fullmatch(self.text):
            raise RegistrationError(f"{path} must hold one line with a password of letters, digits and ._~+=:,/@!-; for a new one "
                                    "delete the file.")
        if not self.is_new and path.stat().st_mode & 0o077:
            raise RegistrationError(f"{path} may be read by others: chmod 600 {path}, and consider its password known.")

    def store(self) -> None:
        """Write a new one to its file."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.text + "\n")


class Registration:
    """One run.

    :param cloud: an administrator's connection.
    """

    def __init__(self, opts: argparse.Namespace, cloud: Connection, ledger: Ledger) -> None:
        self._opts = opts
        self._cloud = cloud
        self._ledger = ledger
        self._identity = Identity(cloud, ledger, opts.domain)
        self.region = opts.region or cloud.config.get_region_name()
        if not self.region:
            raise RegistrationError("The administrator's account names no region; name it with --region.")
        self._identity.check_region(self.region)

    def run(self) -> None:
        """See to everything, and try it with the service's own account."""
        password = Password(self._opts.password_file)
        nodes = self._accounts(password)
        self._catalog()
        registration.set_quota(self._cloud, self._ledger, nodes, self._opts.quota)
        network = self._network(nodes)
        if not self._ledger.dry:
            self._try(password.text, network)
        if self._opts.write_config:
            self._write_config(password.text, network)

    def _accounts(self, password: Password) -> Any:
        """See to roles, projects and the user; give the nodes' project."""
        opts, identity = self._opts, self._identity
        reader = identity.role("reader")
        member = identity.role("member", implies=reader)
        identity.role("manager", implies=member)
        service = identity.role("service")
        home = identity.project(opts.service_project, "Services of the cloud")
        nodes = identity.project(opts.project, "Virtual machines of cml_nova's jobs")
        user = self._user(password)
        identity.assign(service, user, home, f"role service of {opts.user} in {opts.service_project}")
        identity.assign(member, user, nodes, f"role member of {opts.user} in {opts.project}")
        if None not in (user, home, nodes, service, member):
            identity.warn_of_more(user, {(service.id, home.id), (member.id, nodes.id)})
        return nodes

    def _user(self, password: Password) -> Any:
        """See to the user, and that the file has its password.

        :raises RegistrationError: it has another one, which is not to be changed.
        """
        name, ledger = self._opts.user, self._ledger
        user = self._identity.find_user(name)
        if user is not None and not password.is_new and self._works(password.text):
            ledger.kept(f"password of {name}")
            return user
        if user is not None and not self._opts.set_password:
            raise RegistrationError(
                f"The user {name} is there, but {password.path} does not hold its password. Put it there, or let --set-password give it "
                "the file's, or a new one where there is no file; whatever uses the old one then needs the new one.")
        if password.is_new:
            ledger.change(f"password in {password.path}", password.store)
        if user is None:
            return self._identity.create_user(name, password.text)
        self._identity.set_password(user, password.text)
        return user

    def _works(self, password: str) -> bool:
        try:
            self._connect(password, None).session.get_token()
        except ks_exceptions.Unauthorized:
            return False
        return True

    def _connect(self, password: str, project: str | None) -> Connection:
        """Connect as the service does; without a project, to Keystone alone."""
        auth = {"auth_url": self._auth_url(), "username": self._opts.user, "password": password, "user_domain_name": self._opts.domain}
        if project:
            auth |= {"project_name": project, "project_domain_name": self._opts.domain}
        config = self._cloud.config.config
        return openstack.connect(
            load_yaml_config=False, load_envvars=False, auth_type="password", auth=auth, region_name=self.region,
            interface=self._opts.interface, verify=config.get("verify"), cacert=config.get("cacert"))

    def _auth_url(self) -> str:
        url: str = self._cloud.config.config["auth"]["auth_url"]
        return url

    def _catalog(self) -> None:
        opts = self._opts
        service = self._identity.service("cml_nova")
        urls = {"public": opts.endpoint, "internal": opts.internal_endpoint or opts.endpoint, "admin": opts.admin_endpoint or opts.endpoint}
        for interface, url in urls.items():
            self._identity.endpoint(service, interface, self.region, url.rstrip("/"), opts.replace_endpoints)

    def _network(self, nodes: Any) -> Any:
        opts, networks = self._opts, Networks(self._cloud, self._ledger, nodes)
        if opts.create_network:
            return networks.private(opts.network_name, opts.create_network, opts.external)
        network = networks.existing(opts.network)
        self._ledger.kept(f"network {network.name}")
        if opts.external:
            networks.existing(opts.external)
        return network

    def _try(self, password: str, network: Any) -> None:
        """Use the account as the service will: check a token of somebody else, and see what nodes are made of."""
        opts = self._opts
        nodes = self._connect(password, opts.project)
        for _ in range(_TRIES):
            home = self._connect(password, opts.service_project)
            answer = home.identity.get("/auth/tokens", headers={"X-Subject-Token": self._cloud.auth_token})
            if answer.status_code != 401:
                break
            time.sleep(1)  # Keystone takes a token of the second in which a password was changed for one from before
        if answer.status_code != 200:
            raise RegistrationError(f"The user {opts.user} may not check tokens with the role service in {opts.service_project}: Keystone "
                                    f"answers {answer.status_code}. Let its policy identity:validate_token allow role:service.")
        self._ledger.checked(f"{opts.user} may check tokens of others")
        if nodes.network.find_network(network.id) is None:
            raise RegistrationError(f"The project {opts.project} can't see the network {network.name}. Share it: openstack network rbac "
                                    f"create --type network --action access_as_shared --target-project {opts.project} {network.id}")
        limits = nodes.compute.get_limits().absolute
        self._ledger.checked(f"{opts.user} sees the network {network.name}, {len(list(nodes.compute.flavors()))} flavors, and a quota of "
                             f"{limits.instances} servers")

    def _write_config(self, password: str, network: Any) -> None:
        path: Path = self._opts.write_config
        text = self._config(password, network)
        if path.exists() and path.read_text() == text:
            self._ledger.kept(f"configuration in {path}")
        else:
            self._ledger.change(f"configuration in {path}", lambda: _write_private(path, text))

    def _config(self, password: str, network: Any) -> str:
        opts = self._opts
        account = {
            "auth_type": "password", "auth_url": self._auth_url(), "username": opts.user, "password": password,
            "user_domain_name": opts.domain, "project_domain_name": opts.domain, "interface": opts.interface, "region_name": self.region}
        if self._cloud.config.config.get("cacert"):
            account["cafile"] = self._cloud.config.config["cacert"]
        public = self._cloud.session.get_endpoint(service_type="identity", interface="public", region_name=self.region)
        groups = {
            "keystone_authtoken": {**account, "project_name": opts.service_project, "www_authenticate_uri": public or self._auth_url(),
                                   "service_token_roles_required": "true"},
            "cloud": {**account, "project_name": opts.project, "network": network.id if network else "",
                      **({"floating_network": opts.external} if opts.external else {})},
        }
        lines = ["# Written by tools/register-service, which writes it anew when it runs again: put other options elsewhere."]
        for group, values in groups.items():
            lines += ["", f"[{group}]", *(f"{name} = {value}" for name, value in values.items())]
        return "\n".join([*lines, ""])


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read; that of an old one stays, and a group that it let read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if path.exists():
                old = path.stat()
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), old.st_mode & 0o640)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main(argv: list[str]) -> int:
    opts = options(argv)
    ledger = Ledger(opts.check, lambda line: print(line, flush=True))
    try:
        cloud = openstack.connect()
        if not opts.check:
            # What stands in the way is told before anything is changed.
            Registration(opts, cloud, Ledger(True, lambda line: None)).run()
        Registration(opts, cloud, ledger).run()
    except (sdk_exceptions.SDKException, ks_exceptions.ClientException) as error:
        print(f"register-service: the cloud refuses: {error}\nIs OS_CLOUD, in clouds.yaml, an administrator's account?", file=sys.stderr)
        return 1
    except (RegistrationError, OSError) as error:
        print(f"register-service: {error}", file=sys.stderr)
        return 1
    if opts.check:
        print(f"{ledger.changes} missing" if ledger.changes else "nothing is missing")
        return MISSING if ledger.changes else 0
    print(f"{ledger.changes} changes" if ledger.changes else "nothing was to be changed")
    return 0


if __name__ == "__main__":
    bootstrap.run_tool("register-service", main, sys.argv[1:])
