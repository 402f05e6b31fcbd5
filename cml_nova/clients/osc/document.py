"""The options that describe a job, and the document that comes of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cml_nova.clients.osc.base import UsageError, say
from cml_nova.clients.osc.jobfile import Document, read, seconds, variables, whole

#: options whose value is that of the key with the same name: option -> (key of the document, type, metavar, help)
_PLAIN: dict[str, tuple[tuple[str, ...], Callable[[str], Any], str, str]] = {
    "--description": (("description",), str, "<text>", "What the job is for"),
    "--image": (("image",), str, "<image>", "Image of the machines (name or ID), instead of or beside a framework"),
    "--flavor": (("flavor",), str, "<flavor>", "Flavor of the machines (name or ID)"),
    "--workers": (("workers",), whole, "<count>", "Number of machines, for jobs with one role"),
    "--package": (("source", "package"), str, "<package>", "ID of an uploaded package of training code"),
    "--command": (("command",), str, "<command>", "Command line that runs on each machine, in the directory of the code"),
    "--setup": (("setup",), str, "<command>", "Command line that runs once on each machine before the first attempt"),
    "--max-run-time": (("max_run_time",), seconds, "<time>", "Time after which the training is stopped, such as 90s, 15m, 2h, 1d"),
    "--max-wait-time": (("max_wait_time",), seconds, "<time>", "Time after which the job fails if there is no room for it"),
    "--max-restarts": (("max_restarts",), whole, "<count>", "How often the training is started anew after an error of the program"),
    "--hang-timeout": (("hang_timeout",), seconds, "<time>", "Time without a sign of life after which the training counts as hanging"),
    "--checkpoint-interval": (("checkpoint_interval",), seconds, "<time>", "Time between saves of checkpoints"),
    "--priority": (("priority",), whole, "<number>", "Higher ones are started first"),
    "--availability-zone": (("availability_zone",), str, "<zone>", "Where the machines are"),
    "--network": (("network",), str, "<network>", "Network of the machines (name or ID)"),
    "--client-token": (("client_token",), str, "<token>", "The same token twice gives the same job: makes a submission safe to repeat"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what describes a job to the options of a command."""
    parser.add_argument("name", metavar="<name>", nargs="?", help="Name of the job, unless the job file has one")
    parser.add_argument("--file", metavar="<file>", help="Job file in YAML; - is the standard input. Options go before what it says")
    parser.add_argument("--set", metavar="<key=value>", action="append", default=[], dest="assignments",
                        help="Set any key of the job, as the job file would; a.b=value for keys in keys (repeat for several)")
    parser.add_argument("--framework", metavar="<name[:version]>", help="Framework whose newest image is used, or the version's")
    parser.add_argument("--role", metavar="<role=count[,flavor]>", action="append", default=[], dest="roles",
                        help="Number of machines of a role, and their flavor (repeat for several roles)")
    parser.add_argument("--source", metavar="<directory>", help="Directory of training code, which is packed and uploaded")
    parser.add_argument("--env", metavar="<name=value>", action="append", default=[], help="Variable of all processes (repeat for several)")
    parser.add_argument("--env-file", metavar="<file>", help="File of such variables, one a line")
    parser.add_argument("--secret", metavar="<name[=value]>", action="append", default=[], dest="secrets",
                        help="Variable that is never shown again; without a value it is that of your environment (repeat for several)")
    parser.add_argument("--secret-file", metavar="<file>", help="File of such variables, one a line")
    parser.add_argument("--property", metavar="<key=value>", action="append", default=[], dest="properties",
                        help="Entry of the job's metadata (repeat for several)")
    parser.add_argument("--ssh-key", metavar="<file>", action="append", default=[], dest="ssh_keys",
                        help="File with a public key that may log in to the machines (repeat for several)")
    for option, (_, kind, metavar, text) in _PLAIN.items():
        parser.add_argument(option, metavar=metavar, type=kind, help=text)


def build(args: argparse.Namespace) -> Document:
    """Put a job together: options over ``--set``, over the files of variables, over the job file.

    :raises UsageError: a file can't be read, or an option has a form that it can't have.
    """
    document = read(args.file) if args.file else Document()
    for key, name in (("env", args.env_file), ("secrets", args.secret_file)):
        for variable, value in variables(name).items() if name else ():
            document.put((key, variable), value, name)
    for text in args.assignments:
        document.assign(text)
    _put_plain(document, args)
    _put_tables(document, args)
    if args.framework:
        name, colon, version = args.framework.partition(":")
        document.put(("framework",), {"name": name, **({"version": version} if colon else {})}, "--framework")
    for text in args.roles:
        _put_role(document, text)
    if args.source:
        document.put(("source",), {"directory": str(Path(args.source).resolve())}, "--source")
    if args.ssh_keys:
        document.put(("ssh_authorized_keys",), [_public_key(name) for name in args.ssh_keys], "--ssh-key")
    return document


