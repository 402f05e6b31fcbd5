"""/v1/packages: upload training code. The same content is kept once a project."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from oslo_db import exception as db_exception
from oslo_utils import uuidutils

from cml_nova import exception
from cml_nova.api import auth
from cml_nova.api.archives import check_package
from cml_nova.api.routing import Resource, body_pieces
from cml_nova.api.schemas import packages as schemas
from cml_nova.api.services import services
from cml_nova.api.views import iso, page_size, paged
from cml_nova.db import packages as db_packages
from cml_nova.db.models import Package
from cml_nova.storage.base import package_key

RESOURCE = Resource("packages", __name__)

_PIECE = 1 << 20


def view(package: Package) -> dict[str, Any]:
    """Represent a package."""
    return {"id": package.id, "name": package.name, "sha256": package.sha256, "size": package.size, "created_at": iso(package.created_at)}


@RESOURCE.operation("POST", "/packages", policy="packages:create", status=201, query=schemas.CREATE_QUERY, response=schemas.PACKAGE_BODY,
                    takes="application/gzip")
def create(name: str | None, sha256: str | None) -> Any:
    """Upload a package: a tar archive, plain or compressed with gzip. Content that the project has already gives that (200)."""
    project_id = auth.current().project_id
    with tempfile.TemporaryFile() as file:
        digest, size = _receive(file)
        if sha256 is not None and digest != sha256:
            raise exception.BadRequest(
                f"sha256: the body's digest is {digest}, not {sha256}; it was damaged on its way or is another file.", field="sha256")
        check_package(file, services().conf.api.max_package_unpacked_bytes)
        existing = _existing(project_id, digest)
        if existing is not None and services().storage.size(package_key(project_id, digest)) == size:
            return {"package": view(existing)}, 200
        services().storage.put(package_key(project_id, digest), _pieces(file))
        if existing is not None:
            return {"package": view(existing)}, 200
        package = Package(id=uuidutils.generate_uuid(), project_id=project_id, sha256=digest, size=size, name=name or f"{digest[:12]}.tar")
        try:
            with services().db.write() as session:
                db_packages.create(session, package)
                if services().storage.size(package_key(project_id, digest)) is None:
                    # The same content was deleted between the two steps above; nobody else can do so before this commits.
                    services().storage.put(package_key(project_id, digest), _pieces(file))
        except db_exception.DBDuplicateEntry:
            existing = _existing(project_id, digest)
            if existing is None:
                raise
            return {"package": view(existing)}, 200
    return {"package": view(package)}, 201


@RESOURCE.operation("GET", "/packages", policy="packages:list", query=schemas.LIST_QUERY, response=schemas.PACKAGE_LIST)
def index(limit: int | None, marker: str | None, name: str | None, sha256: str | None) -> Any:
    """List the project's packages, newest first."""
    size = page_size(limit)
    with services().db.read() as session:
        rows = db_packages.page(session, auth.current().project_id, size, marker, name, sha256)
    return paged("packages", [view(row) for row in rows], size)


@RESOURCE.operation("GET", "/packages/<package_id>", policy="packages:get", response=schemas.PACKAGE_BODY)
def show(package_id: str) -> Any:
    """Show a package."""
    return {"package": view(_find(package_id, "packages:get"))}


@RESOURCE.operation("DELETE", "/packages/<package_id>", policy="packages:delete", status=204)
def delete(package_id: str) -> Any:
    """Delete a package that no unfinished job needs."""
    package = _find(package_id, "packages:delete")
    with services().db.write() as session:
        if not db_packages.remove_unused(session, package_id):
            raise exception.Conflict(f"The package {package_id} is needed by a job that has not ended; cancel the job or wait for it.")
        # Before the commit: whoever uploads the same content now waits for it, and finds that it has to be stored anew.
        services().storage.delete(package_key(package.project_id, package.sha256))
    return "", 204


def _find(package_id: str, policy: str) -> Package:
    package = None
    if uuidutils.is_uuid_like(package_id):
        with services().db.read() as session:
            package = db_packages.get(session, package_id, auth.current().project_id)
    if package is None:
        raise exception.NotFound(f"There is no package {package_id[:80]!r} in this project; GET /v1/packages lists what there is.")
    auth.authorize(policy, {"project_id": package.project_id, "user_id": auth.current().user_id})
    return package


def _existing(project_id: str, digest: str) -> Package | None:
    with services().db.read() as session:
        return db_packages.get_by_content(session, project_id, digest)


def _receive(file: BinaryIO) -> tuple[str, int]:
    """Read the body into a file; give its sha256 and size in bytes.

    :raises TooLarge: it is larger than a package may be.
    """
    digest, size = hashlib.sha256(), 0
    for piece in body_pieces(services().conf.api.max_package_bytes, "max_package_bytes"):
        digest.update(piece)
        size += file.write(piece)
    if not size:
        raise exception.BadRequest("The body is empty; send the package's bytes.")
    return digest.hexdigest(), size


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE):
        yield piece
