"""How values are worded for people, and that programs get them as they are."""

from __future__ import annotations

from typing import Any

import pytest

from cml_nova.clients.osc import columns


@pytest.mark.parametrize(("value", "text"), [
    (0, "0s"), (59.9, "59s"), (60, "1m"), (3725, "1h 2m"), (3600, "1h"), (3605, "1h"), (90000, "1d 1h"), (86400 + 60, "1d"),
])
def test_durations(value: float, text: str) -> None:
    assert columns.duration(value) == text


@pytest.mark.parametrize(("column", "value", "text"), [
    (columns.Seconds, None, ""),
    (columns.Seconds, 61, "1m 1s"),
    (columns.Size, 0, "0 B"),
    (columns.Size, 1023, "1023 B"),
    (columns.Size, 1536, "1.5 KiB"),
    (columns.Size, 5 << 40, "5.0 TiB"),
    (columns.Percent, 37, "37 %"),
    (columns.Structure, {"a": 1, "b": "c", "d": [1]}, "a: 1\nb: c\nd: [1]"),
    (columns.Structure, ["a", {"b": 1}], 'a\n{"b": 1}'),
    (columns.Structure, None, ""),
    (columns.Money, None, ""),
    (columns.Money, {"amount": 1.5, "currency": "EUR", "per_hour": 3.0}, "1.50 EUR"),
    (columns.Roles, {"ps": {"count": 2, "flavor": {"name": "m1"}}}, "ps: 2 x m1"),
    (columns.Command, ["python3", "train.py"], '["python3", "train.py"]'),
    (columns.Command, "python3 train.py", "python3 train.py"),
    (columns.Command, None, ""),
])
def test_columns(column: Any, value: Any, text: str) -> None:
    assert column(value).human_readable() == text
    assert column(value).machine_readable() == value


def test_sparklines() -> None:
    assert columns.sparkline([]) == ""
    assert columns.sparkline([1.0]) == "▁"
    assert columns.sparkline([3.0, 3.0]) == "▁▁"
    assert columns.sparkline([float(i) for i in range(8)]) == "▁▂▃▄▅▆▇█"
    assert columns.sparkline([float(i) for i in range(800)], width=8) == "▁▂▃▄▅▆▇█"
