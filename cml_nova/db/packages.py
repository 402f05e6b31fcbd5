"""Training packages: one row for each content that a project uploaded."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, delete, exists, or_, select
from sqlalchemy.orm import Session

from cml_nova import exception
from cml_nova.db import jobs
from cml_nova.db.models import Job, Package
from cml_nova.states import Phase


def create(session: Session, package: Package) -> Package:
    """Write a new package.

    :raises DBDuplicateEntry: the project has this content already (from oslo.db).
    """
    package.created_at = jobs.server_time(session)
    session.add(package)
    session.flush()
    return package


def get(session: Session, package_id: str, project_id: str | None = None) -> Package | None:
    """Find a package by id; with ``project_id`` only within that project."""
    query = select(Package).where(Package.id == package_id)
    if project_id is not None:
        query = query.where(Package.project_id == project_id)
    return session.scalars(query).one_or_none()


def get_by_content(session: Session, project_id: str, sha256: str) -> Package | None:
    """Find a project's package by its content."""
    return session.scalars(select(Package).where(Package.project_id == project_id, Package.sha256 == sha256)).one_or_none()


def page(session: Session, project_id: str | None, limit: int, marker: str | None = None, name: str | None = None,
         sha256: str | None = None) -> Sequence[Package]:
    """List packages, newest first.

    :raises BadRequest: the marker is no package of the project.
    """
    query = select(Package)
    if project_id is not None:
        query = query.where(Package.project_id == project_id)
    if name is not None:
        query = query.where(Package.name == name)
    if sha256 is not None:
        query = query.where(Package.sha256 == sha256)
    if marker is not None:
        last = get(session, marker, project_id)
        if last is None:
            raise exception.BadRequest(f"marker: there is no package {marker!r}; give the id of the last one of the page before.")
        query = query.where(or_(
            Package.created_at < last.created_at, and_(Package.created_at == last.created_at, Package.id < last.id)))
    return session.scalars(query.order_by(Package.created_at.desc(), Package.id.desc()).limit(limit)).all()


def remove_unused(session: Session, package_id: str) -> bool:
    """Remove a package unless a job that is not done needs it; tell whether it was removed."""
    needed = exists().where(Job.package_id == package_id, Job.phase != Phase.DONE)
    statement = delete(Package).where(Package.id == package_id, ~needed)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return bool(result.rowcount)  # type: ignore[attr-defined]
