"""Holds what becomes of jobs against what may become of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cml_nova import exception
from cml_nova.states import Phase, Target, may_follow
from tests.harness.job_model.site import CONTEXT, Row, Site

_RESULT = ("outcome", "cause", "status_reason", "exit_code", "failed_task")



@dataclass
class Known:
    """What the model itself knows of a job."""

    max_restarts: int
    forget: bool = False
    #: generation and id of the reports that were applied
    applied: set[tuple[int, str]] = field(default_factory=set)


class Oracle:
    """Sees how jobs' rows change, and what comes of each report.

    :raises AssertionError: from each method: something is as it may not be.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.known: dict[str, Known] = {}

    def report(self, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        """Give the conductor a report, and see to it that it takes it, or leaves everything as it is.

        :raises LeaseLost: it was refused.
        """
        before, row = self.site.everything_of(job_id), self.site.rows().get(job_id)
        holds = row is not None and row.worker_id is not None and row.generation == generation
        known = self.known[job_id]
        repeated = (generation, report["id"]) in known.applied
        try:
            answer = self.site.manager.job_report(CONTEXT, job_id, generation, report)
        except exception.LeaseLost:
            assert not holds, f"the owner's report was refused: {report}"
            assert self.site.everything_of(job_id) == before, f"a report that was refused has changed something: {report}"
            raise
        assert holds and row is not None, f"a stale report of generation {generation} was taken: {report}, {row}"
        if repeated:
            assert self.site.everything_of(job_id) == before, f"a report that came twice has changed something: {report}"
        known.applied.add((generation, report["id"]))
        assert answer["target"] == row.target
        return answer

    def check_changes(self) -> None:
        """Hold what has changed since the last time against the rules."""
        for old, new in self.site.changes():
            check_change(old, new, self.site.now)
            known, options = self.known[old.id], self.site.conf.conductor
            assert new.error_restarts <= known.max_restarts and new.infra_restarts <= options.max_infra_restarts, f"{new}"
            if new.generation > old.generation and old.worker_id is not None:
                assert self.site.now - self.site.well_since >= options.lease_time, f"taken over right after an outage: {old} -> {new}"

    def check_ends(self) -> None:
        """See that every job has come to its end."""
        rows = self.site.rows()
        for job_id, known in self.known.items():
            if known.forget:
                assert job_id not in rows, f"{job_id} was to be forgotten: {rows[job_id]}"
            else:
                assert rows[job_id].phase == Phase.DONE, f"stuck: {rows[job_id]}"


def check_change(old: Row, new: Row, now: float) -> None:
    """:raises AssertionError: a job's row may not change in this way."""
    what = f"{old} -> {new}"
    assert may_follow(old.phase, new.phase), what
    assert new.generation - old.generation in (0, 1), f"the generation only grows, by one: {what}"
    if new.generation > old.generation:
        assert new.worker_id is not None, what
        assert old.worker_id is None or old.lease_expires_at is None or old.lease_expires_at < now, f"taken from a living owner: {what}"
    elif new.worker_id is not None:
        assert new.worker_id == old.worker_id, f"an owner without a claim: {what}"
    if old.outcome is not None:
        assert [getattr(new, name) for name in _RESULT] == [getattr(old, name) for name in _RESULT], f"another end: {what}"
    assert new.target == old.target or new.target == Target.DELETE, what
    assert new.forget >= old.forget, what
    if new.phase == Phase.DONE:
        assert new.worker_id is None and new.outcome is not None, what
    assert old.attempt <= new.attempt <= old.attempt + 1, what
    assert new.attempt <= 1 + new.error_restarts + new.infra_restarts, f"an attempt too many: {what}"
    assert old.error_restarts <= new.error_restarts and old.infra_restarts <= new.infra_restarts, what
    assert old.started_at in (None, new.started_at), what
