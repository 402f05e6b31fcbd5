"""Every error as JSON: ``{"error": {"code", "title", "message", ...}}``, the form that OpenStack's clients show to users."""

from __future__ import annotations

from typing import Any

import flask
from oslo_log import log as logging
from oslo_policy import policy
from werkzeug import exceptions as http

from cml_nova import exception

LOG = logging.getLogger(__name__)

#: seconds after which those whom we couldn't serve may ask again
_RETRY_AFTER = 10
_UNEXPECTED = ("The service met an unexpected error. It is in the service's log under this request's id; "
               "please pass the id on to the operator.")


def register(app: flask.Flask) -> None:
    """Make the application answer errors in this form."""
    app.register_error_handler(exception.CMLError, _own)
    app.register_error_handler(http.HTTPException, _http)
    app.register_error_handler(policy.PolicyNotAuthorized, _not_authorized)
    app.register_error_handler(policy.InvalidScope, _wrong_scope)
    app.register_error_handler(Exception, _unexpected)


def render(code: int, title: str, message: str, slug: str, **detail: Any) -> flask.Response:
    """Make an error response."""
    response = flask.jsonify({"error": {"code": code, "title": title, "message": message, "slug": slug, **detail}})
    response.status_code = code
    return response


def _own(error: exception.CMLError) -> flask.Response:
    if error.code == 500:
        return _unexpected(error)
    if error.code > 500:
        LOG.warning("Answered %s: %s", error.code, error.message, exc_info=error.__cause__)
    response = render(error.code, error.title, error.message, error.slug, **error.detail)
    if error.code == 503:
        response.headers["Retry-After"] = str(_RETRY_AFTER)
    if error.code == 401:
        response.headers["WWW-Authenticate"] = flask.g.get("challenge", "Keystone")
    return response


def _http(error: http.HTTPException) -> flask.Response:
    code = error.code or 500
    title = error.name
    message = str(error.description)
    if code == 404 and flask.request.url_rule is None:
        message = f"There is nothing at {flask.request.path}; GET /v1/openapi.json lists what there is."
    response = render(code, title, message, title.lower().replace(" ", "_"))
    if isinstance(error, http.MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _not_authorized(error: policy.PolicyNotAuthorized) -> flask.Response:
    rule = str(error).split(" is disallowed")[0]
    return _own(exception.Forbidden(
        f"Your roles in this project do not allow this: policy {rule}. Ask an administrator of the project for a role that does."))


def _wrong_scope(error: policy.InvalidScope) -> flask.Response:
    return _own(exception.Forbidden("The token must be scoped to a project; ask Keystone for one that is."))


def _unexpected(error: Exception) -> flask.Response:
    LOG.exception("Unexpected error on %s %s", flask.request.method, flask.request.path)
    return render(500, "Internal Server Error", _UNEXPECTED, "internal_error")
