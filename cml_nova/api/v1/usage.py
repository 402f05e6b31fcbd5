"""/v1/usage: what projects had, day by day, and what it cost. Deleted jobs count on."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from cml_nova import exception
from cml_nova.api import auth, cost
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import usage as schemas
from cml_nova.api.services import services
from cml_nova.db import jobs as db_jobs
from cml_nova.db import usage as db_usage

RESOURCE = Resource("usage", __name__)

_EPOCH = date(1970, 1, 1)
_MOST_DAYS = 366
_DEFAULT_DAYS = 30


@RESOURCE.operation("GET", "/usage", policy="usage:list", query=schemas.USAGE_QUERY, response=schemas.USAGE)
def index(start: str | None, end: str | None, all_projects: bool | None, project_id: str | None) -> Any:
    """List what the project had on each day (UTC) on which it had anything: nodes, accelerators, their cost."""
    if all_projects:
        auth.authorize("usage:list:all_projects")
    elif project_id is not None:
        raise exception.BadRequest("project_id: it needs all_projects=true, which operators may use.", field="project_id")
    with services().db.read() as session:
        first, last = _days(start, end, today=int(db_jobs.server_time(session) // db_usage.DAY))
        days = db_usage.by_day(session, project_id if all_projects else auth.current().project_id, first, last)
    return {"usage": [_view(project, day, days[project, day]) for project, day in sorted(days, key=lambda key: (key[1], key[0]))]}


def _days(start: str | None, end: str | None, today: int) -> tuple[int, int]:
    """Give the first and the last day, as numbers."""
    last = today if end is None else _day("end", end)
    first = last - _DEFAULT_DAYS + 1 if start is None else _day("start", start)
    if first > last:
        raise exception.BadRequest("start: it is after the end.", field="start")
    if last - first >= _MOST_DAYS:
        raise exception.BadRequest(f"start: from there to the end are more than {_MOST_DAYS} days; ask for fewer at a time.", field="start")
    return first, last


def _day(field: str, text: str) -> int:
    try:
        return (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        raise exception.BadRequest(f"{field}: {text!r} is not a day like 2026-01-31.", field=field) from None


def _view(project_id: str, day: int, had: db_usage.DayOfProject) -> dict[str, Any]:
    priced = had.cost is not None and bool(services().conf.cost.prices)
    return {
        "project_id": project_id, "date": (_EPOCH + timedelta(day)).isoformat(), "jobs": len(had.jobs),
        "node_seconds": round(had.node_seconds, 3), "accelerator_seconds": round(had.accelerator_seconds, 3),
        "cost": cost.rounded(had.cost) if priced and had.cost is not None else None,
        "currency": services().conf.cost.currency if priced else None,
    }
