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


def read(conf: cfg.ConfigOpts, argv: list[str], prog: str) -> None:
    """Read the configuration files and the command line, and each option of the service.

    oslo.config looks at a value only when it is asked for, which may be in the midst of a job.

    :param argv: arguments without the program's name.
    :raises SystemExit: the command line is wrong; oslo.config has said how.
    :raises oslo_config.cfg.Error: a configuration file is missing or can't be read, or an option has no good value.
    """
    register_opts(conf)
    conf(argv, project="cml_nova", prog=prog, version=metadata.version("cml_nova"))
    for group, options in opts.own_opts():
        for option in options:
            conf[group][option.dest]


def setup(conf: cfg.ConfigOpts, argv: list[str], prog: str, *, log_to_stderr: bool = False) -> None:
    """Register and read, as ``read`` does, and set logging up.

    :param log_to_stderr: unless the configuration says otherwise; for commands whose standard output is read by programs.
    """
    logging.register_options(conf)
    conf.set_default("use_stderr", log_to_stderr)
    reports_options.set_defaults(conf)
    read(conf, argv, prog)
    logging.set_defaults(default_log_levels=[
        *logging.get_default_log_levels(), "paramiko=CRITICAL", "openstack=WARNING", "waitress=WARNING", "alembic=WARNING",
    ])
    logging.setup(conf, "cml_nova")
