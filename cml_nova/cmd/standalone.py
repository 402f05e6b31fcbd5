"""cml-nova-standalone: api, conductor and worker in one process, for trying out and for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import oslo_messaging as messaging
import waitress
from oslo_config import cfg
from oslo_log import log as logging
from oslo_reports import guru_meditation_report as gmr

from cml_nova import conf as cml_conf
from cml_nova import exception, rpc, secrets, service, startup
from cml_nova.api.app import create_app
from cml_nova.api.services import user_catalogs
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.conductor.service import ConductorService
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import get_storage
from cml_nova.worker.service import WorkerService

LOG = logging.getLogger(__name__)


class HttpService:
    """The API behind waitress. :raises ConfigurationError: it can't listen there."""

    def __init__(self, conf: cfg.ConfigOpts, transport: messaging.Transport, db: Database) -> None:
        application = create_app(
            conf, db=db, storage=get_storage(conf), conductor=ConductorClient(transport), catalog_factory=user_catalogs(conf),
            vault=Vault.from_conf(conf))
        address = f"{conf.api.standalone_host}:{conf.api.standalone_port}"
        try:
            self._server = waitress.create_server(
                application, host=conf.api.standalone_host, port=conf.api.standalone_port,
                threads=conf.api.standalone_threads, ident=None, max_request_body_size=conf.api.max_package_bytes + 65536,
            )
        except OSError as error:
            raise exception.ConfigurationError(
                f"can't listen on {address}: {error.strerror}; choose another with [api] standalone_port") from error
        self._address = f"http://{address}"

    def start(self) -> None:
        service.Beat("http", 0, self._server.run).start()
        LOG.info("The API is up at %s", self._address)

    def stop(self) -> None:
        self._server.close()


def main() -> None:
    """Bring database and key file up, then run everything until told to stop."""
    conf = cfg.CONF
    with startup.explained("cml-nova-standalone"):
        cml_conf.setup(conf, sys.argv[1:], "cml-nova-standalone")
        gmr.TextGuruMeditation.setup_autorun(version="1", conf=conf)
        secrets.create_key_file(Path(conf.secrets.key_file))
        db = Database(conf)
        migration.sync(db)
        transport = rpc.get_transport(conf)
        http = HttpService(conf, transport, db)
        conductor, worker = ConductorService(conf, transport, db), WorkerService(conf, transport)
    service.run(conf, conductor, worker, http)


if __name__ == "__main__":
    main()
