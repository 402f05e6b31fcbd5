"""The WSGI application: read ``create_app`` from the bottom for the way of a request."""

from __future__ import annotations

from typing import Any

import flask
from oslo_config import cfg
from oslo_middleware import healthcheck, http_proxy_to_wsgi, request_id
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from cml_nova import policy
from cml_nova.api import auth, errors, microversion, openapi
from cml_nova.api.services import CatalogFactory, Conductor, Services
from cml_nova.api.v1 import RESOURCES
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage import Storage


def create_app(
    conf: cfg.ConfigOpts, *, db: Database, storage: Storage, conductor: Conductor, catalog_factory: CatalogFactory, vault: Vault,
    validate_responses: bool = False,
) -> Any:
    """Make the application.

    :param conductor: client that is told of jobs that want attention.
    :param catalog_factory: gives a catalog that acts with the token of whoever asks.
    :param validate_responses: check answers against their schemas, for tests.
    """
    services = Services(conf, db, storage, conductor, catalog_factory, vault, policy.make_enforcer(conf), validate_responses)
    # From the inside out, so the last one sees a request first.
    app: Any = make_flask_app(services)
    # Tokens are checked inside of what must work without one, and outside of all that asks who is there.
    if conf.api.auth_strategy == "keystone":
        app = auth.require_tokens(app, conf)
    # Load balancers ask for health without a token. How large a body may be is each route's business (see routing).
    app = DispatcherMiddleware(app, {"/healthcheck": healthcheck.Healthcheck(app, conf)})
    # The id is there before anything can be logged or fail.
    app = request_id.RequestId(app)
    # The client's scheme and host, before anybody makes a URL.
    return http_proxy_to_wsgi.HTTPProxyToWSGI(app, conf)


def make_flask_app(services: Services) -> flask.Flask:
    """Make the innermost application: routes, and what each request passes before and after them."""
    app = flask.Flask("cml_nova", static_folder=None)
    app.url_map.strict_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    services.attach(app)
    errors.register(app)
    app.before_request(auth.load_context)
    app.before_request(microversion.read)
    # Flask runs these in reverse order.
    app.after_request(microversion.write)
    app.after_request(auth.assert_authorized)
    app.add_url_rule("/", "versions", versions)
    app.add_url_rule("/v1", "version", version)
    for resource in RESOURCES:
        app.register_blueprint(resource)
    document = openapi.document(RESOURCES)
    app.add_url_rule("/v1/openapi.json", "openapi", lambda: _open(document))
    return app


def versions() -> Any:
    """List the versions of the API, for clients that look for one."""
    return _open({"versions": [_version()]})


def version() -> Any:
    """Describe version 1."""
    return _open({"version": _version()})


def _open(answer: dict[str, Any]) -> dict[str, Any]:
    auth.authorize(auth.OPEN)
    return answer


def _version() -> dict[str, Any]:
    root = flask.request.root_url.rstrip("/")
    return {
        "id": "v1.0", "status": "CURRENT", "version": microversion.maximum(),
        "min_version": microversion.minimum(), "max_version": microversion.maximum(),
        "links": [{"rel": "self", "href": f"{root}/v1/"}],
    }
