"""The program that goes to a node: what it may use, and how it comes up there."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import cml_nova
from cml_nova.remote import program
from cml_nova.remote.program import COMMAND, PROGRAM

ROOT = Path(cml_nova.__file__).parents[1]
#: what the command does, but for the last module, which serves a session
LOAD = """
import sys
for name, code in eval(sys.stdin.buffer.read())[:-1]:
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
"""


def parts() -> list[bytes]:
    """Give the program as text, and its compiled form."""
    size = int(PROGRAM[:8])
    return [zlib.decompress(part) for part in (PROGRAM[8:8 + size], PROGRAM[8 + size + 8:])]


def on_a_node(statement: str) -> str:
    """Run a statement beside the program's modules in a Python that has nothing of ours; give what it prints."""
    done = subprocess.run([sys.executable, "-IS", "-c", LOAD + statement], input=parts()[0], capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("name", program.modules())
def test_a_module_is_python_3_6_and_imports_only_the_standard_library_and_its_like(name: str) -> None:
    tree = ast.parse(program.modules()[name], feature_version=(3, 6))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)]
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules <= sys.stdlib_module_names
    assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} <= set(program.modules())
    new_methods = {"removeprefix", "removesuffix", "waitstatus_to_exitcode", "isascii", "pidfd_open", "capture_output"}
    assert not [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in new_methods]


def test_the_start_costs_no_heavy_modules() -> None:
    loaded = set(on_a_node("print(*sys.modules)").split())
    assert "cml_nova.remote.runner.session" in loaded
    assert not {"subprocess", "tarfile", "hashlib", "ctypes", "threading", "argparse", "shutil", "typing", "cml_nova"} & loaded


@pytest.mark.parametrize("without", ["", "call_function"])
def test_a_process_option_is_set(without: str) -> None:
    forget = f"import _ctypes; del _ctypes.{without}; " if without else ""
    told = on_a_node("from cml_nova.remote.runner.kernel import PR_SET_CHILD_SUBREAPER, prctl\n"
                     f"{forget}print(prctl(PR_SET_CHILD_SUBREAPER, 1), 'ctypes' in sys.modules)")
    assert told.split() == ["True", str(bool(without))]


def test_the_command_is_one_line_for_any_shell() -> None:
    assert "\n" not in COMMAND
    assert COMMAND.count("'") == 2


def test_the_program_is_the_same_in_every_process() -> None:
    source = "import hashlib; from cml_nova.remote.program import PROGRAM; print(hashlib.sha256(PROGRAM).hexdigest())"
    done = subprocess.run([sys.executable, "-c", source], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == hashlib.sha256(PROGRAM).hexdigest()


@pytest.mark.parametrize("same_python", [True, False])
def test_what_goes_wrong_on_a_node_is_told_with_module_and_line(tmp_path: Path, same_python: bool) -> None:
    source, compiled = (zlib.compress(part) for part in (parts()[0], parts()[1] if same_python else b"none" + parts()[1][4:]))
    sent = b"".join(b"%8d%b" % (len(part), part) for part in (source, compiled))
    header = json.dumps({}).encode()
    frame = struct.pack(">II", len(header), 0) + header
    (tmp_path / "python3").symlink_to(sys.executable)
    done = subprocess.run(["sh", "-c", COMMAND], input=sent + frame, capture_output=True, cwd=tmp_path, env={"PATH": f"{tmp_path}:/bin"})
    assert done.returncode == 1
    file = Path("cml_nova/remote/runner/requests.py")
    [line] = [number for number, text in enumerate((ROOT / file).read_text().splitlines(), 1) if 'header["id"]' in text]
    assert f'File "{file}", line {line}, in handle' in done.stderr.decode()
