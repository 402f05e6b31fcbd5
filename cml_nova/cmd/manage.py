"""cml-nova-manage: what an operator does by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_db import exception as db_exception
from sqlalchemy import exc as sa_exception

from cml_nova import conf as cml_conf
from cml_nova import exception, secrets, startup
from cml_nova.api import openapi
from cml_nova.api.v1 import RESOURCES
from cml_nova.cmd import manage_orphans
from cml_nova.db import leases, migration
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


def job_reset(conf: cfg.ConfigOpts, job: str) -> int:
    """The last resort: take a job from its worker, whatever it does, and have all that it has in the cloud deleted."""
    with Database(conf).write() as session:
        outcome = leases.reset(session, job, f"cml-nova-manage job reset {job}")
    print(f"The job {job} is nobody's now; the next worker cleans up what it has. Its outcome is {outcome}.")
    return 0


#: flags, or the name of one that goes without -> what argparse is told of it
Arguments = Mapping[tuple[str, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command: what runs, with the configuration and its arguments by name, and how argparse reads these."""

    run: Callable[..., int]
    arguments: Arguments = field(default_factory=dict)

    def __call__(self, conf: cfg.ConfigOpts, **arguments: Any) -> int:
        return self.run(conf, **arguments)

    @property
    def help(self) -> str:
        return (self.run.__doc__ or "").strip().partition("\n")[0]


COMMANDS = {
    "api document": Command(api_document),
    "db sync": Command(db_sync),
    "db version": Command(db_version),
    "job reset": Command(job_reset, {("job",): {"metavar": "ID", "help": "id of the job"}}),
    "orphans list": Command(manage_orphans.list_all, {
        ("-f", "--format"): {"choices": ("table", "json"), "default": "table", "help": "how they are printed"}}),
    "orphans reap": Command(manage_orphans.reap, {("--job",): {"metavar": "ID", "help": "of this job only"}}),
    "secrets create": Command(secrets_create),
}


def _add_commands(parsers: Any) -> None:
    """Make argparse's parsers of the commands: of the first word, and below it of the second."""
    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        noun, verb = name.split()
        if noun not in groups:
            verbs = ", ".join(other.split()[1] for other in COMMANDS if other.split()[0] == noun)
            groups[noun] = parsers.add_parser(noun, help=verbs).add_subparsers(dest="verb", required=True)
        parser = groups[noun].add_parser(verb, help=command.help, description=command.help)
        names = [parser.add_argument(*flags, **options).dest for flags, options in command.arguments.items()]
        parser.set_defaults(words=name, argument_names=names)


def main(argv: list[str] | None = None) -> int:
    """Run a command; give the exit status."""
    conf = cfg.CONF
    conf.register_cli_opt(cfg.SubCommandOpt("command", handler=_add_commands, title="commands"))
    with startup.explained("cml-nova-manage"):
        cml_conf.setup(conf, sys.argv[1:] if argv is None else argv, prog="cml-nova-manage", log_to_stderr=True)
    arguments = {name: getattr(conf.command, name) for name in conf.command.argument_names}
    try:
        return COMMANDS[conf.command.words](conf, **arguments)
    except exception.CMLError as error:
        print(f"cml-nova-manage: {error.message}", file=sys.stderr)
    except (db_exception.DBError, sa_exception.SQLAlchemyError) as error:
        # The first line says it; the rest is SQLAlchemy's advice to programmers.
        print(f"cml-nova-manage: [database] connection: {str(error).splitlines()[0]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
