"""cml-nova-status: is this host ready for this release?"""

from __future__ import annotations

import sys
from pathlib import Path

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_upgradecheck import upgradecheck
from sqlalchemy import exc as sa_exception
from stevedore import exception as stevedore_exception

from cml_nova import conf as cml_conf
from cml_nova import policy
from cml_nova.conf import cloud
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import get_storage

_SUCCESS, _WARNING, _FAILURE = upgradecheck.Code.SUCCESS, upgradecheck.Code.WARNING, upgradecheck.Code.FAILURE


class Checks(upgradecheck.UpgradeCommands):
    """Each check looks at one thing that keeps the service from starting or working."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf

    def configuration(self) -> upgradecheck.Result:
        """Tokens are checked, and the service knows its own account on the cloud."""
        if self._conf.api.auth_strategy != "keystone":
            return upgradecheck.Result(_FAILURE, "[api] auth_strategy is not keystone: anybody may do anything")
        cloud.register_auth_opts(self._conf)
        if not self._conf.cloud.cloud and not self._conf.cloud.auth_type:
            return upgradecheck.Result(_FAILURE, "[cloud] names no account: it has neither cloud nor auth_type")
        return upgradecheck.Result(_SUCCESS)

    def message_bus(self) -> upgradecheck.Result:
        """The transport is one that reaches other processes."""
        try:
            url = messaging.TransportURL.parse(self._conf)
        except messaging.InvalidTransportURL as error:
            return upgradecheck.Result(_FAILURE, f"transport_url: {error}")
        if url.transport == "fake":
            return upgradecheck.Result(_WARNING, "transport_url is fake:/, which works within cml-nova-standalone only")
        return upgradecheck.Result(_SUCCESS)

    def database(self) -> upgradecheck.Result:
        """The schema is this release's."""
        try:
            current, latest = migration.version(Database(self._conf)), migration.latest()
        except (db_exception.DBError, sa_exception.SQLAlchemyError, cfg.Error, ValueError) as error:
            return upgradecheck.Result(_FAILURE, f"[database] connection: {type(error).__name__}: {error}")
        if current != latest:
            return upgradecheck.Result(_FAILURE, f"the schema is at {current}, this release has {latest}: run cml-nova-manage db sync")
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
        except (ValueError, OSError) as error:
            return upgradecheck.Result(_FAILURE, str(error))
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
        except (OSError, ValueError, stevedore_exception.NoMatches) as error:
            return upgradecheck.Result(_FAILURE, f"[storage]: {error}")
        if read != b"probe":
            return upgradecheck.Result(_FAILURE, "[storage] gives back what it was not given")
        return upgradecheck.Result(_SUCCESS)

    _upgrade_checks = (
        ("Configuration", configuration),
        ("Message bus", message_bus),
        ("Database schema", database),
        ("Policy file", policy_file),
        ("Key file", key_file),
        ("Storage", storage),
    )


def main() -> int:
    """Run the checks; give 0 if all is well, 1 for warnings, 2 for failures."""
    conf = cfg.CONF
    cml_conf.register_opts(conf)
    return int(upgradecheck.main(conf, project="cml_nova", upgrade_command=Checks(conf)))


if __name__ == "__main__":
    sys.exit(main())