def _put_plain(document: Document, args: argparse.Namespace) -> None:
    if args.name is not None:
        document.put(("name",), args.name, "<name>")
    for option, (path, _, _, _) in _PLAIN.items():
        value = getattr(args, option[2:].replace("-", "_"))
        if value is not None:
            document.put(path, value, option)


def _put_tables(document: Document, args: argparse.Namespace) -> None:
    for text in args.env:
        document.put(("env", *_pair(text, "--env")[:1]), _pair(text, "--env")[1], "--env")
    for text in args.properties:
        document.put(("metadata", *_pair(text, "--property")[:1]), _pair(text, "--property")[1], "--property")
    for text in args.secrets:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"--secret {name}: your environment has no variable {name}; export it first, or give --secret {name}=value "
                             "(which may stay in the shell's history).")
        document.put(("secrets", name), value if equals else os.environ[name], "--secret")


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{option} {text}: it must look like name=value.")
    return key, value


def _put_role(document: Document, text: str) -> None:
    role, _, rest = text.partition("=")
    count, _, flavor = rest.partition(",")
    if not role or not count.isdecimal():
        raise UsageError(f"--role {text}: it must look like ROLE=COUNT or ROLE=COUNT,FLAVOR, such as worker=4 or worker=4,gpu.small.")
    document.put(("roles", role, "count"), int(count), "--role")
    if flavor:
        document.put(("roles", role, "flavor"), flavor.removeprefix("flavor="), "--role")


def _public_key(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--ssh-key {name}: {getattr(error, 'strerror', None) or 'it is no text'}.") from None


def directory_of(document: Document) -> Path | None:
    """Give the directory of training code that the document names.

    :raises UsageError: it is not there.
    """
    source = document.content.get("source")
    if not isinstance(source, dict) or "directory" not in source:
        return None
    origin = document.origin("source.directory") or document.origin("source")
    path = document.directory / str(source["directory"])
    if set(source) != {"directory"}:
        raise UsageError(f"{origin}: source: give a directory or a package, not both.")
    if not path.is_dir():
        wrong = "is not a directory" if path.exists() else "does not exist"
        raise UsageError(f"{origin}: source: the directory {str(path)!r} {wrong}; give the directory with your code "
                         "(in a job file: relative to that file).")
    return path


@contextmanager
def judged(document: Document) -> Iterator[None]:
    """Tell where that was said what the service refuses in a document.

    :raises UsageError: the service has refused it.
    """
    from openstack import exceptions

    from cml_nova.clients.sdk.errors import answer

    try:
        yield
    except exceptions.BadRequestException as error:
        said = answer(error)
        if "message" not in said:
            raise
        raise UsageError("\n".join(_fault(document, fault) for fault in said.get("errors") or [said])) from error


def _fault(document: Document, fault: dict[str, Any]) -> str:
    message = str(fault["message"]).removeprefix("job.")
    name = str(fault.get("field") or message.partition(":")[0]).removeprefix("job.")
    origin = document.origin(name)
    if origin is None:
        return message + _way_to_say(document, name)
    if origin in (*_PLAIN, "--framework", f"--set {name}"):
        message = message.removeprefix(name).removeprefix(":").lstrip()
    other = str(fault.get("conflicts_with", ""))
    clash = f" ({other} comes from {document.origin(other)}.)" if document.origin(other) else ""
    return f"{origin}: {message}{clash}{_HELP.get(name, '')}"


#: commands that help with what is wrong with a key
_HELP = {"source.package": " `openstack ml package list` lists them; `openstack ml job create --source <directory>` uploads your code."}


def _way_to_say(document: Document, name: str) -> str:
    """Name the option for a key that was not given."""
    options = {".".join(path): option for option, (path, *_) in _PLAIN.items()} | {
        "name": "it on the command line, as in `openstack ml job create digits`", "framework": "--framework or --image"}
    return f" Give {options[name]}, or '{name}: ...' in {document.file}." if name in options else ""


def plan(client: Any, document: Document) -> Any:
    """Let the service say what would become of a job.

    :raises UsageError: it refuses the document.
    """
    content = {key: value for key, value in document.content.items() if key != "source" or directory_of(document) is None}
    with judged(document):
        return client.plan_job(**content)


def submit(client: Any, document: Document) -> Any:
    """Upload the code if there is a directory of it, and create the job.

    :raises UsageError: the service refuses the document; nothing was uploaded then.
    """
    directory = directory_of(document)
    if directory is not None:
        plan(client, document)
        _upload(client, document, directory)
    with judged(document):
        return client.create_job(**document.content)


def _upload(client: Any, document: Document, directory: Path) -> None:
    """Upload the code; the commit that it is at goes into the job's metadata."""
    from cml_nova.clients import sdk

    origin = document.origin("source") or "source"
    try:
        package = client.upload_package(directory)
    except sdk.PackingError as error:
        raise UsageError(f"{origin}: {error}") from None
    say(f"The code in {directory} is the package {package.id}.")
    document.put(("source",), {"package": package.id}, origin)
    if isinstance(document.content.setdefault("metadata", {}), dict):
        document.content["metadata"] = {**sdk.git_state(directory), **document.content["metadata"]}
