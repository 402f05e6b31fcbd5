"""The runner as it goes to a node: all of its modules in one program, for a python3 that has nothing of ours.

The program comes over standard input and stays in memory: nothing is written to the node's disk. It is a list of (name, code) in an order
in which each module comes after those that it imports, and ``__main__`` last; the node makes a module of each, under its own name, without
any package above. The code knows its file and lines, which are what a traceback on the node names.

The list is sent twice, compressed: as an expression of Python that any node's can evaluate, and compiled for a Python like ours: a node
that has one is spared most of the runner's start-up time.
"""

from __future__ import annotations

import ast
import marshal
import zlib
from graphlib import TopologicalSorter
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from cml_nova.remote import runner

_PACKAGE = runner.__name__


def modules() -> dict[str, str]:
    """Give the text of each module by its full name, in the order in which they go.

    :raises graphlib.CycleError: two need each other.
    """
    texts = {f"{_PACKAGE}.{path.stem}": path.read_text("utf-8") for path in sorted(Path(runner.__file__).parent.glob("*.py"))}
    del texts[f"{_PACKAGE}.__init__"]
    needs = {name: [node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
             for name, text in texts.items()}
    main = f"{_PACKAGE}.__main__"
    needs[main] = [name for name in texts if name != main]
    return {name: texts[name] for name in TopologicalSorter(needs).static_order()}


def _file(name: str) -> str:
    return name.replace(".", "/") + ".py"


def _source(texts: dict[str, str]) -> bytes:
    lines = (f"({name!r},compile({text!a},{_file(name)!r},'exec'))" for name, text in texts.items())
    return ("[" + ",\n".join(lines) + "]").encode()


def _compiled(texts: dict[str, str]) -> bytes:
    code = [(name, compile(text, _file(name), "exec", optimize=2)) for name, text in texts.items()]
    return MAGIC_NUMBER + marshal.dumps(code)


def _program() -> bytes:
    texts = modules()
    parts = [zlib.compress(part, 9) for part in (_source(texts), _compiled(texts))]
    return b"".join(b"%8d%b" % (len(part), part) for part in parts)


#: what the command reads
PROGRAM = _program()

#: Takes the program from standard input, exact to the byte, and becomes it. One line, and no quotes that a shell would mind.
COMMAND = (
    'exec python3 -IS -c \'exec("import marshal, os, sys, zlib\\nfrom _frozen_importlib_external import MAGIC_NUMBER\\n'
    'def take(n):\\n d=b\\"\\"\\n while len(d)<n:\\n  p=os.read(0,n-len(d))\\n  if not p: os._exit(3)\\n  d+=p\\n return d\\n'
    'source, code = [zlib.decompress(take(int(take(8)))) for _ in range(2)]\\nn = len(MAGIC_NUMBER)\\n'
    'for name, code in marshal.loads(code[n:]) if code[:n]==MAGIC_NUMBER else eval(source):\\n'
    ' module = sys.modules[name] = type(sys)(name)\\n exec(code, module.__dict__)")\''
)
