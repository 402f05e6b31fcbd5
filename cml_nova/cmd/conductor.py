"""cml-nova-conductor: decides."""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_reports import guru_meditation_report as gmr

from cml_nova import conf as cml_conf
from cml_nova import rpc, service, startup
from cml_nova.conductor.service import ConductorService
from cml_nova.db import migration
from cml_nova.db.engine import Database


def main() -> None:
    """Run the conductor until it is told to stop."""
    conf = cfg.CONF
    with startup.explained("cml-nova-conductor"):
        cml_conf.setup(conf, sys.argv[1:], "cml-nova-conductor")
        # Without its database it can do nothing, so it waits for it, however long.
        conf.set_default("max_retries", -1, "database")
        gmr.TextGuruMeditation.setup_autorun(version="1", conf=conf)
        db = Database(conf)
        migration.check(db)
        conductor = ConductorService(conf, rpc.get_transport(conf), db)
    service.run(conf, conductor)


if __name__ == "__main__":
    main()
