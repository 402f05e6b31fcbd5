"""The document of a job from a YAML file and what is laid over it; it remembers where each value was said.

The service is the only judge of the document. What it says is wrong is told with the place where that was said.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from cml_nova.clients.osc.base import UsageError

Key = tuple[str, ...]
#: tables of texts: what is written there is taken as it is written, not as the number or truth value that YAML sees in it
_TEXTS = ("env", "secrets", "metadata")
_DURATIONS = ("max_run_time", "max_wait_time", "hang_timeout", "checkpoint_interval")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TYPED = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


@dataclass
class Document:
    """A job as the user has put it together.

    ``content`` is what the service is sent, ``directory`` what relative paths in the file start from, ``file`` the file's name in messages.
    """

    content: dict[str, Any] = field(default_factory=dict)
    directory: Path = field(default_factory=Path.cwd)
    file: str = "a job file"
    _origins: dict[str, str] = field(default_factory=dict)

    def put(self, path: Key, value: Any, origin: str) -> None:
        """Lay a value over what is there.

        :param path: the keys that lead to it.
        :param origin: where it was said, for messages.
        :raises UsageError: there is something else than a table on the way.
        """
        table = self.content
        for i, key in enumerate(path[:-1]):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UsageError(f"{origin}: {'.'.join(path[: i + 1])} is a value{self._where(path[: i + 1])}, not a table.")
        table[path[-1]] = _duration(value) if len(path) == 1 and path[0] in _DURATIONS else value
        self.note(path, origin)

    def note(self, path: Key, origin: str) -> None:
        """Remember where something was said."""
        self._origins[".".join(path)] = origin

    def assign(self, text: str) -> None:
        """Lay over what ``--set a.b=value`` says; the value is read as YAML, so numbers, lists and tables can be given.

        :raises UsageError: it does not have that form.
        """
        name, equals, value = text.partition("=")
        path = tuple(name.split("."))
        if not equals or not all(path):
            raise UsageError(f"--set {text}: it must look like key=value or key.key=value.")
        if path[0] in _TEXTS and len(path) > 1:
            self.put((path[0], ".".join(path[1:])), value, f"--set {name}")
            return
        self.put(path, _read(value, f"--set {name}")[0], f"--set {name}")

    def origin(self, name: str) -> str | None:
        """Tell where the value of a field was said, or what is around it."""
        parts = name.removeprefix("job.").split(".")
        for end in range(len(parts), 0, -1):
            if ".".join(parts[:end]) in self._origins:
                return self._origins[".".join(parts[:end])]
        return None

    def _where(self, path: Key) -> str:
        origin = self._origins.get(".".join(path))
        return f" ({origin})" if origin else ""


def read(name: str) -> Document:
    """Read a job file.

    :param name: its path, or ``-`` for the standard input.
    :raises UsageError: it is no YAML, or no table of keys.
    """
    if name == "-":
        return parse(sys.stdin.read(), "standard input")
    path = Path(name)
    try:
        document = parse(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError:
        raise UsageError(f"{name}: it is no text in UTF-8.") from None
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}.") from None
    document.directory = path.resolve().parent
    return document


def parse(text: str, name: str) -> Document:
    """Read the text of a job file; see ``read``."""
    content, lines = _read(text, name)
    if not isinstance(content, dict):
        raise UsageError(f"{name}: it holds {_KINDS.get(type(content), 'a value')}; a job file must hold keys and values "
                         "such as 'name: digits'.")
    document = Document(content, file=name)
    for path, line in lines.items():
        document.note(path, f"{name}, line {line}")
    for key in _DURATIONS:
        if key in content:
            content[key] = _duration(content[key])
    return document


_KINDS: dict[type, str] = {list: "a list", str: "a text", type(None): "nothing"}


def _read(text: str, name: str) -> tuple[Any, dict[Key, int]]:
    """Read YAML; give its value, and the line of every key."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        raise UsageError(f"{name}: not valid YAML: {error.reason} (character {error.character:#x}).") from None
    try:
        node = loader.get_single_node()
        lines: dict[Key, int] = {}
        return (None if node is None else _Builder(loader, name, lines).value(node, ())), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or ""
        words = "there is a tab; indent with spaces, not tabs" if "\\t" in problem else problem
        raise UsageError(f"{name}{where}: not valid YAML: {words}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not valid YAML: {error}.") from None
    except RecursionError:
        raise UsageError(f"{name}: it is nested too deeply, or refers to itself.") from None
    finally:
        loader.dispose()


class _Builder:
    """Makes values of YAML's nodes."""

    def __init__(self, loader: yaml.SafeLoader, name: str, lines: dict[Key, int]) -> None:
        self._loader, self._name, self._lines = loader, name, lines

    def value(self, node: yaml.Node, path: Key) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._table(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _table(self, node: yaml.MappingNode, path: Key) -> dict[str, Any]:
        self._check_keys(node)
        self._loader.flatten_mapping(node)
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            self._lines[(*path, key_node.value)] = key_node.start_mark.line + 1
            table[key_node.value] = self.value(value_node, (*path, key_node.value))
        return table

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UsageError(f"{self._name}, line {line}: a key must be a word.")
            if key_node.value in seen:
                raise UsageError(
                    f"{self._name}, line {line}: the key {key_node.value!r} is given twice, first in line {seen[key_node.value]}.")
            seen[key_node.value] = line

    def _scalar(self, node: yaml.Node, path: Key) -> Any:
        if node.tag not in _TYPED or (len(path) > 1 and path[0] in _TEXTS):
            return node.value
        value = self._loader.construct_object(node)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{self._name}, line {node.start_mark.line + 1}: {node.value} is not a number that can be sent.")
        return value


def _duration(value: Any) -> Any:
    """Read durations such as 90s, 15m, 2h, 1d as seconds; leave what is none to the service's judgement."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    seconds = float(match[1]) * _UNITS[match[2]]
    return int(seconds) if seconds.is_integer() else seconds


def seconds(text: str) -> int | float:
    """Read a duration such as 90, 90s, 15m, 2h or 1d of an option, in seconds; argparse makes a usage error of what is none."""
    value = _duration(text)
    if isinstance(value, str):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 2h or 1d")
    number: int | float = value
    return number


def moment(text: str) -> int | float | str:
    """Read what ``--since`` says: seconds, or a time in ISO 8601 as it is; argparse makes a usage error of what is neither."""
    value: int | float | str = _duration(text)
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            words = "is neither a time such as 2026-01-31T12:00:00Z nor how long ago, such as 10m"
            raise argparse.ArgumentTypeError(f"{text!r} {words}") from None
    return value


def moment_ago(text: str) -> str:
    """Read what ``--changes-since`` says, as ``moment`` does; give the time in ISO 8601."""
    value = moment(text)
    try:
        return value if isinstance(value, str) else (datetime.now(UTC) - timedelta(seconds=value)).isoformat()
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is too long ago") from None


def whole(text: str) -> int:
    """Read a whole number of an option; argparse makes a usage error of what is none."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def at_least(least: int) -> Callable[[str], int]:
    """Make what reads a whole number of an option; see ``whole``. Less than ``least`` is a usage error, too."""
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return read


def variables(name: str) -> dict[str, str]:
    """Read a file of NAME=value lines; empty lines and those that begin with # are left out.

    :raises UsageError: a line has another form, or the file can't be read.
    """
    found = {}
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{name}: it is no text in UTF-8.") from None
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            key, equals, value = text.removeprefix("export ").partition("=")
            if not equals or not key.strip():
                raise UsageError(f"{name}, line {number}: it must look like NAME=value.")
            found[key.strip()] = value.strip()
    return found
