"""``ml job metric show``."""

from __future__ import annotations

import argparse
from typing import Any

from cml_nova.clients.osc.base import Lister, find_job
from cml_nova.clients.osc.columns import sparkline
from cml_nova.clients.osc.job import add_job


class ShowMetric(Lister):
    """Show the values that a job's tasks have reported; with --summary, each metric in a line, on a terminal with its course"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("--name", metavar="<name>", help="Only this metric")
        parser.add_argument("--task", metavar="<role:index>", help="Only what this task has reported")
        parser.add_argument("--since", metavar="<time>", help="Only values reported since this time (ISO 8601)")
        parser.add_argument("--summary", action="store_true",
                            help="Show the first, last, least and greatest value of each metric, and on a terminal its course")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        query = {key: value for key in ("name", "task", "since") if (value := getattr(parsed_args, key)) is not None}
        series = list(self.client.job_metrics(find_job(self.client, parsed_args.job), **query))
        if parsed_args.summary:
            names = ("Name", "Task", "Count", "First", "Last", "Minimum", "Maximum")
            if self.app.stdout.isatty():
                return (*names, "Course"), [(*_summary(one), sparkline(_values(one))) for one in series]
            return names, [_summary(one) for one in series]
        return ("Name", "Task", "Step", "Value", "At"), [
            (one.name, one.task, point["step"], point["y"], point["x"]) for one in series for point in one.data]


def _values(series: Any) -> list[float]:
    return [point["y"] for point in series.data if point["y"] is not None]


def _summary(series: Any) -> tuple[Any, ...]:
    values = _values(series)
    if not values:
        return series.name, series.task, 0, None, None, None, None
    return series.name, series.task, len(values), values[0], values[-1], min(values), max(values)
