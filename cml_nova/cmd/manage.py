"""cml-nova-manage: what an operator does by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from oslo_config import cfg
from oslo_db import exception as db_exception
from sqlalchemy import exc as sa_exception

from cml_nova import conf as cml_conf
from cml_nova import secrets
from cml_nova.api import openapi
from cml_nova.api.v1 import RESOURCES
from cml_nova.db import migration
from cml_nova.db.engine import Database


def db_sync(conf: cfg.ConfigOpts) -> int:
    """Bring the database to the schema of this release."""
    migration.sync(Database(conf))
    return 0


def db_version(conf: cfg.ConfigOpts) -> int:
    """Print the revision of the database, and whether a newer one is there."""
    current, latest = migration.version(Database(conf)), migration.latest()
    print(current or "none")
    if current != latest:
        print(f"this release has {latest}: run cml-nova-manage db sync", file=sys.stderr)
    return 0


def secrets_create(conf: cfg.ConfigOpts) -> int:
    """Make the key file that seals secrets, unless it is there."""
    path = Path(conf.secrets.key_file)
    print(f"{path} was made" if secrets.create_key_file(path) else f"{path} is there already and was left alone")
    return 0


def api_document(conf: cfg.ConfigOpts) -> int:
    """Print the OpenAPI document."""
    print(json.dumps(openapi.document(RESOURCES), indent=2))
    return 0


COMMANDS = {"db sync": db_sync, "db version": db_version, "secrets create": secrets_create, "api document": api_document}


def main(argv: list[str] | None = None) -> int:
    """Run a command; give the exit status."""
    conf = cfg.CONF
    words = cfg.MultiOpt("words", item_type=cfg.types.String(), positional=True, required=True,
                         help="; ".join(f"{name}: {(run.__doc__ or '').strip()}" for name, run in COMMANDS.items()))
    conf.register_cli_opt(words)
    cml_conf.setup(conf, sys.argv[1:] if argv is None else argv, prog="cml-nova-manage")
    command = COMMANDS.get(" ".join(conf.words))
    if command is None:
        print(f"There is no command {' '.join(conf.words)!r}; there are: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return command(conf)
    except (db_exception.DBError, sa_exception.SQLAlchemyError) as error:
        # The first line says it; the rest is SQLAlchemy's advice to programmers.
        print(f"cml-nova-manage: [database] connection: {str(error).splitlines()[0]}", file=sys.stderr)
    except OSError as error:
        print(f"cml-nova-manage: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
