"""Values that people and programs read differently."""

from __future__ import annotations

import itertools
import json
from typing import Any

from cliff import columns


class Seconds(columns.FormattableColumn):
    """A duration: a number of seconds for programs."""

    def human_readable(self) -> str:
        return "" if self._value is None else duration(self._value)


class Size(columns.FormattableColumn):
    """A number of bytes."""

    def human_readable(self) -> str:
        value = float(self._value)
        for unit in ("B", "KiB", "MiB", "GiB"):
            if value < 1024:
                return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
            value /= 1024
        return f"{value:.1f} TiB"


class Percent(columns.FormattableColumn):
    """A whole number of percent."""

    def human_readable(self) -> str:
        return f"{self._value} %"


class Structure(columns.FormattableColumn):
    """Lists and tables: real ones for programs, ``key: value`` lines for people."""

    def human_readable(self) -> str:
        return "\n".join(_lines(self._value))


class Money(columns.FormattableColumn):
    """A cost ``{"amount", "currency", …}``, or None where the deployment has no prices."""

    def human_readable(self) -> str:
        return "" if not self._value else f"{self._value['amount']:.2f} {self._value['currency'] or ''}".rstrip()


class Roles(columns.FormattableColumn):
    """How many nodes of which flavor each role has."""

    def human_readable(self) -> str:
        return "\n".join(f"{name}: {role['count']} x {role['flavor']['name']}" for name, role in (self._value or {}).items())


class Count(columns.FormattableColumn):
    """A list of which people want to know the length."""

    def human_readable(self) -> str:
        return str(len(self._value))


class Offers(columns.FormattableColumn):
    """Flavors that would do, with what the whole job would cost an hour, or why one is not available."""

    def human_readable(self) -> str:
        return "\n".join(
            f"{offer['flavor']}: {'available' if offer['available'] else offer['reason']}"
            + ("" if offer["cost_per_hour"] is None else f", {offer['cost_per_hour']:.2f} an hour")
            for offer in self._value)


class Command(columns.FormattableColumn):
    """A line for the shell, or a list of program and arguments."""

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        return self._value if isinstance(self._value, str) else json.dumps(self._value)


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {_inline(item)}" for key, item in value.items()]
    if isinstance(value, list):
        return [_inline(item) for item in value]
    return ["" if value is None else str(value)]


def _inline(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Word a duration with its two largest units.

    >>> duration(3 * 3600 + 125)
    '3h 2m'
    """
    left = int(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2])


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 40) -> str:
    """Draw the course of some numbers in a line of at most ``width`` characters, each the mean of its part."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)
