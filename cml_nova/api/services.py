"""What request handlers work with: made once a process, handed to ``create_app``, so that tests hand in their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import flask
from keystoneauth1 import plugin as ks_plugin
from oslo_config import cfg
from oslo_policy import policy

from cml_nova import exception
from cml_nova.api.memory import Memory
from cml_nova.compute import catalog as compute_catalog
from cml_nova.compute import session as compute_session
from cml_nova.compute.catalog import Flavor, Image
from cml_nova.compute.limits import UnifiedLimits
from cml_nova.context import RequestContext
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import Storage

_KEY = "cml_nova"


class Conductor(Protocol):
    """The part of the conductor's client that the API uses."""

    def job_wake(self, context: RequestContext, job_id: str) -> None: ...


class Catalog(Protocol):
    """What the asking user may use in the cloud; see ``cml_nova.compute.catalog.Catalog``."""

    def images(self) -> Sequence[Image]: ...
    def get_image(self, name_or_id: str) -> Image: ...
    def find_image(self, framework: str, version: str | None = None) -> Image: ...
    def flavors(self) -> Sequence[Flavor]: ...
    def get_network(self, name_or_id: str) -> str: ...
    def has_project(self, project_id: str) -> bool | None: ...


#: makes a catalog that acts with the token of whoever asks (None without Keystone)
CatalogFactory = Callable[[ks_plugin.BaseAuthPlugin | None], Catalog]


def user_catalogs(conf: cfg.ConfigOpts) -> CatalogFactory:
    """Make catalogs from the cloud that is configured."""
    connections = compute_session.UserConnections(conf)

    def make(auth: ks_plugin.BaseAuthPlugin | None) -> Catalog:
        if auth is None:
            raise exception.ServiceUnavailable("Names of images and flavors can't be looked up without Keystone ([api] auth_strategy).")
        return compute_catalog.Catalog(connections.connect(auth))

    return make


@dataclass(frozen=True)
class Services:
    """All that handlers need besides the request."""

    conf: cfg.ConfigOpts
    db: Database
    storage: Storage
    conductor: Conductor
    catalog_factory: CatalogFactory
    vault: Vault
    enforcer: policy.Enforcer
    #: check each response against its schema: for tests, which so keep the schemas honest
    validate_responses: bool = False
    #: limits that Keystone keeps, where that is configured
    unified_limits: UnifiedLimits = field(default_factory=UnifiedLimits)
    #: what users' look-ups have given lately; see ``lookups``
    lookups: Memory[Any] = field(default_factory=lambda: Memory(size=1000))

    def attach(self, app: flask.Flask) -> None:
        app.extensions[_KEY] = self


def services() -> Services:
    """The services of the application that handles the current request."""
    return cast(Services, flask.current_app.extensions[_KEY])


def catalog() -> Catalog:
    """The catalog as the current user sees it; asks the cloud only when used."""
    return services().catalog_factory(flask.request.environ.get("keystone.token_auth"))
