"""The API in the process: a database file, a storage directory, and a cloud whose images and flavors are listed here."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from oslo_config import cfg
from sqlalchemy import func, select
from werkzeug.test import Client, TestResponse

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.api.app import create_app
from cml_nova.compute.catalog import Flavor, Image
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.db.models import Base
from cml_nova.hints import nearest
from cml_nova.secrets import Vault
from cml_nova.storage.file import FileStorage

IMAGES = [
    Image("11111111-0000-4000-8000-000000000001", "tensorflow", "tensorflow", "2.21.0", "cml", 2200, 0, 0, "active"),
    Image("11111111-0000-4000-8000-000000000002", "mxnet", "mxnet", "1.9.1", "cml", 2200, 0, 0, "active"),
    Image("11111111-0000-4000-8000-000000000003", "plain", "custom", "3.11", "cml", 2200, 0, 0, "active"),
    Image("11111111-0000-4000-8000-000000000004", "debian", None, None, None, None, 0, 0, "active"),
    Image("11111111-0000-4000-8000-000000000005", "huge", "custom", "1", None, None, 1 << 20, 0, "active"),
]
FLAVORS = [
    Flavor("1", "cpu.small", 1, 512, 1, None, 0),
    Flavor("2", "gpu.small", 4, 8192, 20, "VGPU", 1),
    Flavor("3", "gpu.large", 16, 65536, 100, "VGPU", 4),
]


class FakeCatalog:
    """The catalog's contract over the lists above."""

    def images(self) -> list[Image]:
        return [image for image in IMAGES if image.framework]

    def get_image(self, name_or_id: str) -> Image:
        for image in IMAGES:
            if name_or_id in (image.name, image.id):
                return image
        raise exception.NotFound(
            f"There is no image {name_or_id!r} that you may use; {nearest(name_or_id, 'images', (i.name for i in IMAGES))}.")

    def find_image(self, framework: str, version: str | None = None) -> Image:
        found = [image for image in IMAGES if image.framework == framework]
        for image in found:
            if version in (None, image.framework_version):
                return image
        versions = [str(image.framework_version) for image in found]
        raise exception.NotFound(f"There is no image for {framework} {version}; {nearest(version or '', 'versions', versions)}.")

    def flavors(self) -> list[Flavor]:
        return FLAVORS

    def get_network(self, name_or_id: str) -> str:
        if name_or_id != "local-net":
            raise exception.NotFound(
                f"There is no network {name_or_id!r} that you may use; {nearest(name_or_id, 'networks', ['local-net'])}.")
        return "22222222-0000-4000-8000-000000000001"

    def has_project(self, project_id: str) -> bool | None:
        return project_id != "nobody"


@dataclass
class FakeConductor:
    woken: list[str] = field(default_factory=list)

    def job_wake(self, context: Any, job_id: str) -> None:
        self.woken.append(job_id)


@dataclass
class Api:
    """The application with what is behind it. ``request`` acts as somebody: a user, a project, roles."""

    app: Any
    conf: cfg.ConfigOpts
    db: Database
    storage: FileStorage
    conductor: FakeConductor
    vault: Vault

    def request(self, method: str, path: str, *, project: str | None = "red", user: str = "ann", roles: str = "member",
                headers: dict[str, str] | None = None, **more: Any) -> TestResponse:
        who = {} if project is None else {"X-User-Id": user, "X-Project-Id": project, "X-Roles": roles}
        return Client(self.app).open(path, method=method, headers=who | (headers or {}), **more)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.request("POST", path, **more)

    def create(self, **more: Any) -> dict[str, Any]:
        """Create a job; give its representation."""
        who = {key: more.pop(key) for key in ("project", "user") if key in more}
        answer = self.post("/v1/jobs", json={"job": job(**more)}, **who)
        assert answer.status_code == 202, answer.text
        created: dict[str, Any] = answer.json["job"]  # type: ignore[index]
        return created

    def upload(self, data: bytes, query: str = "name=code", **who: Any) -> TestResponse:
        return self.post(f"/v1/packages?{query}", data=data, content_type="application/gzip", **who)

    def rows(self) -> dict[str, int]:
        """Number of rows of each table, without what the migration has put there."""
        with self.db.read() as session:
            return {name: session.execute(select(func.count()).select_from(table)).scalar_one()
                    for name, table in Base.metadata.tables.items() if name != "quota_locks"}

    def stored(self) -> list[str]:
        """Every file that the storage holds, complete or not."""
        root = Path(self.conf.storage.path)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def job(**changes: Any) -> dict[str, Any]:
    """A good job request with some keys changed; None takes a key away."""
    document = {"name": "digits", "framework": {"name": "tensorflow"}, "flavor": "gpu.small", "workers": 2, "command": "python train.py"}
    return {key: value for key, value in (document | changes).items() if value is not None}


def archive(*members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """Make a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def make_conf(path: Path, **api: Any) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("connection", f"sqlite:///{path}/db.sqlite", "database")
    conf.set_override("path", str(path / "storage"), "storage")
    conf.set_override("auth_strategy", "none", "api")
    conf.set_override("public_url", "wss://cloud.test/tunnel", "tunnel")
    for name, value in api.items():
        conf.set_override(name, value, "api")
    return conf


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema, to copy: applying the migrations takes longer than most tests."""
    conf = make_conf(tmp_path_factory.mktemp("empty"))
    db = Database(conf)
    migration.sync(db)
    db.engine.dispose()
    return Path(conf.database.connection.removeprefix("sqlite:///"))


def make_api(path: Path, empty_database: Path, *, validate_responses: bool = True) -> Api:
    """Make an application of its own in a directory.

    :param validate_responses: see ``create_app``; False for what operators run.
    """
    conf = make_conf(path, max_body_bytes=65536, max_package_bytes=65536, max_package_unpacked_bytes=200_000, max_limit=100)
    shutil.copy(empty_database, conf.database.connection.removeprefix("sqlite:///"))
    db, storage, conductor, vault = Database(conf), FileStorage(conf), FakeConductor(), Vault([Fernet.generate_key().decode()])
    app = create_app(conf, db=db, storage=storage, conductor=conductor, catalog_factory=lambda auth: FakeCatalog(), vault=vault,
                     validate_responses=validate_responses)
    return Api(app, conf, db, storage, conductor, vault)


@pytest.fixture
def api(tmp_path: Path, empty_database: Path) -> Iterator[Api]:
    """An application that only this test uses."""
    made = make_api(tmp_path, empty_database)
    yield made
    made.db.engine.dispose()


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Api]:
    """An application for all tests of a module that change nothing in it, or mind nothing."""
    made = make_api(tmp_path_factory.mktemp("shared"), empty_database)
    yield made
    made.db.engine.dispose()
