"""cml-nova-status: is this host ready for this release?"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_upgradecheck import upgradecheck
from sqlalchemy import exc as sa_exception
from sqlalchemy import select

from cml_nova import conf as cml_conf
from cml_nova import exception, policy, rpc, startup
from cml_nova.cmd.status_cloud import CloudChecks
from cml_nova.conf import cloud
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.db.models import Job
from cml_nova.secrets import Vault
from cml_nova.storage import get_storage

#: most jobs whose sealed secrets are tried
_SEALED = 100
_SUCCESS, _WARNING, _FAILURE = upgradecheck.Code.SUCCESS, upgradecheck.Code.WARNING, upgradecheck.Code.FAILURE


class Checks(upgradecheck.UpgradeCommands):
    """Each check looks at one thing that keeps the service from starting or working."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf
        self.cloud = CloudChecks(conf)

    def configuration(self) -> upgradecheck.Result:
        """Tokens are checked, the service knows its own account on the cloud, and nobody else reads the passwords."""
        if self._conf.api.auth_strategy != "keystone":
            return upgradecheck.Result(_FAILURE, "[api] auth_strategy is not keystone: anybody may do anything")
        cloud.register_auth_opts(self._conf)
        if not self._conf.cloud.cloud and not self._conf.cloud.auth_type:
            return upgradecheck.Result(_FAILURE, "[cloud] names no account: it has neither cloud nor auth_type; tools/register-service "
                                                 "writes it")
        open_files = [str(path) for path in self._files() if path.stat().st_mode & 0o007]
        if open_files:
            return upgradecheck.Result(_FAILURE, f"everybody may use files with passwords in them: chmod o= {' '.join(open_files)}")
        if self._conf.cloud.ssh_source_cidr in ("0.0.0.0/0", "::/0"):
            return upgradecheck.Result(_WARNING, "[cloud] ssh_source_cidr lets everybody try SSH on the nodes: set it to where the workers "
                                                 "connect from")
        return upgradecheck.Result(_SUCCESS)

    def _files(self) -> list[Path]:
        """The files that the configuration was read from."""
        directories = [Path(name) for name in self._conf.config_dir or ()]
        return [Path(name) for name in self._conf.config_file or ()] + [path for entry in directories for path in entry.glob("*.conf")]

    def message_bus(self) -> upgradecheck.Result:
        """The bus is one that other processes reach, and it lets us in."""
        try:
            rpc.get_transport(self._conf)  # registers the driver's options
        except exception.ConfigurationError as error:
            return upgradecheck.Result(_FAILURE, error.message)
        url = messaging.TransportURL.parse(self._conf)
        if url.transport == "fake":
            return upgradecheck.Result(_WARNING, "transport_url is fake:/, which works within cml-nova-standalone only")
        if url.transport not in ("rabbit", "kombu"):
            return upgradecheck.Result(_SUCCESS, f"{url.transport}: not tried")
        errors = [text for host in url.hosts if (text := self._bus_error(host, url.virtual_host))]
        if errors:
            return upgradecheck.Result(_WARNING if len(errors) < len(url.hosts) else _FAILURE, f"transport_url: {'; '.join(errors)}")
        return upgradecheck.Result(_SUCCESS)

    def _bus_error(self, host: messaging.TransportHost, virtual_host: str | None) -> str | None:
        """Log in to a broker; tell what goes wrong."""
        connection = rpc.broker(self._conf, host, virtual_host)
        try:
            connection.connect()
        except rpc.BUS_ERRORS as error:
            return f"{host.hostname}:{host.port or 5672} as {host.username}: {error}"
        finally:
            connection.release()
        return None

    def database(self) -> upgradecheck.Result:
        """The schema is this release's, and the keys open what is sealed in it."""
        if not self._conf.database.connection:
            return upgradecheck.Result(_WARNING, "[database] has no connection; hosts of workers need none, those of api and conductor do")
        try:
            db = Database(self._conf)
            current, latest = migration.version(db), migration.latest()
            if current != latest:
                return upgradecheck.Result(_FAILURE, f"the schema is at {current}, this release has {latest}: run cml-nova-manage db sync")
            with db.read() as session:
                sealed = session.scalars(select(Job.sealed).order_by(Job.created_at.desc()).limit(_SEALED)).all()
        except exception.ConfigurationError as error:
            return upgradecheck.Result(_FAILURE, error.message)
        except (exception.DatabaseUnavailable, db_exception.DBError, sa_exception.SQLAlchemyError) as error:
            return upgradecheck.Result(_FAILURE, f"[database] connection: {type(error).__name__}: {error}")
        return self._opened(sealed)

    def _opened(self, sealed: Sequence[str]) -> upgradecheck.Result:
        try:
            vault = Vault.from_conf(self._conf)
        except exception.ConfigurationError:
            return upgradecheck.Result(_SUCCESS)  # the next check tells
        closed = 0
        for text in sealed:
            try:
                vault.open(text)
            except exception.CMLError:
                closed += 1
        if closed:
            return upgradecheck.Result(_FAILURE, f"the keys of [secrets] key_file do not open the secrets of {closed} of the last "
                                                 f"{len(sealed)} jobs: put back the keys that sealed them, below the newest")
        return upgradecheck.Result(_SUCCESS)

    def policy_file(self) -> upgradecheck.Result:
        """What the operator's policy file says can be read and names rules that exist."""
        enforcer = policy.make_enforcer(self._conf)
        try:
            enforcer.load_rules()
            if not enforcer.check_rules():
                return upgradecheck.Result(_FAILURE, "the policy refers to rules that do not exist, or to themselves; see the log")
        except (cfg.Error, ValueError, OSError) as error:
            return upgradecheck.Result(_FAILURE, f"[oslo_policy] policy_file: {error}")
        unknown = sorted(name for name in enforcer.file_rules if name not in enforcer.registered_rules)
        if unknown:
            return upgradecheck.Result(_WARNING, f"the policy file has rules that the service does not ask for: {', '.join(unknown)}")
        return upgradecheck.Result(_SUCCESS)

    def key_file(self) -> upgradecheck.Result:
        """The keys that seal secrets are there, usable, and nobody else's."""
        path = Path(self._conf.secrets.key_file)
        try:
            vault = Vault.from_conf(self._conf)
            vault.open(vault.seal({}))
        except exception.ConfigurationError as error:
            return upgradecheck.Result(_FAILURE, error.message)
        if path.stat().st_mode & 0o007:
            return upgradecheck.Result(_FAILURE, f"{path} may be read or written by everybody: chmod o= it")
        return upgradecheck.Result(_SUCCESS)

    def storage(self) -> upgradecheck.Result:
        """The storage takes an object and gives it back."""
        key = "upgrade-check/probe"
        try:
            storage = get_storage(self._conf)
            storage.put(key, [b"probe"])
            read = storage.read(key, 0, 16)
            storage.delete(key)
        except exception.ConfigurationError as error:
            return upgradecheck.Result(_FAILURE, error.message)
        except (OSError, ValueError) as error:
            return upgradecheck.Result(_FAILURE, f"[storage]: {error}; everything below path must belong to the service's user")
        if read != b"probe":
            return upgradecheck.Result(_FAILURE, "[storage] gives back what it was not given")
        return upgradecheck.Result(_SUCCESS)

    def tunnels(self) -> upgradecheck.Result:
        """Clients can use the URL of the tunnels, and nobody on the way reads what goes through them."""
        url = self._conf.tunnel.public_url
        if not url:
            return upgradecheck.Result(_SUCCESS, "the API gives none: [tunnel] has no public_url")
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            return upgradecheck.Result(_FAILURE, f"[tunnel] public_url: {url!r} is no URL of websockets, such as wss://cloud.example/ml-tunnel")
        if parts.scheme == "ws" and not _is_loopback(parts.hostname):
            return upgradecheck.Result(_WARNING, f"[tunnel] public_url: {url} is not encrypted: put a proxy that speaks TLS before the "
                                                 f"workers, and let it say wss://")
        return upgradecheck.Result(_SUCCESS)

    _upgrade_checks = (
        ("Configuration", configuration),
        ("Message bus", message_bus),
        ("Database", database),
        ("Policy file", policy_file),
        ("Key file", key_file),
        ("Storage", storage),
        ("Tunnels", tunnels),
        ("Cloud: account", lambda self: self.cloud.account()),
        ("Cloud: check of tokens", lambda self: self.cloud.tokens()),
        ("Cloud: endpoints", lambda self: self.cloud.endpoints()),
        ("Cloud: network", lambda self: self.cloud.network()),
        ("Cloud: images", lambda self: self.cloud.images()),
        ("Cloud: flavors", lambda self: self.cloud.flavors()),
        ("Cloud: quota", lambda self: self.cloud.quota()),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> int:
    """Run the checks; give 0 if all is well, 1 for warnings, 2 for failures."""
    conf = cfg.CONF
    cml_conf.register_opts(conf)
    with startup.explained("cml-nova-status"):
        return int(upgradecheck.main(conf, project="cml_nova", upgrade_command=Checks(conf)))


if __name__ == "__main__":
    sys.exit(main())
