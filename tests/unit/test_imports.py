"""Dependencies point one way; read from the source, so that an import inside a function counts too."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cml_nova

ROOT = Path(cml_nova.__file__).parent
#: where the daemons are put together from their parts
ROOTS = {"cmd", "wsgi"}
#: what only some packages (below cml_nova) may import
ONLY = {
    "openstack": {"compute", "clients"},
    "paramiko": {"remote"},
    "flask": {"api", "wsgi", "localcloud"},
    "asyncssh": {"localcloud"},
    "websockets": {"worker"},
    "oslo_messaging": {"rpc", "conductor", "worker", *ROOTS},
    "cml_nova.db": {"db", "api", "conductor", *ROOTS},
    "cml_nova.api": {"api", *ROOTS},
    "cml_nova.conductor": {"conductor", "api", "worker", *ROOTS},
    "cml_nova.worker": {"worker", "conductor", *ROOTS},
    "cml_nova.compute": {"compute", "worker", "api", *ROOTS},
    "cml_nova.remote": {"remote", "worker", "api", "localcloud"},
    "cml_nova.localcloud": {"localcloud", "cmd"},
    "cml_nova.wsgi": {"wsgi"},
    "cml_nova.cmd": {"cmd"},
}
#: of another daemon's package, only the client of its RPC interface; of what SSH and storage have, only what is pure
NARROW = {
    ("api", "cml_nova.conductor"): {"cml_nova.conductor.rpcapi"},
    ("wsgi", "cml_nova.conductor"): {"cml_nova.conductor.rpcapi"},
    ("worker", "cml_nova.conductor"): {"cml_nova.conductor.rpcapi"},
    ("conductor", "cml_nova.worker"): {"cml_nova.worker.rpcapi"},
    ("localcloud", "cml_nova.remote"): {"cml_nova.remote.runner"},
    ("api", "cml_nova.remote"): {"cml_nova.remote.keys", "cml_nova.remote.archive"},
}


def imports() -> Iterator[tuple[Path, int, str]]:
    """Give (file, line, full name) of everything that the package imports."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                yield from ((path, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                yield from ((path, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


IMPORTS = list(imports())


def unit(path: Path) -> str:
    """Give the package below cml_nova that a file belongs to, or the module's own name."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_are_imports_to_check() -> None:
    assert {unit(path) for path, _, _ in IMPORTS} >= {"api", "compute", "conductor", "db", "remote", "worker", "localcloud"}


@pytest.mark.parametrize("package", ONLY)
def test_only_these_import(package: str) -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}: {name}" for path, line, name in IMPORTS
             if within(name, package) and unit(path) not in ONLY[package]]
    assert not wrong, f"only {sorted(ONLY[package])} may import {package}"


@pytest.mark.parametrize(("importer", "package"), NARROW)
def test_only_a_narrow_part_is_imported(importer: str, package: str) -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}: {name}" for path, line, name in IMPORTS
             if unit(path) == importer and within(name, package) and not any(within(name, part) for part in NARROW[importer, package])]
    assert not wrong


def test_eventlet_is_never_imported() -> None:
    assert not [f"{path}:{line}" for path, line, name in IMPORTS
                if name.partition(".")[0] in ("eventlet", "greenlet", "monotonic") or within(name, "oslo_service.eventlet_backend")]


def test_clients_need_nothing_of_the_server() -> None:
    wrong = [f"{path}:{line}: {name}" for path, line, name in IMPORTS
             if unit(path) == "clients" and within(name, "cml_nova") and not within(name, "cml_nova.clients")]
    assert not wrong


def test_clients_need_only_what_a_laptop_has() -> None:
    """Of other projects, what an installation without extras brings, and what that cannot be without."""
    needed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    modules = {"keystoneauth1": {"keystoneauth1", "requests"}, "openstacksdk": {"openstack"}, "osc-lib": {"osc_lib", "cliff"},
               "pathspec": {"pathspec"}, "PyYAML": {"yaml"}, "websocket-client": {"websocket"}}
    known = {"cml_nova"}.union(*(modules[requirement.partition(">=")[0]] for requirement in needed))
    wrong = [f"{path}:{line}: {name}" for path, line, name in IMPORTS
             if unit(path) == "clients" and name.partition(".")[0] not in known | sys.stdlib_module_names]
    assert not wrong


def test_runner_needs_only_the_standard_library() -> None:
    """It runs in images that have nothing else."""
    ours = [(path, line, name) for path, line, name in IMPORTS if path.parent == ROOT / "remote" / "runner"]
    assert ours
    wrong = [f"{path}:{line}: {name}" for path, line, name in ours
             if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("cml_nova.remote.runner.")]
    assert not wrong


def test_configuration_is_handed_in() -> None:
    """The global configuration object is touched by what starts a process, and by policy.py for oslo.policy's own commands."""
    wrong = []
    for path in ROOT.rglob("*.py"):
        if unit(path) in {*ROOTS, "policy"}:
            continue
        wrong += [f"{path.relative_to(ROOT)}:{node.lineno}" for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Attribute) and ast.unparse(node) == "cfg.CONF"]
    assert not wrong


def test_backend_is_chosen_before_anything_can_choose_another() -> None:
    """oslo.service takes eventlet unless told otherwise before oslo.messaging is imported; clients must not load it at all."""
    for package in ("cmd", "wsgi"):
        source = (ROOT / package / "__init__.py").read_text()
        assert "init_backend(" in source and "THREADING" in source, package
    assert not [name for path, _, name in IMPORTS if path == ROOT / "__init__.py"]
