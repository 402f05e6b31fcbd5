"""cml-nova-worker: does."""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_reports import guru_meditation_report as gmr

from cml_nova import conf as cml_conf
from cml_nova import rpc, service, startup
from cml_nova.worker.service import WorkerService


def main() -> None:
    """Run the worker until it is told to stop."""
    conf = cfg.CONF
    with startup.explained("cml-nova-worker"):
        cml_conf.setup(conf, sys.argv[1:], "cml-nova-worker")
        gmr.TextGuruMeditation.setup_autorun(version="1", conf=conf)
        worker = WorkerService(conf, rpc.get_transport(conf))
    service.run(conf, worker)


if __name__ == "__main__":
    main()
