"""The API for WSGI servers; ``etc/uwsgi/cml-nova-api.ini`` runs it under uWSGI, and others run ``cml_nova.wsgi.api:application`` alike.

Configuration is read from the files that the environment variable CML_NOVA_CONFIG_FILES lists, separated by colons; without it,
from where oslo.config looks: /etc/cml_nova/cml_nova.conf and the like.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Any

from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import rpc, startup
from cml_nova.api.app import create_app
from cml_nova.api.services import user_catalogs
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import get_storage
from cml_nova.wsgi.chunked import decode_chunks

#: what a process of uWSGI exits with when it can't load its application: all of them end then, as ``need-app`` asks for
_FAILED_APP = 22


def make_application() -> Any:
    """Make the application from the configuration."""
    conf = cfg.CONF
    files = [name for name in os.environ.get("CML_NOVA_CONFIG_FILES", "").split(":") if name]
    # Other servers have their own ways to tell of an exception, and to end.
    with startup.explained("cml-nova-api", _FAILED_APP) if "uwsgi" in sys.modules else nullcontext():
        cml_conf.setup(conf, [arg for name in files for arg in ("--config-file", name)], prog="cml-nova-api")
        # Without its database it can do nothing, so it waits for it, however long.
        conf.set_default("max_retries", -1, "database")
        db = Database(conf)
        migration.check(db)
        app = create_app(
            conf, db=db, storage=get_storage(conf), conductor=ConductorClient(rpc.get_transport(conf)),
            catalog_factory=user_catalogs(conf), vault=Vault.from_conf(conf))
    # uWSGI puts this module into its own processes, and nobody else has it.
    if "uwsgi" in sys.modules:
        app = decode_chunks(app, sys.modules["uwsgi"].chunked_read)
    return app


application = make_application()
