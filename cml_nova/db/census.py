"""How many there are of what, for operators."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cml_nova.db import leases
from cml_nova.db.clock import now
from cml_nova.db.models import Job, Worker
from cml_nova.states import Phase


@dataclass(frozen=True)
class Census:
    """Numbers at one time. ``jobs`` has every phase but DONE."""

    jobs: dict[str, int]
    leases_expired: int
    slow_teardowns: int
    workers_alive: int


def take(session: Session, alive_within: float, slow_after: float) -> Census:
    """Count.

    :param alive_within: seconds since its last heartbeat for which a worker counts as alive.
    :param slow_after: seconds after which a clean-up that has not ended may be a leak.
    """
    unfinished = Job.phase != Phase.DONE
    found = {str(phase): count for phase, count in session.execute(select(Job.phase, func.count()).where(unfinished).group_by(Job.phase))}

    def count(*conditions: object) -> int:
        return int(session.scalar(select(func.count()).where(*conditions)) or 0)  # type: ignore[arg-type]

    return Census(
        jobs={str(phase): found.get(phase, 0) for phase in Phase if phase != Phase.DONE},
        leases_expired=count(unfinished, leases.EXPIRED),
        slow_teardowns=count(Job.phase == Phase.TEARDOWN, Job.phase_started_at < now() - slow_after),
        workers_alive=count(Worker.seen_at > now() - alive_within),
    )
