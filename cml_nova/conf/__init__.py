"""Configuration: one module per option group, registered on the object that is handed in."""

from __future__ import annotations

from importlib import metadata

from oslo_config import cfg
from oslo_db import options as db_options
from oslo_log import log as logging
from oslo_reports import opts as reports_options

from cml_nova.conf import opts


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register every option of the service; calling it twice is harmless."""
    for group, options in opts.own_opts():
        conf.register_opts(options, group=group)
    # As many as threads use it at a time: a connection beyond these is made anew for each transaction.
    db_options.set_defaults(conf, max_pool_size=24)


def setup(conf: cfg.ConfigOpts, argv: list[str], prog: str, *, log_to_stderr: bool = False) -> None:
    """Register, read the configuration files and the command line, and set logging up.

    :param argv: arguments without the program's name.
    :param log_to_stderr: unless the configuration says otherwise; for commands whose standard output is read by programs.
    :raises SystemExit: the command line or a configuration file is wrong; oslo.config has said how.
    """
    register_opts(conf)
    logging.register_options(conf)
    conf.set_default("use_stderr", log_to_stderr)
    reports_options.set_defaults(conf)
    conf(argv, project="cml_nova", prog=prog, version=metadata.version("cml_nova"))
    logging.set_defaults(default_log_levels=[
        *logging.get_default_log_levels(), "paramiko=CRITICAL", "openstack=WARNING", "waitress=WARNING", "alembic=WARNING",
    ])
    logging.setup(conf, "cml_nova")
